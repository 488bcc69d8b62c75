"""A study with its data at hand."""

from __future__ import annotations

from pathlib import Path

from medxlate.dataset.index import Dataset
from medxlate.dataset.loading import Slices
from medxlate.dataset.splits import Split, read_split
from medxlate.dataset.training_data import open_modalities, part_slices
from medxlate.study.study import Study, StudyFolder


class Opened:
    """A study, its modalities, its splits and its test slices.

    Args:
        study: The study.
        folder: Where it lies.

    Attributes:
        dataset: Its dataset.
        tables: The modalities, the target last.
        target: The target's name.
        splits: Of each repeat.
        tests: Test slices of each repeat, by modality.
    """

    def __init__(self, study: Study, folder: StudyFolder) -> None:
        self.study = study
        self.folder = folder
        self.dataset = Dataset(Path(study.config.data.folder))
        self.tables = open_modalities(self.dataset, study.config)
        self.target = study.config.data.target
        self.splits: list[Split] = [
            read_split(folder.split(repeat), self.tables) for repeat in range(study.repeats)
        ]
        self.tests: list[dict[str, Slices]] = [
            part_slices(self.dataset, self.tables, split, study.config, "test")
            for split in self.splits
        ]
