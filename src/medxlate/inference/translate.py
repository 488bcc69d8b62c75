"""``medxlate translate``: a folder of source images becomes a folder of target images."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from medxlate.dataset.index import KEY_BYTES, read_key
from medxlate.errors import ImageError, UsageError, nearest
from medxlate.events import Listener, silent
from medxlate.files import check_free
from medxlate.images.pseudonym import PHI, Phi
from medxlate.images.stack import FloatArray
from medxlate.inference.arrays import Spacing, Volume, restored, squares_of, translated
from medxlate.inference.choices import check_compile, validated_compute
from medxlate.inference.engine import Engine, Pending, starting_size
from medxlate.inference.inputs import (
    Batch,
    Input,
    Reader,
    find_inputs,
)
from medxlate.inference.journal import Work, journal, stamp, tell_stage, work_folder, working
from medxlate.inference.names import output_names
from medxlate.inference.outputs import Made, Outputs
from medxlate.inference.record import MARKER, PATIENT_TAGS, finish, patients_of
from medxlate.inference.stream import stream
from medxlate.inference.tiles import MULTIPLE
from medxlate.inference.units import Unit, units_of
from medxlate.models.compiling import Choice, compile_where_it_pays
from medxlate.models.device import Compute
from medxlate.models.folder import ModelInfo, load_generator, read_model
from medxlate.models.runs import find_model
from medxlate.ranks import ranks


@dataclass(frozen=True)
class TranslateResult:
    """What ``translate`` did.

    Attributes:
        out: The folder that was written.
        files: How many files it holds.
        slices: How many slices were translated.
        failed: Files that could not be translated, and why.
        left_out: Files that sound data leaves out, too (copies, localizers...), and why.
        seconds: How long it took.
    """

    out: Path
    files: int
    slices: int
    failed: dict[str, str]
    left_out: dict[str, str]
    seconds: float


class Translator:
    """A trained generator with everything needed to use it.

    Args:
        model: A model folder, a run folder, or ``runs/latest``.
        source: The source modality; needed where the model has several.
        compute: Device and precision; None: chosen automatically.
        batch_size: How many slices are computed at once to begin with; None: by the device.
        tile: Compute in tiles of this side, pixels, a multiple of 4; 0: only where the whole does
            not fit into memory.
        listener: Told what fits.

    Raises:
        ModelError: The model is missing, damaged or cannot translate.
    """

    def __init__(
        self,
        model: Path,
        *,
        source: str | None = None,
        compute: Compute | None = None,
        batch_size: int | None = None,
        tile: int = 0,
        listener: Listener = silent,
    ) -> None:
        folder = find_model(model)
        self.info: ModelInfo = read_model(folder)
        self.compute = compute or validated_compute(self.info, listener=listener)
        self.source, network = load_generator(folder, self.info, source)
        self.network = self.compute.place(network)
        self.reader = Reader(
            self.info.translators[self.source].recipe,
            self.info.prepared_size,
            self.info.image_size,
        )
        self.batch_size = batch_size or starting_size(self.compute, self.info.image_size)
        self.engine = Engine(
            self.network,
            self.compute,
            batch_size=self.batch_size,
            tile=tile,
            tiles=True,
            listener=listener,
        )

    @classmethod
    def load(cls, model: Path | str, *, source: str | None = None) -> Translator:
        """Load a translator; device and precision are chosen automatically.

        Args:
            model: A model folder, a run folder, or ``runs/latest``.
            source: The source modality; needed where the model has several.

        Raises:
            ModelError: The model is missing, damaged, cannot translate, or has several sources or
                not this one.
        """
        return cls(Path(model), source=source)

    def __call__(self, volume: Volume, *, spacing: Spacing = (1.0, 1.0, 1.0)) -> FloatArray:
        """Translate a volume, as ``translate`` does the same in a file.

        Args:
            volume: [slices, H, W] in the source's physical values (HU, SUVbw...), oriented as the
                recipe's plane is shown (axial: from the feet up, front on top, the patient's right
                on the left); or [H, W], a single image. A recipe with percentiles (MR) takes them
                over the whole array.
            spacing: mm between slices, rows and columns, which decides the aspect ratio.

        Returns:
            float32 of the same shape, in the target's physical values. Near-empty slices become
            the target's black.

        Raises:
            ImageError: The array cannot be used with the source's recipe.
            UsageError: It is no volume.
        """
        squares = squares_of(volume, self.reader, spacing)
        fake = translated(squares, self.engine, self.batch_size)
        return self.info.target_recipe.physical(fake).reshape(volume.shape)

    def translate(self, batch: list[Input]) -> list[FloatArray]:
        """Translate slices that were read already.

        Near-empty slices, which no network was trained on, become the target's black.

        Args:
            batch: Slices, as ``reader`` reads them.

        Returns:
            Target images, float32 [H, W] in [-1, 1], each of its input's original size in pixels.

        Raises:
            CapacityError: Memory does not even hold a tile.
        """
        prepared = Batch.of(batch, {})
        images = prepared.images
        return list(restored(prepared, None if images is None else self.engine.start(images)))

    def facts(self) -> dict[str, Any]:
        """Return what a translation depends on beside its inputs, as JSON can hold it."""
        device = f"{self.compute.device.type} {self.compute.precision}"
        model = self.info.model_dump(mode="json")
        return {"model": model, "from": self.source, "device": device, "batch": self.batch_size}

    def made(self, phi: Phi, key: bytes, run: str, when: datetime) -> Made:
        """Return how images are made by this; see ``Made``.

        Args:
            phi: What of a patient's attributes is kept: keep, pseudonymise or remove.
            key: The secret of the pseudonyms.
            run: What tells this translation from others.
            when: When it was begun.
        """
        translator = self.info.translators[self.source]
        return Made(
            source=self.source,
            target=self.info.target,
            recipe=self.info.target_recipe,
            generator=translator.weights.sha256,
            phi=phi,
            key=key,
            run=run,
            when=when,
        )

    def compile_where_it_pays(self, choice: Choice, slices: int, listener: Listener) -> bool:
        """Compile the generator for batches of the engine's size, or not, and tell why.

        Args:
            choice: auto (where it saves more time than it takes), on or off.
            slices: How many will be translated.
            listener: Told what was decided.

        Returns:
            Whether it is compiled.
        """
        engine, side = self.engine, self.info.image_size
        assert engine.batch_size is not None
        images = torch.zeros(engine.batch_size, 1, side, side)
        engine.padded = compile_where_it_pays(
            self.network,
            lambda: engine(images),
            choice=choice,
            device=self.compute.device.type,
            repeats=slices // len(images),
            unit="batches",
            listener=listener,
        )
        return engine.padded


def translate(
    inputs: Path | str,
    *,
    out: Path | str,
    model: Path | str = "runs/latest",
    source: str | None = None,
    exclude: Sequence[str] = (),
    dicom_modality: str = "",
    volume: int | None = None,
    phi: Phi = "pseudonymise",
    key: Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    compiling: str = "auto",
    batch_size: int | None = None,
    tile: int = 0,
    overwrite: bool = False,
    listener: Listener = silent,
) -> TranslateResult:
    """Translate every image below a folder to the target modality.

    Format in, same format out, in the same tree, of the same size and geometry: DICOM becomes a
    derived series, NIfTI, NRRD and MetaImage a volume (CT: int16 HU), TIFF stays TIFF, PNG and
    JPEG become PNG (16-bit where the target has more than 8). Each output is marked as synthetic,
    and ``translation.json`` says what came from what. A call that was stopped is continued by the
    next one; the processes of a job of torchrun divide the scans.

    Args:
        inputs: Folder, searched recursively, or one image.
        out: The folder to write; it must not exist, or be empty.
        model: A model folder, a run folder or ``runs/latest``.
        source: The source modality; needed where the model has several.
        exclude: Glob patterns of file names to leave out.
        dicom_modality: Take only DICOM of this Modality; default: as when the source was prepared.
        volume: Which volume of 4-D files, from 0; default: as when the source was prepared.
        phi: What of a patient's attributes reaches derived DICOM and the paths of its files:
            keep, pseudonymise or remove; see ``docs/reference/dicom-out.md``.
        key: A dataset's ``pseudonym.key``, for the same pseudonyms as in that dataset; default: a
            key that nobody keeps when the result is there.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto (bf16 where the hardware has it and the model was validated in it), fp32
            or bf16.
        compiling: auto (where it saves more time than it takes), on or off.
        batch_size: Slices computed at once; None: by the device. Halved where memory runs out.
        tile: Compute each slice in overlapping tiles of this side, pixels, a multiple of 4; 0:
            only where the whole does not fit into memory. The result is not that of the whole.
        overwrite: Whether an older translation in ``out`` is replaced.
        listener: Told of progress.

    Raises:
        OutputError: ``out`` cannot be written, or another process is writing it.
        ModelError: The model cannot be used.
        ImageError: No image could be read.
        CapacityError: Memory does not even hold a tile.
    """
    began = time.monotonic()
    inputs, out = Path(inputs), Path(out)
    if not work_folder(out).exists():
        check_free(out, marker=MARKER, overwrite=overwrite)
    here, there = inputs.resolve(), out.resolve()
    if there.is_relative_to(here) or here.is_relative_to(there):
        raise UsageError(f"{out} and {inputs} overlap.", "Write the result somewhere else.")
    if phi not in PHI:
        raise UsageError(f"--phi {phi} is unknown.", nearest(phi, PHI))
    choice = check_compile(compiling)
    if tile < 0 or tile % MULTIPLE:
        raise UsageError(f"--tile {tile} is no multiple of {MULTIPLE}.")
    secret = None if key is None else read_key(key)
    info = read_model(find_model(Path(model)))
    compute = validated_compute(info, device, precision, listener=listener)
    translator = Translator(
        Path(model),
        source=source,
        compute=compute,
        batch_size=batch_size,
        tile=tile,
        listener=listener,
    )
    reader = translator.reader.choosing(dicom_modality, volume)
    found = find_inputs(
        inputs, reader.recipe, name=translator.source, exclude=exclude, tags=PATIENT_TAGS
    )
    whole = units_of(found.scans, translator.batch_size)
    total = sum(unit.slices for unit in whole)

    def draw() -> dict[str, Any]:
        check_free(out, marker=MARKER, overwrite=overwrite)
        return {
            "key": secrets.token_hex(KEY_BYTES),
            "when": datetime.now().isoformat(timespec="seconds"),
            "compiled": translator.compile_where_it_pays(choice, total // ranks().count, listener),
        }

    options = [phi, tile, choice, secret and hashlib.sha256(secret).hexdigest()]
    mark = stamp(translator.facts() | {"options": options, "skipped": found.skipped}, found.scans)
    with working(out, mark, draw, listener) as work:
        if not work.placed:
            check_free(out, marker=MARKER, overwrite=overwrite)
        run = mark + (work.drawn["when"] if phi == "keep" else "")  # only then files hold the time
        when = datetime.fromisoformat(work.drawn["when"])
        made = translator.made(phi, secret or bytes.fromhex(work.drawn["key"]), run, when)
        patients = patients_of(found.scans, phi, made.key)
        names = output_names(found.scans, phi=phi, patients=patients)
        if not work.placed:
            tell_stage(
                f"Translating {total} {made.source} slices to {made.target}", work, whole, listener
            )
            if work.drawn["compiled"] and work.missing(whole) and not translator.engine.padded:
                translator.compile_where_it_pays("on", total, listener)
            _translate(work, whole, translator, reader, Outputs(work.out, names, made), listener)
        entries = work.entries(whole)
        files, failed, left_out = finish(work, entries, found, inputs, made, patients)
    seconds = round(time.monotonic() - began, 3)
    slices = sum(entry["slices"] for entry in entries)
    return TranslateResult(out, files, slices, failed, left_out, seconds)


def _translate(
    work: Work,
    whole: Sequence[Unit],
    translator: Translator,
    reader: Reader,
    outputs: Outputs,
    listener: Listener,
) -> None:
    """Translate this process's share of what is missing, and note each finished unit."""
    failed: dict[str, str] = {}

    def write(batch: Batch, squares: Pending | None) -> None:
        failed.update(batch.failed)
        for item, fake in zip(batch.items, restored(batch, squares), strict=True):
            try:
                outputs.put(item, fake)
            except ImageError as problem:
                failed[item.slice.file] = str(problem)

    with journal(work) as note:

        def ended(unit: Unit) -> None:
            written, slices = outputs.taken()
            keys = [(*key, name) for key, name in written.items()]
            files = list(written.values())
            note(unit, {"files": files, "written": keys, "slices": slices, "failed": dict(failed)})
            failed.clear()

        stream(
            work.missing(whole),
            reader,
            translator.engine,
            write,
            ended,
            batch_size=translator.batch_size,
            listener=listener,
        )
