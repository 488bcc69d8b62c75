"""Dividing patients or, as in the paper, slices; ``leaks`` guards it.

Only the policy ``patient`` tells how well unseen patients are predicted. The policy ``image`` is
there to repeat the paper's experiment: a patient's slices resemble each other, so that a predictor
may know a test image by its neighbours.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from medxlate.config import SplitConfig
from medxlate.dataset.duplicates import Link, linked_patients
from medxlate.dataset.index import Modality
from medxlate.errors import DataError
from medxlate.records import read_object

T = TypeVar("T")
Part = Literal["train", "val", "test"]
Policy = Literal["patient", "image"]
PARTS: tuple[Part, ...] = ("train", "val", "test")
_KEYS: dict[Policy, str] = {"patient": "patients", "image": "images"}  # in split.json
MEANING: Mapping[Policy, str] = {
    "patient": "No patient is in training and in test at once: the figures hold for new patients.",
    "image": "Slices were divided, not patients: slices of one patient may fall into training and "
    "into test. The figures hold for further slices of known patients; they measure something else "
    "than new patients, and say nothing of those.",
}
CHAIN = 20  # patients in one group, from which on it may not hold most of the target


@dataclass(frozen=True)
class Split:
    """Which units belong to which part.

    A unit is a patient, the same for every modality, or (policy ``image``) a slice.

    Attributes:
        parts: Sorted units of each part: pseudonyms of patients, or names of slices
            ``<modality>/<slice_id>``.
        seed: The seed that drew them.
        policy: What was divided.
    """

    parts: Mapping[Part, tuple[str, ...]]
    seed: int
    policy: Policy = "patient"

    def units(self, name: str, slices: pd.DataFrame) -> pd.Series[str]:
        """Return the unit of every row of the table of the modality ``name``."""
        if self.policy == "patient":
            return slices["patient"]
        return _slice_names(name, slices)

    def rows(self, name: str, slices: pd.DataFrame, part: Part) -> list[int]:
        """Return the rows of the table of the modality ``name`` that belong to ``part``."""
        rows: list[int] = np.flatnonzero(
            _among(self.units(name, slices), self.parts[part])
        ).tolist()
        return rows

    def to_json(self) -> dict[str, Any]:
        """Return what split.json holds."""
        parts = {part: list(self.parts[part]) for part in PARTS}
        return {
            "policy": self.policy,
            "seed": self.seed,
            "hash": _hash(parts, self.policy),
            _KEYS[self.policy]: parts,
        }

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Split:
        """Rebuild a split from split.json.

        Raises:
            DataError: It is damaged or was changed by hand.
        """
        try:
            policy: Policy = values["policy"]
            parts = {part: tuple(values[_KEYS[policy]][part]) for part in PARTS}
            if not all(isinstance(unit, str) for units in parts.values() for unit in units):
                raise TypeError(f"{_KEYS[policy]} are not all text")
            if values["hash"] != _hash({part: list(parts[part]) for part in PARTS}, policy):
                raise DataError(
                    f"split.json was changed: its hash does not fit its {_KEYS[policy]}."
                )
            return Split(parts, int(values["seed"]), policy)
        except (KeyError, TypeError, ValueError) as problem:
            raise DataError(f"split.json is damaged: {problem!r}.") from None


def read_split(path: Path, modalities: Mapping[str, Modality]) -> Split:
    """Read a run's split.json and make sure that the dataset is still the one it was drawn for.

    Raises:
        DataError: The file is missing or damaged, or pixels, labels, patients or recipe changed.
    """
    values = read_object(path, error=DataError)
    split = Split.from_json(values)
    prints = values.get("slices")
    for name, modality in modalities.items():
        if not isinstance(prints, dict) or prints.get(name) != modality.fingerprint():
            raise DataError(
                f"The modality {name} was prepared anew after this split was drawn.",
                "Begin a new run or study, or name the dataset it was drawn for with --data.",
            )
    return split


def draw_split(
    slices: Mapping[str, pd.DataFrame],
    *,
    target: str,
    config: SplitConfig,
    links: Iterable[Link] | None = None,
) -> Split:
    """Divide patients or slices, as ``config.policy`` says.

    Args:
        slices: The table of each modality, with columns ``slice_id``, ``patient``, ``pixel_hash``
            and ``perceptual_hash``.
        target: The modality that is validated and tested.
        config: Policy, shares and seed.
        links: As ``links.find_links`` gives them; None: they are searched. Slices need none.

    Raises:
        DataError: A part would hold nothing of the target modality, or its patients cannot be
            divided.
    """
    if config.policy == "patient":
        return split_patients(slices, target=target, config=config, links=links)
    return split_slices(slices, target=target, config=config)


def split_slices(slices: Mapping[str, pd.DataFrame], *, target: str, config: SplitConfig) -> Split:
    """Divide the slices of each modality at random, as the paper did (section 4.1).

    Slices of one patient, and the same image stored twice, of one patient or of two, may fall on
    both sides: nothing is kept together. The outcome for a modality follows from its own slices,
    its name and the seed, whatever the other modalities are.

    Args:
        slices: The table of each modality, with a column ``slice_id``.
        target: The modality that is validated and tested.
        config: Shares and seed.

    Raises:
        DataError: A part would hold no slice of the target modality.
    """
    parts: dict[Part, list[str]] = {part: [] for part in PARTS}
    for name, table in slices.items():
        drawn = _divide(
            _slice_names(name, table).tolist(), config, _generator(config.seed, "split", name)
        )
        for part in PARTS:
            if name == target and not drawn[part]:
                raise DataError(
                    f"The split leaves no {target} slice for {part}: there are {len(table)}.",
                    "At least 3 are needed; prepare more images or change split.train/val/test.",
                )
            parts[part] += drawn[part]
    return Split({part: tuple(sorted(parts[part])) for part in PARTS}, config.seed, "image")


def split_patients(
    slices: Mapping[str, pd.DataFrame],
    *,
    target: str,
    config: SplitConfig,
    links: Iterable[Link] | None = None,
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
        links: Patients who share images; None: they are searched.

    Raises:
        DataError: A part would hold no patient of the target modality, or shared images join most
            of its patients.
    """
    others = [slices[name] for name in sorted(slices) if name != target]
    if links is None:
        links = linked_patients(slices.values())
    groups = patient_groups([slices[target], *others], links)
    target_patients = set(slices[target]["patient"].unique().tolist())
    with_target = [group for group in groups if not target_patients.isdisjoint(group)]
    _check_chain(with_target, target_patients, target)
    without = [group for group in groups if target_patients.isdisjoint(group)]
    random = np.random.default_rng(config.seed)
    parts: dict[Part, list[str]] = {part: [] for part in PARTS}
    for some in (with_target, without):
        for part, chosen in _divide(some, config, random).items():
            parts[part] += [patient for group in chosen for patient in group]
    for part in PARTS:
        if target_patients.isdisjoint(parts[part]):
            raise DataError(
                f"The split leaves no {target} patient for {part}: there are "
                f"{len(target_patients)} patients in {len(with_target)} independent groups.",
                "At least 3 are needed; prepare more patients or change split.train/val/test.",
            )
    return Split({part: tuple(sorted(parts[part])) for part in PARTS}, config.seed)


