"""Who is in training, validation and test; ``division`` draws it and ``leaks`` guards it.

Only the policy ``patient`` tells how well unseen patients are predicted. The policy ``image`` is
there to repeat the paper's experiment: a patient's slices resemble each other, so that a predictor
may know a test image by its neighbours.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from medxlate.base.errors import DataError
from medxlate.base.records import read_object
from medxlate.dataset.index import Modality

Part = Literal["train", "val", "test"]
Policy = Literal["patient", "image"]
PARTS: tuple[Part, ...] = ("train", "val", "test")
_KEYS: dict[Policy, str] = {"patient": "patients", "image": "images"}  # in split.json
MEANING: Mapping[Policy, str] = {
    "patient": "The split is by patient: no patient ID is in both training and test. The results "
    "apply to new patients.",
    "image": "The split is by slice, not by patient: slices of one patient can be in both training "
    "and test. The results apply to further slices of the same patients and say nothing about new "
    "patients.",
}


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
        return slice_names(name, slices)

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
        """Read a split from the content of split.json.

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
                    f"split.json was changed: its hash does not match its {_KEYS[policy]}."
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
                f"The modality {name} was prepared again after this split was drawn.",
                "Start a new run or study, or give the dataset it was drawn for with --data.",
            )
    return split


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
    random = generator_of(split.seed, "share", name)
    order = random.permutation(len(firsts))
    kept = np.isin(numbers, order[: max(round(share * len(firsts)), 1)])
    share_rows: list[int] = chosen[kept].tolist()
    return share_rows


def slice_names(name: str, slices: pd.DataFrame) -> pd.Series[str]:
    """Return the names of a modality's slices in a split of slices: ``<modality>/<slice_id>``."""
    return f"{name}/" + slices["slice_id"].astype(str)


def _among(units: pd.Series[str], chosen: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Return which units are among the chosen; pandas' ``isin`` is far slower."""
    numbers, known = pd.factorize(units)
    wanted = set(chosen)
    return np.fromiter((unit in wanted for unit in known.tolist()), np.bool_, len(known))[numbers]


def generator_of(seed: int, purpose: str, name: str) -> np.random.Generator:
    """Return a separate random generator for each purpose and modality."""
    text = f"{purpose} {name}"
    return np.random.default_rng([seed, *hashlib.sha256(text.encode()).digest()[:8]])


def _hash(parts: Mapping[Any, list[str]], policy: Policy) -> str:
    """Return the hash of the units; where the policy is not the default, of its name as well."""
    content: dict[str, Any] = {str(part): parts[part] for part in PARTS}
    if policy != "patient":
        content["policy"] = policy
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()
