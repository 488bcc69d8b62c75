"""From files a user names to what a network sees."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medxlate.errors import ImageError
from medxlate.images.find import find_images
from medxlate.images.open import cut_of, open_stack, source_of, stored_number
from medxlate.images.orientation import Cut
from medxlate.images.recipes import Recipe, is_near_empty, to_network
from medxlate.images.scan import RASTER_FORMATS, Scan
from medxlate.images.scans import Scans, find_scans


@dataclass(frozen=True)
class Input:
    """One slice as the network sees it.

    Attributes:
        scan: The scan it belongs to.
        number: Which slice of the scan, from 0 along the plane's normal.
        count: How many slices the scan has.
        cut: How the scan is cut; None for an image without a place in space.
        height: Original rows.
        width: Original columns.
        spacing: Distance between rows and between columns, mm.
        pixels: float32 [1, S, S] in [-1, 1].
        empty: Whether the slice is near-empty: ``prepare`` leaves such slices out, no network
            has seen one.
    """

    scan: Scan
    number: int
    count: int
    cut: Cut | None
    height: int
    width: int
    spacing: tuple[float, float]
    pixels: Tensor
    empty: bool

    @property
    def file(self) -> str:
        """Relative path of the file that holds the slice."""
        return source_of(self.scan, self.cut, self.number)

    @property
    def stored(self) -> int:
        """The slice's number in the series as it is stored, from 0."""
        return stored_number(self.cut, self.number)

    @property
    def tags(self) -> Mapping[str, str]:
        """The DICOM attributes that were asked for; the JSON keys beside a volume file."""
        return self.scan.frames[self.stored].tags if self._by_frame else self._scan_tags

    @property
    def _by_frame(self) -> bool:
        return bool(self.scan.frames) and (self.cut is None or self.cut.as_stored)

    @property
    def _scan_tags(self) -> Mapping[str, str]:
        return self.scan.frames[0].tags if self.scan.frames else self.scan.tags


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

    def slices(self, scan: Scan, failed: dict[str, str]) -> Iterator[Input]:
        """Yield the slices of a scan; those that cannot be read go to ``failed``, with why."""
        try:
            stack = open_stack(scan, self.recipe)
            cut = cut_of(scan, self.recipe)
            limits = self.recipe.limits(stack)
        except ImageError as problem:
            failed[scan.name] = str(problem)
            return
        for number in range(stack.count):
            try:
                pixels = stack.read(number)
            except ImageError as problem:
                failed[source_of(scan, cut, number)] = str(problem)
                continue
            stored = self.recipe.store(
                pixels, self.prepared_size, limits=limits, spacing=stack.spacing
            )
            seen = torch.from_numpy(to_network(stored, self.image_size)).unsqueeze(0)
            height, width = pixels.shape
            empty = scan.format not in RASTER_FORMATS and is_near_empty(stored)
            yield Input(scan, number, stack.count, cut, height, width, stack.spacing, seen, empty)

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
    inputs: Path, recipe: Recipe, *, exclude: Sequence[str], tags: Iterable[str] = ()
) -> Scans:
    """Return the scans below ``inputs`` and what cannot be used.

    Raises:
        ImageError: There is no image.
    """
    search = find_images(inputs, exclude=exclude)
    return find_scans(search, tags=tags, volume=recipe.volume)


def slices_of(scan: Scan) -> int:
    """Return about how many slices a scan has, from its header."""
    if scan.frames:
        return len(scan.frames)
    return scan.geometry.size[2] if scan.geometry is not None else 1


def stack(batch: list[Input]) -> Tensor:
    """Return the inputs as one tensor [B, 1, S, S]."""
    return torch.stack([item.pixels for item in batch])


def refuse_if_nothing(failed: dict[str, str], done: int, inputs: Path) -> None:
    """Raise ImageError, naming the first failure, where not a single image could be used."""
    if done == 0:
        name, reason = next(iter(failed.items()))
        raise ImageError(f"No image in {inputs} can be used; the first, {name}: {reason}")


def patients_mean(values: np.ndarray, patients: list[str]) -> dict[str, np.ndarray]:
    """Average predictions [N, ...] over each patient's images, in order of first appearance."""
    rows: dict[str, list[int]] = {}
    for row, patient in enumerate(patients):
        rows.setdefault(patient, []).append(row)
    return {patient: values[index].mean(axis=0) for patient, index in rows.items()}
