"""Scans through a network: read ahead, computed, finished behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from medxlate.base.events import Listener, Progress
from medxlate.inference.engine import Engine, Pending
from medxlate.inference.inputs import Reader, SliceBatch
from medxlate.inference.pipeline import ahead, behind
from medxlate.inference.units import Unit


def stream(
    units: Sequence[Unit],
    reader: Reader,
    engine: Engine,
    finish: Callable[[SliceBatch, Pending | None], None],
    ended: Callable[[Unit], None],
    *,
    batch_size: int,
    listener: Listener,
) -> None:
    """Compute all slices of scans, while the next ones are read and the last ones finished.

    Args:
        units: What is read, in this order.
        reader: Reads it, in a thread.
        engine: Computes it, in this thread.
        finish: Takes each batch, in order and in one thread, with its outputs, which it must wait
            for; None where all its slices are near-empty.
        ended: Takes each unit after its last batch, in the same thread.
        batch_size: Slices in a batch.
        listener: Receives the number of computed slices, in this thread.
    """

    def write(computed: Unit | tuple[SliceBatch, Pending | None]) -> None:
        if isinstance(computed, Unit):
            ended(computed)
        else:
            finish(*computed)

    def read() -> Iterator[Unit | SliceBatch]:
        for unit in units:
            yield from reader.batches(unit.scans, batch_size=batch_size, pinned=engine.on_cuda)
            yield unit

    total = sum(unit.slices for unit in units)
    done = 0
    listener(Progress("slices", 0, total))
    with behind(write) as put, ahead(read()) as ready:
        for batch in ready:
            if isinstance(batch, Unit):
                put(batch)
                continue
            put((batch, None if batch.images is None else engine.start(batch.images)))
            done += len(batch.items)
            listener(Progress("slices", min(done, total), total))
