"""What brings the batches of each step to the device.

Small sets live on the device, as the integers that are stored; larger ones are read from the page
cache by a thread that is a few steps ahead. Either way a step gets the same items and the same bits
as ``Slices.batch`` gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod

import torch

from medxlate.dataset.index import Rows
from medxlate.dataset.loading import Batch, Slices
from medxlate.method.matching import orders
from medxlate.training.prefetch import CudaPrefetcher, Prefetcher, as_tensor, tensor_type, to_images

CPU_ROOM = 64 << 20  # bytes: on the processor, memory must not grow with the dataset
CUDA_SHARE = 0.2  # of the GPU's memory that is free when the training begins
_BLOCK = 256  # images that are read at once into a resident set


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
        chosen = torch.tensor(indices, dtype=torch.int64)
        if device.type == "cuda":
            chosen = chosen.pin_memory().to(device, non_blocking=True)
        chosen = chosen.to(device)
        kept, labels = (each.index_select(0, chosen) for each in (self._kept, self._labels))
        return Batch(to_images(kept), labels)

    def batches(self, batch_size: int, rows: range | None = None) -> Iterator[Batch]:
        """Yield all slices once, in order, or those with these consecutive positions."""
        rows = range(len(self)) if rows is None else rows
        for start in range(rows.start, rows.stop, batch_size):
            some = slice(start, min(start + batch_size, rows.stop))
            yield Batch(to_images(self._kept[some]), self._labels[some])


class TrainLoader:
    """The batches of each step by modality, on the device.

    It is a context: what it does in the background ends with it.

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
        self._stream: Prefetcher | CudaPrefetcher | None = None

    def take(self, step: int) -> dict[str, Batch]:
        """Return the batches of a step; those of the steps after it are read meanwhile.

        Raises:
            Exception: What reading raised in the background, as it was raised there.
        """
        streamed = self._from(step).take() if self._streamed else {}
        return {
            name: self._resident[name].batch(order.take(step, self._batch_size))
            if name in self._resident
            else streamed[name]
            for name, order in self._orders.items()
        }

    def close(self) -> None:
        """End what runs in the background."""
        if self._stream is not None:
            self._stream.close()
        self._stream = None

    def __enter__(self) -> TrainLoader:
        """Return the feed."""
        return self

    def __exit__(self, *_: object) -> None:
        """End what runs in the background."""
        self.close()

    def _from(self, step: int) -> Prefetcher | CudaPrefetcher:
        """Return the stream that stands at a step."""
        if self._stream is None or self._stream.step != step:
            self.close()
            self._stream = (CudaPrefetcher if self._device.type == "cuda" else Prefetcher)(
                self._streamed,
                {name: self._orders[name] for name in self._streamed},
                batch_size=self._batch_size,
                step=step,
                device=self._device,
            )
        return self._stream


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
