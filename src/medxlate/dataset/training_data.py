"""The slices that a run trains, validates and tests on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from medxlate.base.errors import ConfigError, DataError
from medxlate.config import Config, OptimizerConfig
from medxlate.dataset.division import draw_split
from medxlate.dataset.given_split import configured_split
from medxlate.dataset.index import Dataset, Modality
from medxlate.dataset.leaks import check_no_leak, check_part
from medxlate.dataset.links import Link, find_links
from medxlate.dataset.loading import Slices
from medxlate.dataset.selection import by_modality, selected
from medxlate.dataset.splits import Part, Split, training_share


@dataclass(frozen=True)
class Data:
    """Training and validation slices by modality.

    Attributes:
        train: What a step shows; a method may replace a source's images.
        val: What chooses the best predictor.
        oracle: True target images of source patients in training; None where no pairs are named.
        largest: Images of the largest modality before any was replaced; None without replacement.
        follow: The modality whose labels the others' images follow in each step; "" for none.
    """

    train: Mapping[str, Slices]
    val: Mapping[str, Slices]
    oracle: Slices | None = None
    largest: int | None = None
    follow: str = ""

    def showing(self, instead: Mapping[str, Slices]) -> Data:
        """Return the data with other slices in place of some modalities'."""
        largest = self.largest or _largest(self.train)
        return replace(self, train={**self.train, **instead}, largest=largest)

    def steps_per_epoch(self, config: OptimizerConfig) -> int:
        """Return the configured number, else as many as show the largest modality once.

        All modalities count, also those that a method does not use, so that every method makes
        the same number of updates.
        """
        if config.steps_per_epoch is not None:
            return config.steps_per_epoch
        return math.ceil((self.largest or _largest(self.train)) / config.batch_size)


def _largest(part: Mapping[str, Slices]) -> int:
    return max(len(slices) for slices in part.values())


def named_modalities(config: Config) -> tuple[str, ...]:
    """Return the sources, the target and, where pairs are named, the paired modality."""
    data = config.data
    return (*data.sources, data.target, *([data.oracle] * bool(data.oracle)))


def open_modalities(dataset: Dataset, config: Config) -> dict[str, Modality]:
    """Open every modality that is named, also where the method does not use it.

    A test patient's images of any modality are then outside of every method's training, and
    methods on the same data share their split and their number of updates. So are a source
    patient's paired target images, which fall where the patient falls.

    Raises:
        UsageError: ``config.data.where`` cannot be used, or selects nothing of a modality.
        DataError: A modality was not prepared, or its files are damaged.
    """
    opened = {name: dataset.modality(name) for name in named_modalities(config)}
    where = by_modality(config.data.where, list(dataset.info.modalities))
    label = dataset.info.task.name
    return {name: selected(each, where[name], label=label) for name, each in opened.items()}


def make_split(
    dataset: Dataset,
    tables: Mapping[str, Modality],
    config: Config,
    links: Iterable[Link] | None = None,
) -> Split:
    """Return the split that is configured: given, or drawn.

    Args:
        dataset: The dataset.
        tables: The modalities that are used.
        config: ``split`` says how.
        links: Patients who share images; None: they are looked up.

    Raises:
        UsageError, DataError: The patients cannot be divided, or the given split does not fit.
    """
    target, settings = config.data.target, config.split
    if links is None:
        links = find_links(tables, settings.policy)
    if settings.is_given:
        return configured_split(dataset, tables, target=target, config=settings, links=links)
    slices = {name: modality.slices for name, modality in tables.items()}
    return draw_split(slices, target=target, config=settings, links=links)


def image_size(dataset: Dataset, config: Config) -> int:
    """Return the side of the images in training; raises ConfigError above the prepared size."""
    size = config.data.image_size or dataset.info.image_size
    if size > dataset.info.image_size:
        raise ConfigError(
            f"data.image_size is {size}, but the images of the dataset are only "
            f"{dataset.info.image_size} px.",
            f"Prepare it with --size {size}, or choose a smaller preset.",
        )
    return size


def part_slices(
    dataset: Dataset, tables: Mapping[str, Modality], split: Split, config: Config, part: Part
) -> dict[str, Slices]:
    """Return the slices of one part by modality, in training the configured share of them.

    The paired modality is left out: its images are no target's, least of all in validation or test.

    Raises:
        DataError: A slice does not belong to the part.
    """
    size = image_size(dataset, config)
    made = {}
    for name, modality in tables.items():
        if name == config.data.oracle:
            continue
        rows = split.rows(name, modality.slices, part)
        if part == "train":
            data = config.data
            share = data.target_fraction if name == data.target else data.source_fraction
            rows = training_share(split, name, modality.slices, rows, share)
        units = split.units(name, modality.slices).iloc[rows]
        check_part(split, part, units.unique().tolist())
        made[name] = Slices(modality, rows, task=dataset.info.task, image_size=size)
    return made


def make_data(
    dataset: Dataset, tables: Mapping[str, Modality], split: Split, config: Config
) -> Data:
    """Return training and validation slices; refuses a leaking split.

    Raises:
        DataError: A patient or image is on two sides, or a modality has no training patient.
    """
    rows = {name: modality.slices for name, modality in tables.items()}
    check_no_leak(split, rows, find_links(tables, split.policy))
    train, val = (part_slices(dataset, tables, split, config, part) for part in ("train", "val"))
    for name, slices in train.items():
        if len(slices) == 0:
            raise DataError(
                f"No {name} patient is left for training: all went to validation or test.",
                "Prepare more patients, or change split.seed.",
            )
    return Data(train, val, _paired_slices(dataset, tables, split, config))


def _paired_slices(
    dataset: Dataset, tables: Mapping[str, Modality], split: Split, config: Config
) -> Slices | None:
    """Return the paired modality's slices of training patients, if there is one."""
    if not config.data.oracle:
        return None
    modality = tables[config.data.oracle]
    rows = split.rows(modality.name, modality.slices, "train")
    size = image_size(dataset, config)
    return Slices(modality, rows, task=dataset.info.task, image_size=size)