def training_share(
    split: Split,
    name: str,
    slices: pd.DataFrame,
    rows: Sequence[int],
    share: float,
) -> list[int]:
    """Return the rows of a share of the patients, or (policy ``image``) of the slices.

    Shares are nested: the rows at 0.25 are among those at 0.5. They follow from the order of the
    files and the split's seed, not from the pseudonyms.

    Args:
        split: It says what the share is of.
        name: The modality.
        slices: Its table.
        rows: Its training rows.
        share: In (0, 1]; at least one patient or slice is kept.

    Returns:
        Some of ``rows``, in their order.
    """
    if share >= 1:
        return list(rows)
    chosen = np.asarray(rows, dtype=np.intp)
    numbers, firsts = pd.factorize(split.units(name, slices.iloc[chosen]))
    random = _generator(split.seed, "share", name)
    order = random.permutation(len(firsts))
    kept = np.isin(numbers, order[: max(round(share * len(firsts)), 1)])
    some: list[int] = chosen[kept].tolist()
    return some


def _slice_names(name: str, slices: pd.DataFrame) -> pd.Series[str]:
    return f"{name}/" + slices["slice_id"].astype(str)


def _among(units: pd.Series[str], some: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Return which of the units are among some of them; pandas' ``isin`` is far slower."""
    numbers, known = pd.factorize(units)
    wanted = set(some)
    return np.fromiter((unit in wanted for unit in known.tolist()), np.bool_, len(known))[numbers]


def _generator(seed: int, purpose: str, name: str) -> np.random.Generator:
    """Return a generator of its own for each purpose and modality."""
    text = f"{purpose} {name}"
    return np.random.default_rng([seed, *hashlib.sha256(text.encode()).digest()[:8]])


def _divide(
    things: Sequence[T], config: SplitConfig, random: np.random.Generator
) -> dict[Part, list[T]]:
    """Shuffle and cut; every part gets at least one where there are three."""
    order = [things[i] for i in random.permutation(len(things))]
    total = len(order)
    least = 1 if total >= 3 else 0
    test = max(round(total * config.test), least)
    val = max(round(total * config.val), least)
    return {"test": order[:test], "val": order[test : test + val], "train": order[test + val :]}


def patient_groups(slices: Iterable[pd.DataFrame], links: Iterable[Link]) -> list[tuple[str, ...]]:
    """Return groups of patients connected by shared images, in order of first appearance."""
    patients = dict.fromkeys(p for table in slices for p in table["patient"].unique().tolist())
    leader: dict[str, str] = {}

    def find(patient: str) -> str:
        while (above := leader.get(patient, patient)) != patient:
            leader[patient] = leader.get(above, above)
            patient = above
        return patient

    for link in links:
        leader[find(link.patient)] = find(link.other)
    members: dict[str, list[str]] = {}
    for patient in patients:
        first = find(patient) if patient in leader else patient
        members.setdefault(first, []).append(patient)
    return [tuple(group) for group in members.values()]


def _check_chain(groups: list[tuple[str, ...]], patients: set[str], target: str) -> None:
    """Refuse groups of which one holds most patients: its part would hold most of the data."""
    largest = max((len(patients.intersection(group)) for group in groups), default=0)
    if largest >= CHAIN and 2 * largest > len(patients):
        raise DataError(
            f"Identical or nearly identical images join {largest} of {len(patients)} {target} "
            "patients into one group, so that they cannot be divided.",
            "`prepare` lists these images; leave those out that show nearly nothing, or prepare "
            "with an intensity recipe that tells them apart.",
        )


def _hash(parts: Mapping[Any, list[str]], policy: Policy) -> str:
    """Return the hash of the units; where the policy is not the default, of its name as well."""
    content: dict[str, Any] = {str(part): parts[part] for part in PARTS}
    if policy != "patient":
        content["policy"] = policy
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()
