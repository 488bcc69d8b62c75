"""What brings the batches of each step to the device.

Small sets live on the device, as the integers that are stored; larger ones are read from the page
cache by a thread that is a few steps ahead. Either way a step gets the same items and the same bits
as ``Slices.batch`` gives.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from math import prod
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from medxlate.base.grey_levels import from_stored_tensor
from medxlate.dataset.index import Rows
from medxlate.dataset.loading import Batch, RawPixels, Slices
from medxlate.method.matching import orders

CPU_ROOM = 64 << 20  # bytes: on the processor, memory must not grow with the dataset
CUDA_SHARE = 0.2  # of the GPU's memory that is free when the training begins
_BLOCK = 256  # images that are read at once into a resident set
AHEAD = 4  # steps that are read before they are asked for
THREAD = "medxlate-loader"

Made = TypeVar("Made")


class Resident:
    """All images of some slices as one tensor on the device, read once.

    Args:
        slices: What is read.
        device: Where it lives.
    """

    def __init__(self, slices: Slices, device: torch.device) -> None:
        self._labels = slices.labels.to(device)
        self._kept = torch.empty(slices.shape, dtype=tensor_type(slices.dtype), device=device)
        for part in _parts(len(slices), _BLOCK):
            self._kept[part.start : part.stop] = as_tensor(slices.stored(part))

    def __len__(self) -> int:
        return len(self._labels)

    def batch(self, indices: Rows) -> Batch:
        """Return the slices with these positions; the host does not wait for the device."""
        device = self._kept.device
        chosen = _sent(torch.tensor(indices, dtype=torch.int64), device)
        kept, labels = (each.index_select(0, chosen) for each in (self._kept, self._labels))
        return Batch(to_images(kept), labels)

    def batches(self, batch_size: int, rows: range | None = None) -> Iterator[Batch]:
        """Yield all slices once, in order, or those with these consecutive positions."""
        rows = range(len(self)) if rows is None else rows
        for start in range(rows.start, rows.stop, batch_size):
            some = slice(start, min(start + batch_size, rows.stop))
            yield Batch(to_images(self._kept[some]), self._labels[some])


class Prefetcher(Generic[Made]):
    """Makes what belongs to steps ``first``, ``first`` + 1... in a thread, a few in advance.

    Args:
        make: From a step to what belongs to it; called in the thread.
        first: The first step.

    Attributes:
        step: The step that ``take`` returns next.
    """

    def __init__(self, make: Callable[[int], Made], *, first: int) -> None:
        self.step = first
        self._make = make
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=THREAD)
        self._coming: deque[Future[Made]] = deque()
        self._ask()

    def take(self) -> Made:
        """Return what belongs to the next step, when it is there; raises what ``make`` raised."""
        made = self._coming[0].result()  # a failed one stays, for whoever asks again
        self._coming.popleft()
        self.step += 1
        self._ask()
        return made

    def close(self) -> None:
        """End the thread and wait for its end."""
        self._thread.shutdown(cancel_futures=True)

    def _ask(self) -> None:
        while len(self._coming) <= AHEAD:
            later = self.step + len(self._coming)
            self._coming.append(self._thread.submit(self._make, later))


class TrainLoader:
    """The batches of each step by modality, on the device.

    It is a context: what it does in the background ends with it. Torch's ``DataLoader`` reads in
    processes, whose start takes seconds, and pins memory in a thread, whose calls of CUDA may break
    the capture of a graph; reading a slice takes microseconds, so one thread is enough.

    Args:
        slices: The training slices of each modality.
        batch_size: Images of a modality in a step, of all processes; see ``loading.Order``.
        seed: Of the order.
        device: Where the batches are wanted.
        room: Bytes of images that may live there; None: ``room_on`` it.
        follow: The modality whose labels the others' images follow; see ``matching.orders``.
    """

    def __init__(
        self,
        slices: Mapping[str, Slices],
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
        room: int | None = None,
        follow: str = "",
    ) -> None:
        self._batch_size = batch_size
        self._device = device
        self._orders = orders(slices, seed=seed, follow=follow)
        self._resident, self._streamed = reside(slices, device, room)
        self._ahead: Prefetcher[dict[str, tuple[Tensor, Tensor]]] | None = None

    def take(self, step: int) -> dict[str, Batch]:
        """Return the batches of a step; those of the steps after it are read meanwhile.

        Raises:
            Exception: What reading raised in the background, as it was raised there.
        """
        streamed = self._from(step).take() if self._streamed else {}
        return {
            name: self._resident[name].batch(order.take(step, self._batch_size))
            if name in self._resident
            else self._batch(*streamed[name])
            for name, order in self._orders.items()
        }

    def close(self) -> None:
        """End what runs in the background."""
        if self._ahead is not None:
            self._ahead.close()
        self._ahead = None

    def __enter__(self) -> TrainLoader:
        """Return the loader."""
        return self

    def __exit__(self, *_: object) -> None:
        """End what runs in the background."""
        self.close()

    def _from(self, step: int) -> Prefetcher[dict[str, tuple[Tensor, Tensor]]]:
        """Return the prefetcher that stands at a step."""
        if self._ahead is None or self._ahead.step != step:
            self.close()
            self._ahead = Prefetcher(self._read, first=step)
        return self._ahead

    def _read(self, step: int) -> dict[str, tuple[Tensor, Tensor]]:
        """Return images as they are stored, and labels, of the modalities that are streamed."""
        read = {}
        for name, slices in self._streamed.items():
            chosen = self._orders[name].take(step, self._batch_size)
            read[name] = (as_tensor(slices.stored(chosen)), slices.labels[np.asarray(chosen)])
        return read

    def _batch(self, stored: Tensor, labels: Tensor) -> Batch:
        return Batch(to_images(_sent(stored, self._device)), _sent(labels, self._device))


def _sent(values: Tensor, device: torch.device) -> Tensor:
    """Return values on a device; the processor does not wait for the copy to a GPU.

    Torch keeps page-locked memory until its copy has ended.
    """
    if device.type == "cuda":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


def room_on(device: torch.device) -> int:
    """Return how many bytes of images may live on a device."""
    if device.type != "cuda":
        return CPU_ROOM
    free, _ = torch.cuda.mem_get_info(device)
    return int(CUDA_SHARE * free)


def reside(
    slices: Mapping[str, Slices], device: torch.device, room: int | None = None
) -> tuple[dict[str, Resident], dict[str, Slices]]:
    """Return what lives on the device, and what did not fit.

    Args:
        slices: By name; in the order of the names, each is taken that fits into the room left.
        device: Where they may live.
        room: Bytes; None: ``room_on`` the device.
    """
    room = room_on(device) if room is None else room
    resident: dict[str, Resident] = {}
    for name, some in sorted(slices.items()):
        size = prod(some.shape) * some.dtype.itemsize
        if size <= room:
            resident[name] = Resident(some, device)
            room -= size
    return resident, {name: some for name, some in slices.items() if name not in resident}


def _parts(count: int, size: int) -> Iterator[range]:
    for start in range(0, count, size):
        yield range(start, min(start + size, count))


def to_images(kept: Tensor) -> Tensor:
    """Return images [B, 1, S, S], float32 in [-1, 1], bit for bit as ``Slices.batch`` does.

    Args:
        kept: [B, S, S]: uint8, the bits of uint16 as int16, or float32 in [-1, 1].
    """
    if kept.dtype == torch.float32:
        return kept.unsqueeze(1)
    return from_stored_tensor(kept).unsqueeze(1)


def as_tensor(kept: RawPixels) -> Tensor:
    """Return what ``to_images`` takes; torch computes little with uint16, so its bits are int16."""
    return torch.from_numpy(kept.view(np.int16) if kept.dtype == np.uint16 else kept)


def tensor_type(kind: np.dtype[np.generic]) -> torch.dtype:
    """Return the type of ``as_tensor`` of an array of this type."""
    return as_tensor(np.empty(0, kind)).dtype
