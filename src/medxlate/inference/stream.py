"""Scans through a network: read ahead, computed, finished behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from medxlate.events import Listener, Progress
from medxlate.images.scan import Scan
from medxlate.inference.engine import Engine, Pending
from medxlate.inference.inputs import Batch, Reader, slices_of
from medxlate.inference.pipeline import ahead, behind


def stream(
    scans: Sequence[Scan],
    reader: Reader,
    engine: Engine,
    finish: Callable[[Batch, Pending | None], None],
    *,
    failed: dict[str, str],
    listener: Listener,
) -> None:
    """Compute all slices of scans, while the next ones are read and the last ones finished.

    Args:
        scans: What is read, in this order.
        reader: Reads it, in a thread.
        engine: Computes it, in this thread.
        finish: Takes each batch, in order and in one thread, with its outputs, which it must wait
            for; None where all its slices are near-empty.
        failed: Is given what could not be read, before ``finish`` is called for what came after.
        listener: Told of slices computed, in this thread.
    """

    def write(computed: tuple[Batch, Pending | None]) -> None:
        batch, outputs = computed
        failed.update(batch.failed)
        finish(batch, outputs)

    total = sum(slices_of(scan) for scan in scans)
    done = 0
    listener(Progress("slices", 0, total))
    batches = reader.batches(scans, batch_size=engine.batch_size or 1, pinned=engine.on_cuda)
    with behind(write) as put, ahead(batches) as ready:
        for batch in ready:
            put((batch, None if batch.images is None else engine.start(batch.images)))
            done += len(batch.items)
            listener(Progress("slices", min(done, total), total))
