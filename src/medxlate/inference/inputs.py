"""From files a user names to what a network sees."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medxlate.base.errors import ImageError, plural
from medxlate.dataset.reasons import in_words
from medxlate.images.find import find_images
from medxlate.images.grouping import FoundScans, PatientOf, by_header, find_scans
from medxlate.images.open import NEAR_EMPTY, OpenScan, Slice, open_slices
from medxlate.images.recipes import Recipe, to_network
from medxlate.images.scan import HARMLESS, Scan


@dataclass(frozen=True)
class Input:
    """One slice as the network sees it.

    Attributes:
        opened: The scan that it belongs to.
        slice: Which slice it is, and how large it was.
        pixels: float32 [1, S, S] in [-1, 1].
    """

    opened: OpenScan
    slice: Slice
    pixels: Tensor

    @property
    def scan(self) -> Scan:
        """The scan that it belongs to."""
        return self.opened.scan

    @property
    def number(self) -> int | None:
        """Which slice of its scan it is, from 0; None where that has one."""
        return self.slice.number if self.opened.count > 1 else None

    @property
    def tags(self) -> Mapping[str, str]:
        """The DICOM attributes that were asked for; the JSON keys beside a volume file."""
        frames = self.scan.frames
        if not frames:
            return self.scan.tags
        across = self.opened.cut is not None and not self.opened.cut.as_stored
        return frames[0 if across else self.slice.stored_number].tags


@dataclass(frozen=True)
class SliceBatch:
    """Slices that are computed together.

    Attributes:
        items: The slices, near-empty ones among them.
        images: Those that are not near-empty, float32 [B, 1, S, S]; None where there are none.
        failed: What could not be read since the batch before, and why.
    """

    items: list[Input]
    images: Tensor | None
    failed: dict[str, str]

    @classmethod
    def of(
        cls, items: list[Input], failed: Mapping[str, str], *, pinned: bool = False
    ) -> SliceBatch:
        """Stack the inputs; ``pinned``: in memory from which CUDA copies without waiting."""
        shown = [item for item in items if not item.slice.near_empty]
        images = stack(shown) if shown else None
        if images is not None and pinned:
            images = images.pin_memory()
        return cls(items, images, dict(failed))

    @property
    def shown(self) -> list[Input]:
        """The slices that are not near-empty, in the order of ``images``."""
        return [item for item in self.items if not item.slice.near_empty]


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
        """Return a reader of other DICOM Modalities or volumes, where any are given."""
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
        self, scans: Iterable[Scan], *, batch_size: int, pinned: bool = False
    ) -> Iterator[SliceBatch]:
        """Yield slices in batches, those of a scan one after the other.

        Args:
            scans: What is read.
            batch_size: Slices in a batch.
            pinned: Whether images lie in memory from which CUDA copies without waiting.
        """
        items: list[Input] = []
        failed: dict[str, str] = {}
        for scan in scans:
            for item in self.slices(scan, failed):
                items.append(item)
                if len(items) == batch_size:
                    yield SliceBatch.of(items, failed, pinned=pinned)
                    items = []
                    failed.clear()
        if items or failed:
            yield SliceBatch.of(items, failed, pinned=pinned)


def find_inputs(
    inputs: Path,
    recipe: Recipe,
    *,
    name: str,
    include: Sequence[str] = (),
    exclude: Sequence[str],
    tags: Iterable[str] = (),
    patient_of: PatientOf = by_header,
    force: bool = False,
) -> FoundScans:
    """Return the scans below ``inputs`` and what cannot be used.

    Args:
        inputs: A folder or a file.
        recipe: The modality's recipe.
        name: The modality's name.
        include: Glob patterns; where there are any, only files that match one are taken.
        exclude: Glob patterns of files to leave out.
        tags: DICOM attributes to bring along.
        patient_of: See ``find_scans``.
        force: See ``find_scans``.

    Raises:
        ImageError: There is no image.
        UsageError: It is not known which of several DICOM Modalities are meant, or the only one
            is not what ``name`` says.
    """
    search = find_images(inputs, include=include, exclude=exclude)
    return find_scans(
        search,
        name=name,
        dicom_modality=recipe.dicom_modality,
        tags=tags,
        volume=recipe.volume,
        patient_of=patient_of,
        force=force,
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


def stack(items: Sequence[Input]) -> Tensor:
    """Return the inputs, at least one, as one tensor [B, 1, S, S].

    By numpy, which uses no threads: the reader's thread must not take the network's cores.
    """
    return torch.from_numpy(np.stack([item.pixels.numpy() for item in items]))


def refuse_if_nothing(
    failed: Mapping[str, str], found: FoundScans, done: int, inputs: Path
) -> None:
    """Raise ImageError, saying why, where not a single image could be used."""
    if done:
        return
    if failed:
        raise ImageError(f"No image in {inputs} can be used. {in_words(failed)}.")
    left_out = ", ".join(
        f"{plural(count, 'file')}: {reason}" for reason, count in found.left_out.items()
    )
    raise ImageError(f"No image in {inputs} can be used: {left_out or NEAR_EMPTY}.")


def patients_mean(values: np.ndarray, patients: list[str]) -> dict[str, np.ndarray]:
    """Average predictions [N, ...] over each patient's images, in order of first appearance."""
    rows: dict[str, list[int]] = {}
    for row, patient in enumerate(patients):
        rows.setdefault(patient, []).append(row)
    return {patient: values[index].mean(axis=0) for patient, index in rows.items()}
