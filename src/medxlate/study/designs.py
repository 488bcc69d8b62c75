"""The designs of a study: what a repeat draws anew, and what stays.

``resampled``: the split. Splits overlap, and so do their results; what is measured is how well a
method does on such a data set. ``redrawn``: a few of the target's training patients, of a pool of
their own; patients who test and validate stay, so that the spread over patients and that over
draws are told apart. ``given``: nothing but the seed of the weights; the split is somebody's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count, islice

from medxlate.base.errors import DataError, UsageError
from medxlate.config import SplitConfig
from medxlate.dataset.index import Dataset, Modality
from medxlate.dataset.leaks import check_no_leak
from medxlate.dataset.links import find_links
from medxlate.dataset.splits import Split
from medxlate.dataset.training_data import make_split
from medxlate.study.checks import check_training, covers_classes
from medxlate.study.power import Design
from medxlate.study.study import Study

NUMBER: Mapping[Design, int] = {"resampled": 10, "redrawn": 8, "given": 5}  # of repeats
VALIDATE = 5  # target patients, where few train: as many as an author with few would spare
TRIES = 1000  # draws in which a class is looked for
LARGE = 0.5  # of the pool; draws of more have most patients in common
MUCH = (
    "More than half of the available {target} patients are drawn each time, so draws share most of "
    "their patients and vary less than draws of new patients would."
)


def choose_design(config: SplitConfig, target_patients: Sequence[int], whole: bool) -> Design:
    """Return the design that is asked for.

    Args:
        config: Says whether a split is given.
        target_patients: Numbers of training patients that are drawn; none: shares are taken.
        whole: Whether no shares of the target's training patients are asked for.

    Raises:
        UsageError: What is asked for belongs to different designs, or cannot be.
    """
    if not target_patients:
        return "given" if config.is_given else "resampled"
    if config.is_given:
        raise UsageError(
            "--target-patients cannot be combined with a given split.",
            "Drop one of them, or use --target-fraction for fractions of the split.",
        )
    if not whole:
        raise UsageError(
            "--target-patients and --target-fraction cannot be combined.",
            "Drop one of them.",
        )
    if config.policy == "image":
        raise UsageError("--target-patients needs --policy patient.", "Drop --policy image.")
    if min(target_patients) < 1:
        raise UsageError(
            f"{min(target_patients)} target patients are not enough.", "Use 1 or more."
        )
    return "redrawn"


def settled(config: SplitConfig, design: Design) -> SplitConfig:
    """Return how patients are divided, with as many to validate as the design takes."""
    if design != "redrawn" or config.val_patients is not None:
        return config
    return config.model_copy(update={"val_patients": VALIDATE})


def check_room(target: Modality, wanted: Sequence[int], config: SplitConfig) -> None:
    """Refuse a target with fewer patients than train, validate and test together.

    Raises:
        DataError: With all of these numbers.
    """
    there = target.slices["patient"].nunique()
    test, val = config.test_patients or max(round(there * config.test), 1), config.val_patients or 1
    needed = max(wanted) + val + test
    if there < needed:
        raise DataError(
            f"{max(wanted)} {target.name} patients for training, {val} for validation and {test} "
            f"for test make {needed}, but there are only {there}.",
            "Lower --target-patients, --val-patients or --test-patients, or prepare more patients.",
        )


def pool_size(split: Split, target: Modality) -> int:
    """Return how many target patients there are to train on, before any share is taken."""
    rows = split.rows(target.name, target.slices, "train")
    return int(target.slices["patient"].iloc[rows].nunique())


def fractions_of(wanted: Sequence[int], split: Split, target: Modality) -> tuple[float, ...]:
    """Return the shares of the pool that give these numbers of patients, rising.

    Raises:
        DataError: The pool is smaller, because shared images keep patients together.
    """
    pool = pool_size(split, target)
    if max(wanted) > pool:
        raise DataError(
            f"{max(wanted)} {target.name} patients cannot be drawn: only {pool} are left for "
            "training.",
            "Lower --target-patients, --val-patients or --test-patients.",
        )
    return tuple(number / pool for number in sorted(set(wanted)))


def draw_splits(study: Study, dataset: Dataset, tables: Mapping[str, Modality]) -> list[Split]:
    """Return the split of each repeat, over all modalities of the study; none leaks.

    Raises:
        DataError: There are too few patients, or a given split does not fit.
    """
    slices = {name: modality.slices for name, modality in tables.items()}
    links = find_links(tables, study.config.split.policy)

    def draw(seed: int) -> Split:
        settings = study.config.split.model_copy(update={"seed": seed})
        config = study.config.model_copy(update={"split": settings})
        split = make_split(dataset, tables, config, links)
        check_no_leak(split, slices, links)
        return split

    first = study.config.split.seed
    if study.design == "resampled":
        splits = [draw(first + repeat) for repeat in range(study.repeats)]
    elif study.design == "given":
        splits = [draw(first)] * study.repeats
    else:
        splits = _redrawn(study, draw(first), dataset, tables[study.config.data.target])
    check_training(slices, splits)
    return splits


def _redrawn(study: Study, split: Split, dataset: Dataset, target: Modality) -> list[Split]:
    """Return the same parts with a seed for each draw of training patients.

    The seeds are the next ones with which the smallest number of patients has every class: who
    finds no patient of a class cannot train a classifier. Where none are found, the draws are
    left as they are, and are refused for what they lack.
    """
    smallest = min(study.target_fractions)
    seeds = islice(count(split.seed), TRIES)
    draws = (replace(split, seed=seed) for seed in seeds)
    task = dataset.info.task
    full = (
        each for each in draws if covers_classes(task, target.slices, target.name, each, smallest)
    )
    found = list(islice(full, study.repeats))
    missing = range(study.repeats - len(found))
    return found + [replace(split, seed=split.seed + TRIES + number) for number in missing]
