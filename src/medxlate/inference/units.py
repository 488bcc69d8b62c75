"""Scans in portions that are computed, written and noted as done as a whole.

They depend on the list of scans and the size of batches alone. No batch holds slices of two units,
so that the same batches are computed whoever computes a unit, and whatever was done before.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from medxlate.images.scan import Scan
from medxlate.inference.inputs import slices_of

# Batches in a unit, at least: its last one is seldom full, and what was computed of an unfinished
# unit is lost when the process is killed.
BATCHES = 4


@dataclass(frozen=True)
class Unit:
    """Consecutive scans.

    Attributes:
        number: Which unit it is, from 0.
        scans: At least one.
    """

    number: int
    scans: tuple[Scan, ...]

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
