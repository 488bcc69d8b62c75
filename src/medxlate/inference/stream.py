"""Scans through a network, a unit after the other: read ahead, computed, finished behind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from medxlate.base.events import Listener, Progress
from medxlate.images.scan import Scan
from medxlate.inference.engine import Engine, Pending
from medxlate.inference.inputs import Reader, SliceBatch, slices_of
from medxlate.inference.pipeline import ahead, behind

# Batches in a unit, at least: its last one is seldom full, and what was computed of an unfinished
# unit is lost when the process is killed.
BATCHES = 4


@dataclass(frozen=True)
class Unit:
    """Consecutive scans that are computed, written and noted as done as a whole.

    Units depend on the list of scans and the size of batches alone. No batch holds slices of two,
    so that the same batches are computed whoever computes a unit, and whatever was done before.

    Attributes:
        number: Which unit it is, from 0.
        scans: At least one.
    """

    number: int
    scans: tuple[Scan, ...]

    @property
    def key(self) -> str:
        """What it is called in the journal; what it is made from stands in ``work.json``."""
        return str(self.number)

    @property
    def slices(self) -> int:
        """About how many slices its scans have, from their headers."""
        return sum(map(slices_of, self.scans))


def units_of(scans: Iterable[Scan], batch_size: int) -> list[Unit]:
    """Return the scans, in their order, as units of four batches or more."""
    units: list[Unit] = []
    waiting: list[Scan] = []
    slices = 0
    for scan in scans:
        waiting.append(scan)
        slices += slices_of(scan)
        if slices >= BATCHES * batch_size:
            units.append(Unit(len(units), tuple(waiting)))
            waiting, slices = [], 0
    if waiting:
        units.append(Unit(len(units), tuple(waiting)))
    return units


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
        finish: Receives each batch, in order and in one thread, with its outputs, which it must
            wait for; None where all its slices are near-empty.
        ended: Receives each unit after its last batch, in the same thread.
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
