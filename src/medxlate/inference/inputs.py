"""From files a user names to what a network sees."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medxlate.errors import ImageError
from medxlate.images.find import NOT_AN_IMAGE, FoundImage, find_images
from medxlate.images.read import read_image
from medxlate.images.recipes import Recipe, to_network


@dataclass(frozen=True)
class Input:
    """One image as the network sees it.

    Attributes:
        found: The file.
        height: Its original height, pixels.
        width: Its original width, pixels.
        pixels: float32 [1, S, S] in [-1, 1].
        tags: The DICOM attributes that were asked for.
    """

    found: FoundImage
    height: int
    width: int
    pixels: Tensor
    tags: Mapping[str, str]


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

    def read(self, found: FoundImage, *, tags: Iterable[str] = ()) -> Input:
        """Read one file; raises ImageError where it cannot be used."""
        image = read_image(found.path, channel=self.recipe.channel, tags=tags)
        stored = self.recipe.store(image, self.prepared_size)
        pixels = torch.from_numpy(to_network(stored, self.image_size)).unsqueeze(0)
        height, width = image.pixels.shape
        return Input(found, height, width, pixels, image.tags)

    def batches(
        self,
        images: Iterable[FoundImage],
        *,
        batch_size: int,
        failed: dict[str, str],
        tags: Iterable[str] = (),
    ) -> Iterator[list[Input]]:
        """Yield inputs in batches; files that cannot be read go to ``failed`` with the reason."""
        batch: list[Input] = []
        for found in images:
            try:
                batch.append(self.read(found, tags=tags))
            except ImageError as problem:
                failed[found.relative] = str(problem).replace(str(found.path), "the file")
            if len(batch) == batch_size:
                yield batch
                batch = []
        if batch:
            yield batch


def find_inputs(inputs: Path, exclude: Sequence[str]) -> tuple[list[FoundImage], dict[str, str]]:
    """Return the images below ``inputs`` and the files that only pretend to be images.

    Raises:
        ImageError: There is no image.
    """
    search = find_images(inputs, exclude=exclude)
    return list(search.images), dict.fromkeys(search.not_images, NOT_AN_IMAGE)


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
