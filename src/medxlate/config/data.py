"""The keys of what is read, and of how patients are divided."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from medxlate.base.records import is_plain
from medxlate.config.section import Section


class DataConfig(Section):
    """What is read."""

    folder: str = Field("data", description="The dataset folder that `prepare` wrote.")
    sources: tuple[str, ...] = Field((), description="Source modalities, as prepared.")
    target: str = Field("", description="Target modality, as prepared.")
    oracle: str = Field(
        "",
        description="Modality of the dataset with true target images of the source patients, where "
        "a paired set has them: the method `oracle` shows them, and nothing else sees them.",
    )
    where: tuple[str, ...] = Field(
        (),
        max_length=100,
        description="Which images are used, of every modality: expressions over the label and the "
        "columns of `prepare --keep`, such as `age >= 18` or, for one modality alone, "
        "`ct: site in ['A', 'B']`; all of them must hold.",
    )
    image_size: int | None = Field(
        None,
        ge=32,
        multiple_of=4,
        description="Side of the square images in training, pixels; none: the dataset's.",
    )
    target_fraction: float = Field(
        1.0, gt=0, le=1, description="Share of the target's training patients that are used."
    )
    source_fraction: float = Field(
        1.0, gt=0, le=1, description="Share of each source's training patients that are used."
    )
    match_labels: bool = Field(
        False,
        description="Label-matched sampling: each target image of a step brings a source image of "
        "its class, or of the nearest value, so that discriminators do not take a difference of "
        "labels for one of modality (Cohen et al. 2018, Jiang et al. 2020). Sources with labels "
        "that the target does not have are left out. Not in the paper.",
    )

    @model_validator(mode="after")
    def _distinct(self) -> DataConfig:
        if len(set(self.sources)) != len(self.sources):
            raise ValueError("sources names a modality twice")
        if not all(map(is_plain, filter(None, (*self.sources, self.target, self.oracle)))):
            raise ValueError("a modality's name is a path")
        if self.target and self.target in self.sources:
            raise ValueError(f"'{self.target}' is both source and target")
        if self.oracle and self.oracle in (*self.sources, self.target):
            raise ValueError(f"oracle '{self.oracle}' is a source or the target itself")
        return self


class SplitConfig(Section):
    """How patients are divided."""

    policy: Literal["patient", "image"] = Field(
        "patient",
        description="patient: nobody is on two sides. image: slices are divided, as in the paper, "
        "so that a patient's slices can fall on both sides: another, easier question.",
    )
    train: float = Field(
        0.7, gt=0, lt=1, description="Share of the target's patients for training."
    )
    val: float = Field(
        0.1, gt=0, lt=1, description="Share of them for choosing the best predictor."
    )
    test: float = Field(0.2, gt=0, lt=1, description="Share of them for the final evaluation.")
    val_patients: int | None = Field(
        None, ge=1, description="Number of target patients in place of the share `val`."
    )
    test_patients: int | None = Field(
        None, ge=1, description="Number of target patients in place of the share `test`."
    )
    file: str = Field(
        "",
        description="A given split: a run's split.json, or a table with the columns patient (ids "
        "as in the files) and part (train, val or test).",
    )
    column: str = Field(
        "",
        description="A given split: a column of `prepare --keep` with train, val or test.",
    )
    sources: Literal["all", "divided"] = Field(
        "all",
        description="Patients who have no target image. all: they train, but for `source_val` and "
        "`source_test`; divided: by the target's shares, so that a large test part costs sources. "
        "Who has a target image, or shares an image with such a patient, always goes with it.",
    )
    source_val: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="sources = all: share of them by which a predictor of the source is chosen "
        "(`transfer`), and that audits look at.",
    )
    source_test: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="sources = all: share of them whose translations are judged (FID, audits, "
        "figures); with 0 only those of the target's test patients are.",
    )
    seed: int = Field(0, ge=0, description="Seed of the division.")

    @model_validator(mode="after")
    def _whole(self) -> SplitConfig:
        if abs(self.train + self.val + self.test - 1) > 1e-6:
            raise ValueError("train, val and test must add up to 1")
        if self.source_val + self.source_test >= 1:
            raise ValueError("source_val and source_test leave no source patient to train on")
        if self.policy == "image" and (self.val_patients or self.test_patients):
            raise ValueError("val_patients and test_patients need the policy patient")
        if self.file and self.column:
            raise ValueError("file and column give two splits")
        if self.is_given and (self.val_patients or self.test_patients):
            raise ValueError("val_patients and test_patients are for a split that is drawn")
        if self.column and self.policy == "image":
            raise ValueError("a column divides patients, not images")
        return self

    @property
    def is_given(self) -> bool:
        """Whether the split is given, instead of drawn."""
        return bool(self.file or self.column)
