"""Images that two patients share: the same scan filed under two ids, perhaps stored differently.

The perceptual hash (``images/perceptual.py``) has 512 bits: with 256, two brains cut at one height
came as near (28 bits) as one slice stored twice (29 bits).

``NEAR`` was measured, in differing bits of 512. The same slice again, of 837 slices of brain MRI
(T1, FLAIR, T1 with contrast) and chest X-ray and 63 of chest CT; median of each kind of image:

==========================================  ======  ====  =======  ===========
the other time                              median  99 %  largest  32 or fewer
==========================================  ======  ====  =======  ===========
8 bits in place of 16                            0     2        6    100 %
128 px in place of 256                        2-14    26       32    100 %
512 px in place of 256                         0-8    16       20    100 %
resampled to 200 px and back                  4-22    30       40   99.3 %
JPEG, quality 60                               2-4    10       14    100 %
JPEG, quality 30                              4-10    18       26    100 %
noise of 2 % of the range                      4-6    12       18    100 %
percentiles 1, 99 in place of 0.5, 99.5        2-4    18       32    100 %
percentiles 2, 98                             6-12    36       56   98.3 %
percentiles 0, 100                             2-6    25       52   99.4 %
CT window 50, 350 in place of 40, 400           16    31       32    100 %
==========================================  ======  ====  =======  ===========

The nearest slices of different patients: 80 in FLAIR, 86 in T1, 70 in T1 with contrast (80
patients, 1,197 slices), 74 across these three; 178 in CT (34 patients, 63 slices), 158 in X-ray (64
patients, 117 images). Another kind of CT window (brain for soft tissue: median 62; lung: 118) makes
another picture and is not found; nor is an image that was cropped, shifted or turned.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from medxlate.base.errors import DataError
from medxlate.images.perceptual import BITS

NEAR = 32  # differing bits of 512; see above
KEPT_PAIRS = 200_000  # beyond this only the nearest pair of two patients is kept
_FIRST = 256  # bits compared for every pair; the others only where these differ in NEAR or fewer
_BLOCK = 512

DuplicateKind = Literal["exact", "near"]
Row = tuple[str, str, str]  # patient, pixel_hash, perceptual_hash
Bits = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]


@dataclass(frozen=True, order=True)
class Duplicate:
    """Two slices of different patients that show the same.

    Attributes:
        kind: ``exact``: the same stored pixels; ``near``: nearly the same picture.
        distance: Differing bits of the perceptual hash, of 512; 0 for ``exact``.
        modality: Of the first slice.
        file: Of the first slice, relative to the raw folder.
        patient: Pseudonym.
        other_modality: Of the second slice.
        other_file: Of the second slice.
        other_patient: Pseudonym.
    """

    kind: DuplicateKind
    distance: int
    modality: str
    file: str
    patient: str
    other_modality: str
    other_file: str
    other_patient: str


@dataclass(frozen=True)
class Duplicates:
    """What the slices of a dataset have in common.

    Attributes:
        pairs: Slices of different patients that show the same, exact ones first. An image that
            many patients share is listed once for each of them, against the first. Where there
            are more than ``KEPT_PAIRS`` near pairs, the nearest of any two patients.
        within_patients: How many slices repeat the stored pixels of another slice of the same
            patient. They do no harm to a split.
    """

    pairs: tuple[Duplicate, ...]
    within_patients: int


def near_duplicates(tables: Mapping[str, pd.DataFrame]) -> Duplicates:
    """List the slices that different patients share, within and across modalities.

    Args:
        tables: The table of each modality, with columns ``file``, ``patient``, ``pixel_hash`` and
            ``perceptual_hash``.

    Raises:
        DataError: A table has no column ``perceptual_hash``.
    """
    rows = [row for name in sorted(tables) for row in image_rows(tables[name])]
    places = [(name, str(file)) for name in sorted(tables) for file in tables[name]["file"]]

    pairs = sorted(
        Duplicate(kind, distance, *places[i], rows[i][0], *places[j], rows[j][0])
        for i, j, kind, distance in shared_images(rows)
    )
    return Duplicates(tuple(pairs), len(rows) - len({row[:2] for row in rows}))


def image_rows(table: pd.DataFrame) -> Iterator[Row]:
    """Return patient, pixel hash and perceptual hash of each slice of a table.

    Raises:
        DataError: It has no column ``perceptual_hash``.
    """
    if "perceptual_hash" not in table.columns:
        raise DataError(
            "The dataset has no perceptual hashes: an older version of medxlate prepared it.",
            "Prepare it again: `medxlate prepare RAW --modality NAME --overwrite`.",
        )
    columns = (table[name] for name in ("patient", "pixel_hash", "perceptual_hash"))
    return zip(*columns, strict=True)


def shared_images(rows: Iterable[Row]) -> Iterator[tuple[int, int, DuplicateKind, int]]:
    """Yield first row, second row, kind and distance of images that different patients share."""
    firsts: dict[str, int] = {}
    seen: set[tuple[str, str]] = set()
    patients: list[str] = []
    hashes: list[str] = []
    for i, (patient, pixels, perceptual) in enumerate(rows):
        patients.append(patient)
        hashes.append(perceptual)
        first = firsts.setdefault(pixels, i)
        if patient != patients[first] and (patient, pixels) not in seen:
            yield first, i, "exact", 0
        seen.add((patient, pixels))
    # A constant image resembles nothing, and one copy of the same pixels is enough.
    kept = [i for i in firsts.values() if hashes[i].strip("0")]
    numbers = {patient: n for n, patient in enumerate(dict.fromkeys(patients))}
    owners = np.array([numbers[patients[i]] for i in kept], dtype=np.intp)
    for a, b, distance in _near_pairs(_signs([hashes[i] for i in kept]), owners):
        yield kept[a], kept[b], "near", distance


def _signs(hashes: list[str]) -> Bits:
    """Return -1 and 1 for the bits, float32 [n, 512]: a product of two rows counts agreements."""
    packed = np.frombuffer(bytes.fromhex("".join(hashes)), dtype=np.uint8)
    bits = np.unpackbits(packed.reshape(len(hashes), BITS // 8), axis=1)
    return bits.astype(np.float32) * 2 - 1


def _near_pairs(signs: Bits, owners: Indices) -> Iterator[tuple[int, int, int]]:
    """Yield rows a < b of different owners that differ in at most NEAR bits, and in how many."""
    found = np.empty((0, 3), dtype=np.intp)
    low, high = signs[:, :_FIRST], signs[:, _FIRST:]
    for top in range(0, len(signs), _BLOCK):
        for left in range(top, len(signs), _BLOCK):
            agreement = low[top : top + _BLOCK] @ low[left : left + _BLOCK].T
            flat = np.flatnonzero(agreement >= _FIRST - 2 * NEAR)
            a, b = np.divmod(flat, agreement.shape[1])
            agreed = agreement.ravel()[flat]
            a, b = a + top, b + left
            fit = (a < b) & (owners[a] != owners[b])
            a, b, agreed = a[fit], b[fit], agreed[fit]
            agreed = agreed + np.einsum("ij,ij->i", high[a], high[b])
            distance = ((BITS - agreed) / 2).astype(np.intp)
            new = np.stack([a, b, distance], axis=1)[distance <= NEAR]
            found = np.concatenate([found, new])
            if len(found) > KEPT_PAIRS:
                found = _nearest_of_patients(found, owners)
    yield from ((int(a), int(b), int(distance)) for a, b, distance in found)


def _nearest_of_patients(found: Indices, owners: Indices) -> Indices:
    """Keep the nearest pair of any two patients."""
    patients = np.sort(owners[found[:, :2]], axis=1)
    order = np.lexsort((found[:, 1], found[:, 0], found[:, 2]))
    _, first = np.unique(patients[order], axis=0, return_index=True)
    return found[order][first]
