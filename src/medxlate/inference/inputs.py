"""From files a user names to what a network sees."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medxlate.errors import ImageError
from medxlate.images.find import find_images
from medxlate.images.recipes import Recipe, to_network
from medxlate.images.scan import HARMLESS, Scan
from medxlate.images.scans import Scans, find_scans
from medxlate.images.slices import NEAR_EMPTY, Opened, Slice, open_slices


@dataclass(frozen=True)
class Input:
    """One slice as the network sees it.

    Attributes:
        opened: The scan that it belongs to.
        slice: Which slice it is, and how large it was.
        pixels: float32 [1, S, S] in [-1, 1].
    """

    opened: Opened
    slice: Slice
    pixels: Tensor

    @property
    def scan(self) -> Scan:
        """The scan that it belongs to."""
        return self.opened.scan

    @property
    def tags(self) -> Mapping[str, str]:
        """The DICOM attributes that were asked for; the JSON keys beside a volume file."""
        frames = self.scan.frames
        if not frames:
            return self.scan.tags
        across = self.opened.cut is not None and not self.opened.cut.as_stored
        return frames[0 if across else self.slice.stored_number].tags


@dataclass(frozen=True)
class Reader:
    """Brings images through the same steps as ``prepare`` and training.

    Attributes:
        recipe: The modality's intensity recipe.
        prepared_size: Side of the dataset's squares, pixels.
        image_size: Side of the network's squares, pixels.
    """

    recipe: Recipe
    prepared_size: int
    image_size: int

    def choosing(self, dicom_modality: str, volume: int | None) -> Reader:
        """Return a reader that takes other DICOM Modalities or volumes, where any are given."""
        changes: dict[str, object] = {}
        if dicom_modality:
            changes["dicom_modality"] = dicom_modality.upper()
        if volume is not None:
            changes["volume"] = volume
        return replace(self, recipe=self.recipe.model_copy(update=changes))

    def slices(self, scan: Scan, failed: dict[str, str]) -> Iterator[Input]:
        """Yield the slices of a scan; those that cannot be read go to ``failed``, with why."""
        try:
            opened = open_slices(scan, self.recipe, self.prepared_size)
        except ImageError as problem:
            failed[scan.name] = str(problem)
            return
        for slice_ in opened.slices:
            if slice_.stored is None:
                failed[slice_.file] = slice_.problem
            else:
                pixels = torch.from_numpy(to_network(slice_.stored, self.image_size))
                yield Input(opened, replace(slice_, stored=None), pixels.unsqueeze(0))

    def batches(
        self, scans: Iterable[Scan], *, batch_size: int, failed: dict[str, str]
    ) -> Iterator[list[Input]]:
        """Yield slices in batches, those of a scan one after the other."""
        batch: list[Input] = []
        for scan in scans:
            for item in self.slices(scan, failed):
                batch.append(item)
                if len(batch) == batch_size:
                    yield batch
                    batch = []
        if batch:
            yield batch


def find_inputs(
    inputs: Path,
    recipe: Recipe,
    *,
    name: str,
    exclude: Sequence[str],
    tags: Iterable[str] = (),
) -> Scans:
    """Return the scans below ``inputs`` and what cannot be used.

    Args:
        inputs: A folder or a file.
        recipe: The modality's recipe.
        name: The modality's name.
        exclude: Glob patterns of files to leave out.
        tags: DICOM attributes to bring along.

    Raises:
        ImageError: There is no image.
        UsageError: It is not known which of several DICOM Modalities are meant.
    """
    search = find_images(inputs, exclude=exclude)
    return find_scans(
        search,
        name=name,
        dicom_modality=recipe.dicom_modality,
        tags=tags,
        volume=recipe.volume,
    )


def sort_out(skipped: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Divide what was skipped into what failed and what sound data leaves out, too (copies...)."""
    failed: dict[str, str] = {}
    harmless: dict[str, str] = {}
    for name, reason in skipped.items():
        (harmless if reason.startswith(HARMLESS) else failed)[name] = reason
    return failed, harmless


def slices_of(scan: Scan) -> int:
    """Return about how many slices a scan has, from its header."""
    if scan.frames:
        return len(scan.frames)
    return scan.geometry.size[2] if scan.geometry is not None else 1


def stack(batch: list[Input]) -> Tensor:
    """Return the inputs as one tensor [B, 1, S, S]."""
    return torch.stack([item.pixels for item in batch])


def refuse_if_nothing(failed: Mapping[str, str], found: Scans, done: int, inputs: Path) -> None:
    """Raise ImageError, saying why, where not a single image could be used."""
    if done:
        return
    if failed:
        name, reason = next(iter(failed.items()))
        raise ImageError(f"No image in {inputs} can be used; the first, {name}: {reason}")
    left_out = ", ".join(f"{count} files: {reason}" for reason, count in found.left_out.items())
    raise ImageError(f"No image in {inputs} can be used: {left_out or NEAR_EMPTY}.")


def patients_mean(values: np.ndarray, patients: list[str]) -> dict[str, np.ndarray]:
    """Average predictions [N, ...] over each patient's images, in order of first appearance."""
    rows: dict[str, list[int]] = {}
    for row, patient in enumerate(patients):
        rows.setdefault(patient, []).append(row)
    return {patient: values[index].mean(axis=0) for patient, index in rows.items()}
