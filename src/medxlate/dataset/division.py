"""Drawing who is in training, validation and test.

The target's patients are divided by shares or by numbers. Sources serve training: their
patients train, unless they are target patients in validation or test, or share an image with one. A
small share is held out (``split.source_val``, ``split.source_test``) to choose a predictor of the
source and to judge translations.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import pandas as pd

from medxlate.base.errors import DataError
from medxlate.config import SplitConfig
from medxlate.dataset.links import Group, Link, linked_patients, patient_groups
from medxlate.dataset.splits import PARTS, Part, Split, generator_of, slice_names

T = TypeVar("T")
CHAIN = 20  # patients in one group, from which on it may not hold most of the target


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
        config: Policy, shares or numbers, and seed.
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
        shares = (config.val, config.test) if name == target else _source_shares(config)
        random = generator_of(config.seed, "split", name)
        drawn = _divide(slice_names(name, table).tolist(), *shares, random)
        for part in PARTS:
            if name == target and not drawn[part]:
                raise DataError(
                    f"The split leaves no {target} slice for {part}: the modality has only "
                    f"{len(table)}.",
                    "Prepare more images (at least 3), or change split.train, split.val and "
                    "split.test.",
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

    Patients of the target modality are divided first, so that its parts have the asked shares or
    numbers; then the others, by ``config.sources``. Patients who share an identical or nearly
    identical image (the same scan filed under two ids) stay together. The outcome follows from
    the order of the files and the seed, not from the pseudonyms, and the target's from the
    target's alone.

    Args:
        slices: The table of each modality, with columns ``patient``, ``pixel_hash`` and
            ``perceptual_hash``.
        target: The modality that is validated and tested.
        config: Shares or numbers, and seed.
        links: Patients who share images; None: they are searched.

    Raises:
        DataError: A part would hold no patient of the target modality or fewer than asked, or
            shared images join most of its patients.
    """
    others = [slices[name] for name in sorted(slices) if name != target]
    if links is None:
        links = linked_patients(slices.values())
    groups = patient_groups([slices[target], *others], links)
    patients = set(slices[target]["patient"].unique().tolist())
    with_target = [group for group in groups if not patients.isdisjoint(group)]
    _check_chain(with_target, patients, target)
    without = [group for group in groups if patients.isdisjoint(group)]
    random = np.random.default_rng(config.seed)
    drawn = _divide_target(with_target, patients, config, random)
    rest = _divide(without, *_source_shares(config), random)
    parts = {part: [p for group in drawn[part] + rest[part] for p in group] for part in PARTS}
    _check_numbers(parts, patients, config, target)
    for part in PARTS:
        if patients.isdisjoint(parts[part]):
            raise DataError(
                f"The split leaves no {target} patient for {part}: there are only "
                f"{len(patients)} patients in {len(with_target)} independent groups.",
                "Prepare more patients (at least 3 groups), or change split.train, split.val and "
                "split.test.",
            )
    return Split({part: tuple(sorted(parts[part])) for part in PARTS}, config.seed)


def place_others(
    slices: Iterable[pd.DataFrame],
    placed: Mapping[str, Part],
    links: Iterable[Link],
    config: SplitConfig,
) -> dict[str, Part]:
    """Place the patients that a given split does not name, by ``config.sources``.

    A patient who shares an image with a named one follows it; with several named ones, into the
    latest of their parts: test, else validation.

    Args:
        slices: The tables of all modalities.
        placed: The part of each patient who is named.
        links: Patients who share images.
        config: How sources are divided, and the seed.

    Returns:
        The part of each of the others.
    """
    parts: dict[str, Part] = {}
    free: list[Group] = []
    for group in patient_groups(slices, links):
        known = [placed[patient] for patient in group if patient in placed]
        if known:
            latest = max(known, key=PARTS.index)
            parts |= {patient: latest for patient in group if patient not in placed}
        else:
            free.append(group)
    drawn = _divide(free, *_source_shares(config), np.random.default_rng(config.seed))
    for part in PARTS:
        parts |= {patient: part for group in drawn[part] for patient in group}
    return parts


def _source_shares(config: SplitConfig) -> tuple[float, float]:
    """Return the shares of the sources' own patients in validation and in test."""
    if config.sources == "divided":
        return config.val, config.test
    return config.source_val, config.source_test


def _divide(
    things: Sequence[T], val: float, test: float, random: np.random.Generator
) -> dict[Part, list[T]]:
    """Shuffle and cut; a part with a share gets at least one where there are three things."""
    order = [things[i] for i in random.permutation(len(things))]
    total = len(order)

    def number(share: float) -> int:
        return max(round(total * share), int(total >= 3 and share > 0))

    end = number(test) + number(val)
    return {"test": order[: number(test)], "val": order[number(test) : end], "train": order[end:]}


def _divide_target(
    groups: Sequence[Group], patients: set[str], config: SplitConfig, random: np.random.Generator
) -> dict[Part, list[Group]]:
    """Divide the target's patients by shares or, where numbers are asked for, by these."""
    if config.test_patients is None and config.val_patients is None:
        return _divide(groups, config.val, config.test, random)
    left: dict[Part, int] = {
        "test": config.test_patients or max(round(len(patients) * config.test), 1),
        "val": config.val_patients or max(round(len(patients) * config.val), 1),
    }
    parts: dict[Part, list[Group]] = {part: [] for part in PARTS}
    for i in random.permutation(len(groups)):
        size = len(patients.intersection(groups[i]))
        part: Part = next((name for name, room in left.items() if size <= room), "train")
        if part in left:
            left[part] -= size
        parts[part].append(groups[i])
    return parts


def _check_numbers(
    parts: Mapping[Part, Sequence[str]], patients: set[str], config: SplitConfig, target: str
) -> None:
    numbers: dict[Part, int | None] = {"test": config.test_patients, "val": config.val_patients}
    for part, wanted in numbers.items():
        found = len(patients.intersection(parts[part]))
        if wanted is not None and found != wanted:
            raise DataError(
                f"{part} should have {wanted} {target} patients and got {found} of "
                f"{len(patients)}: too few are left, or groups that share images do not fit.",
                f"Lower split.{part}_patients, or prepare more patients.",
            )


def _check_chain(groups: list[Group], patients: set[str], target: str) -> None:
    """Refuse groups where one holds most patients: its part would hold most of the data."""
    largest = max((len(patients.intersection(group)) for group in groups), default=0)
    if largest >= CHAIN and 2 * largest > len(patients):
        raise DataError(
            f"Identical or nearly identical images link {largest} of {len(patients)} {target} "
            "patients into one group, which cannot be divided.",
            "See the list in prepare.json. Leave out images that show almost nothing, or prepare "
            "with an intensity recipe that distinguishes them.",
        )
