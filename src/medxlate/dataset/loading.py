"""Reading prepared slices for training, in an order that depends on the seed alone."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medxlate.base.distributed import ranks
from medxlate.base.grey_levels import from_stored
from medxlate.dataset.index import Modality, Rows
from medxlate.dataset.labels import Task
from medxlate.images.recipes import to_network
from medxlate.images.stack import FloatArray

Read = Callable[[int], FloatArray]
# Images [B, S, S] as they are kept: the stored uint8 or uint16, or float32 in [-1, 1].
RawPixels = npt.NDArray[Any]


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
    """Some slices of one modality, read from the shards when asked for.

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
        volumes: The series, volume or single image of each, by a name within the modality.
        shape: (N, S, S).
        dtype: Of what ``kept`` gives: the stored integers', or float32 where images are resized
            or were replaced.
    """

    def __init__(self, modality: Modality, rows: Rows, *, task: Task, image_size: int) -> None:
        self.name = modality.name
        self.rows = np.array(rows, dtype=np.intp)
        chosen = modality.slices[["patient", "label"]].iloc[self.rows]
        self.patients: list[str] = chosen["patient"].tolist()
        known = "series" in modality.slices  # not in tables of other code
        of = modality.slices["series" if known else "patient"].iloc[self.rows]
        self.volumes: list[str] = list(map(str, of.tolist()))
        self.labels = _numbers(chosen["label"].tolist(), task)
        self.shape = (len(self.rows), image_size, image_size)
        resized = image_size != modality.reader.size
        self.dtype = np.dtype(np.float32) if resized else modality.reader.dtype
        self._kept: Callable[[Rows], RawPixels] = lambda i: modality.read(self.rows[np.asarray(i)])
        if resized:
            stored = self._kept
            self._kept = lambda i: np.stack([to_network(s, image_size) for s in stored(i)])

    def with_images(self, read: Read) -> Slices:
        """Return the same slices with other pixels.

        Args:
            read: From a position among the rows to its image, float32 [S, S] in [-1, 1].
        """
        other = copy.copy(self)
        other._kept = lambda indices: np.stack([read(int(i)) for i in indices])
        other.dtype = np.dtype(np.float32)
        return other

    def picked(self, positions: Rows) -> Slices:
        """Return the slices with these positions among the rows, in this order.

        A position that is named again gives the same slice again.
        """
        chosen = np.asarray(positions, dtype=np.intp)
        other, kept = copy.copy(self), self._kept
        other.rows, other.labels = self.rows[chosen], self.labels[torch.from_numpy(chosen)]
        other.patients = [self.patients[i] for i in chosen]
        other.volumes = [self.volumes[i] for i in chosen]
        other.shape = (len(chosen), *self.shape[1:])
        other._kept = lambda indices: kept(chosen[np.asarray(indices)])
        return other

    def __len__(self) -> int:
        return len(self.rows)

    def stored(self, indices: Rows) -> RawPixels:
        """Return the images [B, S, S] with these positions among the rows, as they are kept."""
        return self._kept(indices)

    def batch(self, indices: Rows) -> Batch:
        """Return the slices with these positions among the rows."""
        images = self.stored(indices)
        if images.dtype != np.float32:
            images = from_stored(images)
        return Batch(torch.from_numpy(images).unsqueeze(1), self.labels[np.asarray(indices)])

    def batches(self, batch_size: int, rows: range | None = None) -> Iterator[Batch]:
        """Yield all slices once, in order, or those with these consecutive positions."""
        rows = range(len(self)) if rows is None else rows
        for start in range(rows.start, rows.stop, batch_size):
            yield self.batch(range(start, min(start + batch_size, rows.stop)))


def _numbers(labels: Sequence[Any], task: Task) -> Tensor:
    if task.kind == "classification":
        places = {name: place for place, name in enumerate(task.classes)}
        return torch.tensor([places[name] for name in labels], dtype=torch.int64)
    return torch.tensor([float(value) for value in labels], dtype=torch.float32)


class Order:
    """An endless shuffled order over ``count`` items; every pass shows each item once.

    Position p is the same for the same seed and name, whatever was read before: a training that
    resumes at a step sees what it would have seen. Where several processes share a step, each takes
    its part of the step's batch.
    """

    def __init__(self, count: int, *, seed: int, name: str) -> None:
        self._count = count
        self._ranks = ranks()
        self._entropy = [seed, *hashlib.sha256(name.encode()).digest()[:8]]
        self._pass = -1
        self._permutation = np.empty(0, dtype=np.int64)

    def take(self, step: int, batch_size: int) -> list[int]:
        """Return this process's part of the ``batch_size`` items of step ``step`` (from 0)."""
        part, first = self._ranks.part(batch_size), step * batch_size
        return [self.at(first + place) for place in range(part.start, part.stop)]

    def at(self, position: int) -> int:
        """Return the item at a position of the endless order, from 0."""
        number, within = divmod(position, self._count)
        return int(self.shuffled(number)[within])

    def shuffled(self, number: int) -> npt.NDArray[np.int64]:
        """Return the items in the order of a pass."""
        if number != self._pass:
            random = np.random.default_rng([*self._entropy, number])
            self._permutation = random.permutation(self._count)
            self._pass = number
        return self._permutation
