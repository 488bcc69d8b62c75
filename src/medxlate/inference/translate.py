"""``medxlate translate``: a folder of source images becomes a folder of target images."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from medxlate.artifacts.hub import located
from medxlate.artifacts.info import read_model
from medxlate.artifacts.runs import find_model
from medxlate.base.distributed import ranks
from medxlate.base.errors import ImageError
from medxlate.base.events import Listener, Warned, silent
from medxlate.base.files import check_free, sha256, write_json
from medxlate.base.journal import Entry
from medxlate.images.grouping import FoundScans
from medxlate.images.pseudonym import KEY_BYTES, Phi, read_key
from medxlate.inference.bids import bids_layout, wants_bids
from medxlate.inference.engine import Pending, validated_compute
from medxlate.inference.finite import no_number
from medxlate.inference.in_memory import restored
from medxlate.inference.inputs import (
    Reader,
    SliceBatch,
    find_inputs,
    refuse_if_nothing,
    sort_out,
)
from medxlate.inference.names import PATIENT_TAGS, output_names, patients_of
from medxlate.inference.out_of_distribution import Looks, total
from medxlate.inference.outputs import Outputs, record
from medxlate.inference.request import MARKER, check_translation, compile_choice
from medxlate.inference.stream import Unit, stream, units_of
from medxlate.inference.translator import Translator
from medxlate.inference.work import Work, stamp, working

Written = tuple[str, int, str]  # input file, its frame, output
__all__ = ["TranslateResult", "Translator", "translate"]


@dataclass(frozen=True)
class TranslateResult:
    """The result of ``translate``.

    Attributes:
        out: The folder that was written.
        files: How many files it holds.
        slices: How many slices were translated.
        failed: Files that could not be translated, with the reasons.
        left_out: Files that are left out of any data (copies, localizers...), with the reasons.
        notes: Sentences on doubtful inputs, such as images that look unlike the source.
        seconds: How long it took.
    """

    out: Path
    files: int
    slices: int
    failed: dict[str, str]
    left_out: dict[str, str]
    notes: tuple[str, ...]
    seconds: float


def translate(
    inputs: Path | str,
    *,
    out: Path | str,
    model: Path | str = "runs/latest",
    source: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    dicom_modality: str = "",
    force: bool = False,
    volume: int | None = None,
    phi: Phi = "pseudonymise",
    key: Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    compiling: str = "auto",
    batch_size: int | None = None,
    tile: int = 0,
    bids: bool | None = None,
    bids_suffix: str = "",
    overwrite: bool = False,
    listener: Listener = silent,
) -> TranslateResult:
    """Translate every image below a folder to the target modality.

    Outputs have the format, folder tree, size and geometry of the inputs: DICOM becomes a derived
    series, NIfTI, NRRD and MetaImage a volume (CT: int16 HU), TIFF stays TIFF, and PNG, JPEG and
    WebP become PNG (16-bit if the target has more than 8 bits). Each output is marked as
    synthetic, and ``translation.json`` lists the input of each output. A call that was stopped is
    continued by the next one; the processes of a torchrun job share the scans.

    Args:
        inputs: Folder, searched recursively, or one image.
        out: The folder to write; it must not exist, or be empty.
        model: A model folder, a run folder, ``runs/latest``, or ``hf://OWNER/NAME@REVISION``.
        source: The source modality; needed where the model has several.
        include: Glob patterns; where there are any, only files that match one are taken.
        exclude: Glob patterns of file names to leave out.
        dicom_modality: Take only DICOM of this Modality; default: as when the source was prepared.
        force: Whether to read DICOM whose Modality does not match the name of the source.
        volume: Which volume of 4-D files, from 0; default: as when the source was prepared.
        phi: What of a patient's attributes reaches derived DICOM and the paths of its files:
            keep, pseudonymise or remove; see ``docs/reference/dicom-out.md``.
        key: A dataset's ``pseudonym.key``, for the same pseudonyms as in that dataset; default: a
            key that nobody keeps when the result is there.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto (bf16 where the hardware has it and the model was validated in it), fp32
            or bf16.
        compiling: auto (on a GPU, for many slices), on or off.
        batch_size: Slices computed at once; None: by the device. Halved where memory runs out.
        tile: Compute each slice in overlapping tiles of this side, pixels, a multiple of 4; 0:
            only where the whole does not fit into memory. The result is not that of the whole.
        bids: Whether the inputs are a BIDS data set, so that the result is a BIDS derivative data
            set; default: where they have a ``dataset_description.json``. Then images of the source
            alone are taken, and ``out`` may lie in ``derivatives/``.
        bids_suffix: What BIDS calls the target, such as ``T1w``; default: by its name.
        overwrite: Whether an older translation in ``out`` is replaced.
        listener: Receives progress.

    Raises:
        OutputError: ``out`` cannot be written, or another process is writing it.
        ModelError: The model cannot be used.
        ImageError: No image could be read.
        CapacityError: Memory does not even hold a tile.
    """
    began = time.monotonic()
    inputs, out, model = Path(inputs), Path(out), located(Path(model), listener)
    check_translation(
        inputs,
        out=out,
        model=model,
        phi=phi,
        compiling=compiling,
        tile=tile,
        overwrite=overwrite,
        bids=bids,
    )
    choice = compile_choice(compiling)
    secret = None if key is None else read_key(key)
    folder = find_model(model, "a translator", listener)
    info = read_model(folder)
    compute = validated_compute(info, device, precision, listener=listener)
    translator = Translator(
        folder,
        source=source,
        compute=compute,
        batch_size=batch_size,
        tile=tile,
        listener=listener,
    )
    reader = translator.reader.choosing(dicom_modality, volume)
    layout = None
    if wants_bids(inputs, bids):
        layout = bids_layout(
            inputs,
            source=translator.source,
            target=info.target,
            suffix=bids_suffix,
            include=include,
        )
    found = find_inputs(
        inputs,
        reader.recipe,
        name=translator.source,
        include=layout.include if layout else include,
        exclude=[*exclude, *(layout.exclude if layout else ())],
        tags=PATIENT_TAGS,
        force=force,
    )
    whole = units_of(found.scans, translator.batch_size)
    count = sum(unit.slices for unit in whole)

    def draw() -> dict[str, Any]:
        check_free(out, marker=MARKER, overwrite=overwrite)
        return {
            "key": secrets.token_hex(KEY_BYTES),
            "when": datetime.now().isoformat(timespec="seconds"),
            "compiled": translator.compile_where_it_pays(choice, count // ranks().count, listener),
        }

    options = [phi, tile, choice, secret and hashlib.sha256(secret).hexdigest()]
    options += [layout.suffix] if layout else []
    mark = stamp(translator.facts() | {"options": options, "skipped": found.skipped}, found.scans)
    with working(out, mark, draw, listener) as work:
        if not work.placed:
            check_free(out, marker=MARKER, overwrite=overwrite)
        run = mark + (work.drawn["when"] if phi == "keep" else "")  # only then files hold the time
        when = datetime.fromisoformat(work.drawn["when"])
        made = translator.made(phi, secret or bytes.fromhex(work.drawn["key"]), run, when)
        patients = patients_of(found.scans, phi, made.key)
        if layout:
            names = layout.names(found.scans)
        else:
            names = output_names(found.scans, phi=phi, patients=patients)
        if not work.placed:
            text = f"Translating {count} {made.source} slices to {made.target}"
            work.report(text, whole, listener)
            missing = work.journal.missing(whole)
            if work.drawn["compiled"] and missing and not translator.engine.padded:
                translator.compile_where_it_pays("on", count, listener)
            _translate(work, missing, translator, reader, Outputs(work.out, names, made), listener)
        entries = list(work.journal.entries(whole))
        written, failed, left_out = _sorted(entries, found, inputs)
        if ranks().is_first and not work.placed:
            if layout:
                layout.describe(work.out, out, made, found.scans, written)
            write_json(work.out / MARKER, record(made, written, failed, found.scans, patients))
            work.put()
    notes = tuple(total(Looks.noted(each) for each in entries).notes(translator.source))
    for note in notes:
        listener(Warned(note))
    seconds = round(time.monotonic() - began, 3)
    slices = sum(entry["slices"] for entry in entries)
    return TranslateResult(out, len(written), slices, failed, left_out, notes, seconds)


def _translate(
    work: Work,
    missing: Sequence[Unit],
    translator: Translator,
    reader: Reader,
    outputs: Outputs,
    listener: Listener,
) -> None:
    """Translate the units that are missing, and note each when it is finished."""
    failed: dict[str, str] = {}
    looks: list[Looks] = []

    def write(batch: SliceBatch, squares: Pending | None) -> None:
        failed.update(batch.failed)
        looks.append(Looks.of_batch(batch, translator.greys))
        for item, fake in zip(batch.items, restored(batch, squares), strict=True):
            try:
                if not np.isfinite(fake).all():
                    raise ImageError(no_number("translator", item.number))
                outputs.put(item, fake)
            except ImageError as problem:
                failed[item.slice.file] = str(problem)

    with work.journal.noting() as note:

        def ended(unit: Unit) -> None:
            written, slices = outputs.taken()
            keys = [(*key, name) for key, name in written.items()]
            entry = {"written": keys, "slices": slices, "failed": dict(failed)}
            files = {name: sha256(work.out / name) for name in written.values()}
            note(unit, {**entry, "looks": asdict(total(looks))}, files)
            failed.clear()
            looks.clear()

        stream(
            missing,
            reader,
            translator.engine,
            write,
            ended,
            batch_size=translator.batch_size,
            listener=listener,
        )


def _sorted(
    entries: Sequence[Entry], found: FoundScans, inputs: Path
) -> tuple[list[Written], dict[str, str], dict[str, str]]:
    """Return what became of the inputs.

    Args:
        entries: Those of the units.
        found: The inputs.
        inputs: Where they were searched.

    Returns:
        Input file, frame and output of each file; what failed, and what sound data leaves out,
        too, with reasons.

    Raises:
        ImageError: There are no outputs.
    """
    failed, left_out = sort_out(found.skipped)
    failed |= {name: why for entry in entries for name, why in entry["failed"].items()}
    written: list[Written] = [tuple(item) for entry in entries for item in entry["written"]]
    refuse_if_nothing(failed, found, len(written), inputs)
    return written, failed, left_out
