"""Reading prepared slices for training, in an order that depends on the seed alone."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medxlate.dataset.index import Modality
from medxlate.dataset.labels import Task
from medxlate.images.recipes import to_network
from medxlate.images.stack import FloatArray

Read = Callable[[int], FloatArray]


@dataclass(frozen=True)
class Batch:
    """Images float32 [B, 1, S, S] in [-1, 1] and labels [B]: float32 values or int64 classes."""

    images: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        return Batch(
            self.images.to(device, non_blocking=True), self.labels.to(device, non_blocking=True)
        )


class Slices:
    """Some slices of one modality, read from the memory-mapped shards when asked for.

    Args:
        modality: The prepared modality.
        rows: Which rows of its table.
        task: Turns labels into numbers.
        image_size: Side of the images, pixels.

    Attributes:
        name: The modality.
        rows: As given.
        labels: [N]: float32 values or int64 classes.
        patients: The patient of each.
    """

    def __init__(
        self, modality: Modality, rows: Sequence[int], *, task: Task, image_size: int
    ) -> None:
        self.name = modality.name
        self.rows = list(rows)
        self.patients = [modality.column("patient")[row] for row in rows]
        raw = [modality.column("label")[row] for row in rows]
        if task.kind == "classification":
            self.labels = torch.tensor(
                [task.classes.index(name) for name in raw], dtype=torch.int64
            )
        else:
            self.labels = torch.tensor([float(value) for value in raw], dtype=torch.float32)
        self._read: Read = lambda i: to_network(modality.pixels(self.rows[i]), image_size)

    def with_images(self, read: Read) -> Slices:
        """Return the same slices with other pixels.

        Args:
            read: From a position among the rows to its image, float32 [S, S] in [-1, 1].
        """
        other = copy.copy(self)
        other._read = read
        return other

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Sequence[int]) -> Batch:
        """Return the slices with these positions among the rows."""
        images = np.stack([self._read(i) for i in indices])
        return Batch(torch.from_numpy(images).unsqueeze(1), self.labels[list(indices)])

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Yield all slices once, in order."""
        for start in range(0, len(self), batch_size):
            yield self.batch(range(start, min(start + batch_size, len(self))))


class Order:
    """An endless shuffled order over ``count`` items; every pass shows each item once.

    Position p is the same for the same seed and name, whatever was read before: a training that
    resumes at a step sees what it would have seen.
    """

    def __init__(self, count: int, *, seed: int, name: str) -> None:
        self._count = count
        self._entropy = [seed, *hashlib.sha256(name.encode()).digest()[:8]]
        self._pass = -1
        self._permutation: list[int] = []

    def take(self, step: int, batch_size: int) -> list[int]:
        """Return the items of step ``step`` (from 0)."""
        start = step * batch_size
        return [self._at(position) for position in range(start, start + batch_size)]

    def _at(self, position: int) -> int:
        number, within = divmod(position, self._count)
        if number != self._pass:
            random = np.random.default_rng([*self._entropy, number])
            self._permutation = [int(i) for i in random.permutation(self._count)]
            self._pass = number
        return self._permutation[within]
