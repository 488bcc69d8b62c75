"""The patients of a run: its dataset, and the slices of each part of its split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from medxlate.artifacts.runs import RunFolder, read_config
from medxlate.base.errors import DataError
from medxlate.config import Config
from medxlate.dataset.index import Dataset, Modality
from medxlate.dataset.leaks import check_no_leak
from medxlate.dataset.links import find_links
from medxlate.dataset.loading import Slices
from medxlate.dataset.splits import Split, read_split
from medxlate.dataset.training_data import open_modalities, part_slices

Parts = Mapping[str, Slices]  # by modality


@dataclass(frozen=True)
class Cohort:
    """A run's dataset and the slices of each part, by modality.

    Attributes:
        config: The run's configuration.
        dataset: The dataset.
        tables: The modalities, whose ``slices`` tables hold series, position and more.
        split: Which patient is in which part.
        train: The slices that the run was trained with.
        val: Those by which its best predictor was chosen.
        test: Those that training never saw.
    """

    config: Config
    dataset: Dataset
    tables: Mapping[str, Modality]
    split: Split
    train: Parts
    val: Parts
    test: Parts


def open_cohort(run: RunFolder, data: Path | str | None = None) -> Cohort:
    """Open a run's dataset; refuse one that leaks or has changed.

    Args:
        run: The run.
        data: The dataset folder; None: where it was when the run was trained.

    Raises:
        DataError: The dataset is gone, has changed, or has no test patient of the target.
    """
    config = read_config(run)
    dataset = Dataset(Path(data or config.data.folder))
    tables = open_modalities(dataset, config)
    split = read_split(run.split, tables)
    slices = {name: modality.slices for name, modality in tables.items()}
    check_no_leak(split, slices, find_links(tables, split.policy))
    train, val, test = (
        part_slices(dataset, tables, split, config, part) for part in ("train", "val", "test")
    )
    if not len(test[config.data.target]):
        raise DataError("The split has no test patient of the target modality.")
    return Cohort(config, dataset, tables, split, train, val, test)
