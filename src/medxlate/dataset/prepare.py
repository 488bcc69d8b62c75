"""From raw files to the dataset folder."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import medxlate
from medxlate.dataset.annotate import Annotator, pseudonym
from medxlate.dataset.index import (
    MODALITY_FILE,
    SUMMARY,
    DatasetInfo,
    ModalityInfo,
    load_key,
    read_info,
    save_key,
)
from medxlate.dataset.labels import Task
from medxlate.dataset.options import PrepareOptions, apply_preset
from medxlate.dataset.shards import ShardWriter
from medxlate.errors import DataError, ImageError, UsageError
from medxlate.events import Listener, Stage, Warned, silent, tracked
from medxlate.files import check_free, whole_file, whole_folder, write_json
from medxlate.images.find import NOT_AN_IMAGE, FoundImage, find_images
from medxlate.images.image import Image
from medxlate.images.read import read_image, stored_bits
from medxlate.images.recipes import Recipe, make_recipe

DEFAULT_SIZE = 256
MARKER = "prepare.json"


@dataclass(frozen=True)
class PrepareResult:
    """What ``prepare`` did.

    Attributes:
        dataset: The whole dataset as it now is.
        modality: The modality just prepared.
        skipped: Files left out, and why.
        notes: Files that were read although something about them is odd.
        seconds: How long it took.
    """

    dataset: DatasetInfo
    modality: str
    skipped: dict[str, str]
    notes: dict[str, str]
    seconds: float


def prepare(
    raw: Path | str,
    *,
    modality: str,
    data: Path | str = "data",
    options: PrepareOptions | None = None,
    preset: str | None = None,
    size: int | None = None,
    overwrite: bool = False,
    strict: bool = False,
    listener: Listener = silent,
) -> PrepareResult:
    """Read a folder of images of one modality into a dataset folder.

    Args:
        raw: Folder (searched recursively) of PNG, JPEG, TIFF and single-frame DICOM files.
        modality: What to call it: ct, mri, pet, xray...
        data: The dataset folder; further modalities are added to the same one.
        options: Labels, patients, intensities.
        preset: A public data set's layout: ``lgg-mri``.
        size: Side of the stored squares, pixels; default 256, or what the dataset has.
        overwrite: Whether to replace the modality if it is there already.
        strict: Whether a file without image, label or patient is an error.
        listener: Told of progress and warnings.

    Raises:
        UsageError: Options that contradict each other.
        DataError, ImageError: Nothing usable, or under ``strict`` anything unusable.
        OutputError: The modality exists already.
    """
    began = time.monotonic()
    raw, data, options = Path(raw), Path(data), options or PrepareOptions()
    _check_name(modality)
    check_free(data / modality, marker=MARKER, overwrite=overwrite)
    if preset is not None:
        options = apply_preset(preset, raw, options)
    search = find_images(raw, exclude=options.exclude)
    annotator = Annotator(options, search.images)
    existing = read_info(data)
    size = _agreed_size(size, existing)
    _check_task(existing, modality, options)
    recipe = _first_recipe(search.images, options, modality)
    key = load_key(data)
    # Leaving the block puts first the folder in its place, then the summary.
    with (
        whole_file(data / SUMMARY) as summary,
        whole_folder(data / modality, marker=MARKER, overwrite=overwrite) as partial,
    ):
        listener(Stage(f"Preparing {modality}: {len(search.images)} images in {raw}"))
        store = _Store(partial, recipe=recipe, size=size, key=key)
        skipped = dict.fromkeys(search.not_images, NOT_AN_IMAGE)
        for found in tracked(
            search.images, task="images", total=len(search.images), listener=listener
        ):
            try:
                store.add(found, annotator)
            except (ImageError, DataError) as problem:
                skipped[found.relative] = str(problem).replace(str(found.path), "the file")
        _refuse(skipped, store, options, strict=strict)
        info = store.finish()
        existing = read_info(data)  # another prepare may have added a modality meanwhile
        size = _agreed_size(size, existing)
        _check_task(existing, modality, options)
        task = Task(kind=options.task, name=options.task_name, unit=options.task_unit)
        dataset = _joined(existing, modality, info, task=task, size=size)
        notes = {i.relative: f"is {i.format}" for i in search.images if i.suffix_lies}
        seconds = round(time.monotonic() - began, 3)
        record = {"skipped": skipped, "notes": notes, "other_files": search.others}
        write_json(partial / MARKER, {**record, "seconds": seconds, "options": _plain(options)})
        save_key(data, key)
        write_json(partial / MODALITY_FILE, info.model_dump(mode="json"))
        summary.write_text(dataset.model_dump_json(indent=2) + "\n", encoding="utf-8")
    if skipped:
        listener(
            Warned(f"{len(skipped)} files were left out; {data / modality / MARKER} lists why.")
        )
    return PrepareResult(dataset, modality, skipped, notes, seconds)


class _Store:
    """Collects accepted slices and the rows of their table."""

    def __init__(self, folder: Path, *, recipe: Recipe, size: int, key: bytes) -> None:
        self.rows: list[dict[str, Any]] = []
        self._folder = folder
        self._shards = ShardWriter(folder / "shards")
        self._recipe = recipe
        self._size = size
        self._key = key
        self._limits: list[tuple[float, float]] = []

    def add(self, found: FoundImage, annotator: Annotator) -> None:
        image = read_image(found.path, channel=self._recipe.channel, tags=annotator.tags)
        annotation = annotator.annotate(found.relative, image.tags)
        limits = self._recipe.limits(image)
        stored = self._recipe.store(image, self._size, limits=limits)
        if stored.min() == stored.max():
            raise ImageError("the image is empty after its intensity recipe")
        self._limits.append(limits)
        shard, row = self._shards.append(stored)
        self.rows.append(
            {
                "slice_id": f"{len(self.rows):06d}",
                "shard": shard,
                "row": row,
                "patient": pseudonym(annotation.patient, self._key),
                "label": annotation.label,
                "file": found.relative,
                "height": image.pixels.shape[0],
                "width": image.pixels.shape[1],
                "pixel_hash": hashlib.sha256(stored.tobytes()).hexdigest()[:32],
                **annotation.kept,
            }
        )

    def finish(self) -> ModalityInfo:
        self._shards.close()
        table = pd.DataFrame(self.rows)
        table.to_parquet(self._folder / "slices.parquet", index=False)
        low, high = (float(value) for value in np.median(self._limits, axis=0))
        return ModalityInfo(
            recipe=self._recipe.model_copy(update={"output_range": (low, high)}),
            images=len(table),
            patients=int(table["patient"].nunique()),
            widths=(int(table["width"].min()), int(table["width"].max())),
            heights=(int(table["height"].min()), int(table["height"].max())),
            labels=_label_summary(table["label"]),
        )


def _label_summary(labels: pd.Series[Any]) -> dict[str, float]:
    if labels.dtype == np.float64:
        return {"min": float(labels.min()), "max": float(labels.max())}
    return {str(name): int(count) for name, count in sorted(labels.value_counts().items())}


def _check_name(modality: str) -> None:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,31}", modality):
        raise UsageError(
            f"'{modality}' cannot name a modality.",
            "Use up to 32 lower-case letters, digits, - and _: ct, mri, pet, xray.",
        )


def _agreed_size(size: int | None, existing: DatasetInfo | None) -> int:
    if existing is not None:
        if size not in (None, existing.image_size):
            raise UsageError(
                f"The dataset holds images of {existing.image_size} px, not {size}.",
                "Leave --size out, or prepare into another folder with --data.",
            )
        return existing.image_size
    size = DEFAULT_SIZE if size is None else size
    if size < 32 or size % 4:
        raise UsageError(f"--size {size} must be a multiple of 4, at least 32.")
    return size


def _first_recipe(images: Sequence[FoundImage], options: PrepareOptions, modality: str) -> Recipe:
    """Build the recipe from the first readable image and the greatest depth."""
    first: Image | None = None
    problem: ImageError | None = None
    for found in images:
        try:
            first = read_image(found.path, channel=options.channel)
            break
        except ImageError as error:
            problem = problem or error
    if first is None:
        assert problem is not None
        raise problem
    bits = 16 if any(stored_bits(found) == 16 for found in images) else 8
    return make_recipe(
        options.recipe,
        modality=modality,
        unit=first.unit,
        bits=16 if bits == 16 else 8,
        window=options.window,
        percentiles=options.percentiles,
        channel=options.channel,
    )


def _refuse(
    skipped: dict[str, str], store: _Store, options: PrepareOptions, *, strict: bool
) -> None:
    if store.rows and not (strict and skipped):
        return
    name, reason = next(iter(skipped.items()))
    if not store.rows:
        hint = "Check --labels, --file and --patient."
        if "recipe" in reason:
            hint = "Check --recipe, --window and --percentiles."
        if options.task == "regression" and "is no number" in reason:
            hint = "For classes, add --task classification."
        raise DataError(
            f"No image can be used; the first, {name}: {reason}.".replace("..", "."), hint
        )
    raise DataError(
        f"{len(skipped)} files cannot be used (--strict); the first, {name}: {reason}.".replace(
            "..", "."
        ),
        "Mend them, or leave --strict out to skip and list them.",
    )


def _check_task(existing: DatasetInfo | None, modality: str, options: PrepareOptions) -> None:
    """Raise UsageError unless the label is that of the dataset's other modalities."""
    if existing is None or not set(existing.modalities) - {modality}:
        return
    known = existing.task
    if (options.task, options.task_name, options.task_unit) != (known.kind, known.name, known.unit):
        raise UsageError(
            f"The dataset is labelled with {known.name} ({known.kind}, unit '{known.unit}'), not "
            f"with {options.task_name} ({options.task}, unit '{options.task_unit}').",
            f"If they mean the same, add --label-name {known.name} --unit '{known.unit}'.",
        )


def _joined(
    existing: DatasetInfo | None, modality: str, info: ModalityInfo, *, task: Task, size: int
) -> DatasetInfo:
    """Return the dataset with the modality added."""
    others = {} if existing is None else dict(existing.modalities)
    others.pop(modality, None)
    if task.kind == "classification":
        classes = {name for each in (info, *others.values()) for name in each.labels}
        task = task.model_copy(update={"classes": tuple(sorted(classes))})
    return DatasetInfo(
        medxlate=medxlate.__version__,
        image_size=size,
        task=task,
        modalities={**others, modality: info},
    )


def _plain(options: PrepareOptions) -> dict[str, Any]:
    return {key: str(v) if isinstance(v, Path) else v for key, v in asdict(options).items()}
