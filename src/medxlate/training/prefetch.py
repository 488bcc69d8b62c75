"""Batches of consecutive steps, read in a thread ahead of the step that is computed."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from medxlate.base.distributed import ranks
from medxlate.dataset.loading import Batch, Order, RawPixels, Slices

AHEAD = 4  # steps that are read and not yet asked for
THREAD = "medxlate-feed"

T = TypeVar("T")


class Background(Generic[T]):
    """Makes what belongs to steps ``first``, ``first`` + 1... in a thread, a few in advance.

    Args:
        make: From a step to what belongs to it; called in the thread.
        first: The first step.
    """

    def __init__(self, make: Callable[[int], T], *, first: int) -> None:
        self._made: queue.Queue[T | _Failed] = queue.Queue(AHEAD)
        self._ended = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(make, first), name=THREAD, daemon=True
        )
        self._thread.start()

    def take(self) -> T:
        """Return what belongs to the next step, when it is there.

        Raises:
            BaseException: What ``make`` raised, with its own traceback.
        """
        return self._checked(self._made.get())

    def take_if_made(self) -> T | None:
        """Return what belongs to the next step where it is there, else None; raises as ``take``."""
        try:
            return self._checked(self._made.get_nowait())
        except queue.Empty:
            return None

    def close(self) -> None:
        """End the thread and wait for its end."""
        self._ended.set()
        while self._thread.is_alive():
            try:  # it may wait for room in the queue
                self._made.get_nowait()
            except queue.Empty:
                self._thread.join(0.01)

    def _checked(self, made: T | _Failed) -> T:
        if isinstance(made, _Failed):
            self._made.put(made)  # for whoever asks again
            raise made.problem
        return made

    def _run(self, make: Callable[[int], T], step: int) -> None:
        try:
            while not self._ended.is_set():
                self._made.put(make(step))
                step += 1
        except BaseException as problem:  # the loop raises it
            self._made.put(_Failed(problem))


@dataclass(frozen=True)
class _Failed:
    problem: BaseException


class Prefetcher:
    """The batches of each step, made on the processor.

    Args:
        slices: Of each modality.
        orders: Of each modality; nobody else may use them meanwhile.
        batch_size: Images of a modality in a step.
        step: The first step.
        device: Where the batches are wanted.

    Attributes:
        step: The step whose batches ``take`` returns next.
    """

    def __init__(
        self,
        slices: Mapping[str, Slices],
        orders: Mapping[str, Order],
        *,
        batch_size: int,
        step: int,
        device: torch.device,
    ) -> None:
        self.step = step
        self._slices = slices
        self._orders = orders
        self._batch_size = batch_size
        self._device = device
        self._ahead = Background(self._read, first=step)

    def take(self) -> dict[str, Batch]:
        """Return the batches of the next step; raises what reading raised."""
        batches = self._ahead.take()
        self.step += 1
        return {name: batch.to(self._device) for name, batch in batches.items()}

    def close(self) -> None:
        """End the thread."""
        self._ahead.close()

    def _read(self, step: int) -> dict[str, Batch]:
        return {
            name: slices.batch(self._orders[name].take(step, self._batch_size))
            for name, slices in self._slices.items()
        }


Raw = dict[str, tuple[Tensor, Tensor]]  # images as they are kept, labels


class CudaPrefetcher:
    """The same for a GPU: through page-locked memory, copied while the step before is computed.

    All calls of CUDA are made by the thread that takes, for another thread's may break the capture
    of a graph. The reading thread only fills page-locked buffers, of which there are so many that
    each is copied before it is filled again; see ``take``.
    """

    def __init__(
        self,
        slices: Mapping[str, Slices],
        orders: Mapping[str, Order],
        *,
        batch_size: int,
        step: int,
        device: torch.device,
    ) -> None:
        self.step = step
        self._slices = slices
        self._orders = orders
        self._batch_size = batch_size
        self._device = device
        self._side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._copied: deque[torch.cuda.Event] = deque()
        self._coming: tuple[Raw, torch.cuda.Event] | None = None
        # AHEAD in the queue, one being filled, and two that may be under way to the device.
        self._buffers = [self._buffer() for _ in range(AHEAD + 3)]
        self._ahead = Background(self._read, first=step)

    def take(self) -> dict[str, Batch]:
        """Return the batches of the next step and send those of the one after it on their way."""
        raw, copied = self._coming or self._send(self._ahead.take())
        following = self._ahead.take_if_made()
        self._coming = None if following is None else self._send(following)
        self.step += 1
        current = torch.cuda.current_stream(self._device)
        current.wait_event(copied)  # the device waits, not the host
        for images, labels in raw.values():
            images.record_stream(current)
            labels.record_stream(current)
        return {name: Batch(to_images(images), labels) for name, (images, labels) in raw.items()}

    def close(self) -> None:
        """End the thread; what is still being copied goes on from memory that it holds."""
        self._ahead.close()

    def _read(self, step: int) -> Raw:
        buffer = self._buffers[step % len(self._buffers)]
        for name, slices in self._slices.items():
            images, labels = buffer[name]
            chosen = self._orders[name].take(step, self._batch_size)
            images.numpy()[:] = as_tensor(slices.stored(chosen)).numpy()
            labels.numpy()[:] = slices.labels.numpy()[chosen]
        return buffer

    def _send(self, buffer: Raw) -> tuple[Raw, torch.cuda.Event]:
        """Copy a buffer to the device, beside whatever is computed there."""
        if len(self._copied) == 2:  # sent two steps ago: the wait is for that copy alone
            self._copied.popleft().synchronize()
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._side):
            raw = {
                name: (
                    images.to(self._device, non_blocking=True),
                    labels.to(self._device, non_blocking=True),
                )
                for name, (images, labels) in buffer.items()
            }
            copied.record(self._side)
        self._copied.append(copied)
        return raw, copied

    def _buffer(self) -> Raw:
        part = ranks().part(self._batch_size)
        count = part.stop - part.start
        return {
            name: (
                torch.empty(
                    (count, *slices.shape[1:]), dtype=tensor_type(slices.dtype), pin_memory=True
                ),
                torch.empty(count, dtype=slices.labels.dtype, pin_memory=True),
            )
            for name, slices in self._slices.items()
        }


def to_images(kept: Tensor) -> Tensor:
    """Return images [B, 1, S, S], float32 in [-1, 1], bit for bit as ``Slices.batch`` does.

    Args:
        kept: [B, S, S]: uint8, the bits of uint16 as int16, or float32 in [-1, 1].
    """
    if kept.dtype == torch.float32:
        return kept.unsqueeze(1)
    peak = 255.0
    if kept.dtype == torch.int16:
        kept, peak = kept.to(torch.int32).bitwise_and_(0xFFFF), 65535.0
    # A GPU multiplies with the reciprocal of a number, which gives other bits; not of a tensor.
    unit = kept.float().div_(torch.full((), peak, device=kept.device))
    return unit.mul_(2).sub_(1).unsqueeze(1)


def as_tensor(kept: RawPixels) -> Tensor:
    """Return what ``to_images`` takes; torch computes little with uint16, so its bits are int16."""
    return torch.from_numpy(kept.view(np.int16) if kept.dtype == np.uint16 else kept)


def tensor_type(kind: np.dtype[np.generic]) -> torch.dtype:
    """Return the type of ``as_tensor`` of an array of this type."""
    return as_tensor(np.empty(0, kind)).dtype
