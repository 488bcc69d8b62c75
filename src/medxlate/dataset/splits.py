"""Dividing patients, not images, and the guard that keeps it so."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from medxlate.config import SplitConfig
from medxlate.dataset.duplicates import linked_patients
from medxlate.dataset.index import Modality
from medxlate.errors import DataError
from medxlate.files import read_json

Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = ("train", "val", "test")
CHAIN = 20  # patients in one group, from which on it may not hold most of the target


@dataclass(frozen=True)
class Split:
    """Which patients (pseudonyms) belong to which part, the same for every modality.

    Attributes:
        parts: Sorted pseudonyms of each part.
        seed: The seed that drew them.
    """

    parts: Mapping[Part, tuple[str, ...]]
    seed: int

    def rows(self, slices: pd.DataFrame, part: Part) -> list[int]:
        """Return the rows of a modality's table whose patient belongs to ``part``."""
        chosen = slices["patient"].isin(self.parts[part]).to_numpy()
        return [int(row) for row in np.flatnonzero(chosen)]

    def to_json(self) -> dict[str, Any]:
        """Return what split.json holds."""
        parts = {part: list(self.parts[part]) for part in PARTS}
        return {"policy": "patient", "seed": self.seed, "hash": _hash(parts), "patients": parts}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Split:
        """Rebuild a split from split.json.

        Raises:
            DataError: It is damaged or was changed by hand.
        """
        try:
            parts = {part: tuple(values["patients"][part]) for part in PARTS}
            if values["hash"] != _hash({part: list(parts[part]) for part in PARTS}):
                raise DataError("split.json was changed: its hash does not fit its patients.")
            return Split(parts, int(values["seed"]))
        except (KeyError, TypeError, ValueError) as problem:
            raise DataError(f"split.json is damaged: {problem!r}.") from None


def read_split(path: Path, modalities: Mapping[str, Modality]) -> Split:
    """Read a run's split.json and make sure that the dataset is still the one it was drawn for.

    Raises:
        DataError: The file is missing or damaged, or pixels, labels, patients or recipe changed.
    """
    values = read_json(path, error=DataError)
    split = Split.from_json(values)
    for name, modality in modalities.items():
        if values.get("slices", {}).get(name) != modality.fingerprint():
            raise DataError(
                f"The modality {name} was prepared anew after this run was trained.",
                "Train a new run, or name the dataset it was trained on with --data.",
            )
    return split


def split_patients(
    slices: Mapping[str, pd.DataFrame], *, target: str, config: SplitConfig
) -> Split:
    """Divide the patients of all modalities at once.

    Patients of the target modality are divided first, so that its parts have the asked shares;
    then the others. Patients who share an identical or nearly identical image (the same scan
    filed under two ids) stay together. The outcome follows from the order of the files and the
    seed, not from the pseudonyms, and the target's from the target's alone.

    Args:
        slices: The table of each modality, with columns ``patient``, ``pixel_hash`` and
            ``perceptual_hash``.
        target: The modality that is validated and tested.
        config: Shares and seed.

    Raises:
        DataError: A part would hold no patient of the target modality, or shared images join most
            of its patients.
    """
    others = [slices[name] for name in sorted(slices) if name != target]
    groups = _groups([slices[target], *others])
    target_patients = set(slices[target]["patient"])
    with_target = [group for group in groups if target_patients & set(group)]
    _check_chain(with_target, target_patients, target)
    without = [group for group in groups if not target_patients & set(group)]
    random = np.random.default_rng(config.seed)
    parts: dict[Part, list[str]] = {part: [] for part in PARTS}
    for some in (with_target, without):
        for part, chosen in _divide(some, config, random).items():
            parts[part] += [patient for group in chosen for patient in group]
    for part in PARTS:
        if not target_patients & set(parts[part]):
            raise DataError(
                f"The split leaves no {target} patient for {part}: there are "
                f"{len(target_patients)} patients in {len(with_target)} independent groups.",
                "At least 3 are needed; prepare more patients or change split.train/val/test.",
            )
    return Split({part: tuple(sorted(parts[part])) for part in PARTS}, config.seed)


def check_no_leak(split: Split, slices: Iterable[pd.DataFrame]) -> None:
    """Refuse a split in which a patient, or a (nearly) identical image, is on two sides.

    Raises:
        DataError: Naming the patient or the parts.
    """
    tables = list(slices)
    seen: dict[str, Part] = {}
    for part in PARTS:
        for patient in split.parts[part]:
            if seen.setdefault(patient, part) != part:
                raise DataError(
                    f"Patient {patient} is in {seen[patient]} and in {part} at once.",
                    "Draw the split again.",
                )
    for table in tables:
        unknown = set(table["patient"]) - set(seen)
        if unknown:
            raise DataError(
                f"{len(unknown)} patients, such as {min(unknown)}, are not in the split.",
                "The dataset changed after the split was drawn; start a new run.",
            )
    for link in linked_patients(tables):
        one, other = sorted((seen[link.patient], seen[link.other]), key=PARTS.index)
        if one != other:
            what = "An identical" if link.kind == "exact" else "A nearly identical"
            raise DataError(
                f"{what} image is in {one} and in {other}.",
                "The same scan is filed under two patients; draw the split again.",
            )


def check_part(split: Split, part: Part, patients: Iterable[str]) -> None:
    """Refuse images that are about to be used in a part to which their patient does not belong.

    Raises:
        DataError: Naming the patient.
    """
    strangers = set(patients) - set(split.parts[part])
    if strangers:
        raise DataError(f"Patient {min(strangers)} does not belong to {part}, by split.json.")


def _divide(
    groups: list[tuple[str, ...]], config: SplitConfig, random: np.random.Generator
) -> dict[Part, list[tuple[str, ...]]]:
    """Shuffle groups and cut them; every part gets at least one where there are three."""
    order = [groups[i] for i in random.permutation(len(groups))]
    total = len(order)
    least = 1 if total >= 3 else 0
    test = max(round(total * config.test), least)
    val = max(round(total * config.val), least)
    return {"test": order[:test], "val": order[test : test + val], "train": order[test + val :]}


def _groups(slices: Iterable[pd.DataFrame]) -> list[tuple[str, ...]]:
    """Return groups of patients connected by shared images, in order of first appearance."""
    tables = list(slices)
    leader = {patient: patient for table in tables for patient in table["patient"]}

    def find(patient: str) -> str:
        while leader[patient] != patient:
            leader[patient] = leader[leader[patient]]
            patient = leader[patient]
        return patient

    for link in linked_patients(tables):
        leader[find(link.patient)] = find(link.other)
    members: dict[str, list[str]] = {}
    for patient in leader:
        members.setdefault(find(patient), []).append(patient)
    return [tuple(group) for group in members.values()]


def _check_chain(groups: list[tuple[str, ...]], patients: set[str], target: str) -> None:
    """Refuse groups of which one holds most patients: its part would hold most of the data."""
    largest = max((len(patients & set(group)) for group in groups), default=0)
    if largest >= CHAIN and 2 * largest > len(patients):
        raise DataError(
            f"Identical or nearly identical images join {largest} of {len(patients)} {target} "
            "patients into one group, so that they cannot be divided.",
            "`prepare` lists these images; leave those out that show nearly nothing, or prepare "
            "with an intensity recipe that tells them apart.",
        )


def _hash(parts: Mapping[Any, list[str]]) -> str:
    text = json.dumps({str(part): parts[part] for part in PARTS}, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
