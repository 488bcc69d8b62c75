"""Datasets in which the truth of a translation is known: generated heads, and LGG's T1 and FLAIR.

Both functions leave a dataset folder that ``prepare`` wrote and say who is in training, validation
and test, for ``medxlate.train(config, split=pairs.split)``. The paired modality is named by the
key ``data.oracle``; only the method ``oracle`` is shown it.

    pairs = write_phantom_pairs(Path("bench/seed-1"), seed=1)
    config = medxlate.resolve(overrides={"method": "oracle", "data": pairs.keys})
    medxlate.train(config, split=pairs.split, runs="bench/runs")
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from benchmarks.lgg_tables import slices as lgg_slices
from benchmarks.lgg_tables import without_t1
from medxlate.base.errors import DataError, UsageError
from medxlate.base.events import Listener, silent
from medxlate.dataset.given_split import given_split
from medxlate.dataset.index import Dataset
from medxlate.dataset.loading import Slices
from medxlate.dataset.options import PrepareOptions
from medxlate.dataset.prepare import prepare
from medxlate.dataset.splits import Part, Split
from medxlate.evaluation.paired import find_pairs
from medxlate.phantoms.files import identity, write_phantoms
from medxlate.walkthrough import ORACLE, prepare_phantoms

SCAN_SIZE = 64  # pixels of the generated files, before they are prepared
CHANNELS = {"t1": 0, "flair": 1}  # of LGG's files


@dataclass(frozen=True)
class PairedData:
    """A dataset with pairs, and who is where.

    Attributes:
        data: The dataset folder.
        source: The source modality.
        target: The target modality.
        oracle: The modality of true target images of source patients.
        split: Training, validation and test patients, by pseudonym.
    """

    data: Path
    source: str
    target: str
    oracle: str
    split: Split

    @property
    def keys(self) -> dict[str, Any]:
        """What the section ``data`` of a configuration says of it."""
        return {
            "folder": str(self.data),
            "sources": [self.source],
            "target": self.target,
            "oracle": self.oracle,
        }

    def aligned(self, part: Part) -> list[tuple[int, str, int]]:
        """Return where each source slice of a part has its truth, which shows the same slice.

        Args:
            part: Whose patients. Training patients have it in ``oracle``; LGG's test patients in
                ``target``; generated test patients in ``oracle``.

        Returns:
            The row in the source's table, the modality of the truth and the row in its table.

        Raises:
            DataError: A source slice of the part has no truth.
        """
        dataset = Dataset(self.data)
        tables = {}
        for name in (self.source, self.oracle, self.target):
            slices = dataset.modality(name).slices
            tables[name] = slices.iloc[self.split.rows(name, slices, part)]
        truth: dict[int, tuple[str, int]] = {}
        for name in (self.oracle, self.target):
            if (found := find_pairs(tables[self.source], tables[name])) is not None:
                both = zip(found.source, found.target, strict=True)
                truth |= {one: (name, other) for one, other in both}
        rows = [int(row) for row in tables[self.source].index]
        if lacking := len(rows) - len(truth):
            raise DataError(f"{lacking} of {len(rows)} {self.source} slices have no truth.")
        return [(row, *truth[row]) for row in rows]

    def images(self, part: Part, size: int) -> tuple[Tensor, Tensor]:
        """Return a part's source images and their true target images [N, 1, S, S] in [-1, 1].

        Raises:
            DataError: A source slice of the part has no truth.
        """
        dataset = Dataset(self.data)

        def read(name: str, rows: list[int]) -> Tensor:
            slices = Slices(dataset.modality(name), rows, task=dataset.info.task, image_size=size)
            return slices.batch(range(len(rows))).images

        rows = self.aligned(part)
        truth = torch.cat([read(name, [row]) for _, name, row in rows])
        return read(self.source, [row for row, _, _ in rows]), truth


def write_phantom_pairs(
    folder: Path,
    *,
    target: int = 25,
    source: int = 200,
    val: int = 5,
    test: int = 150,
    held_out: int = 20,
    slices: int = 4,
    size: int = 64,
    label: Literal["age", "sex"] = "age",
    seed: int = 0,
    listener: Listener = silent,
) -> PairedData:
    """Write generated heads, MRI (source) and CT (target), and the true CT of every MRI patient.

    ``folder/raw`` holds the files of ``medxlate demo --only-data``, ``folder/data`` the dataset:

    - ``ct``: ``target`` patients in training, ``val`` in validation, ``test`` in test,
    - ``mri``: ``source`` other patients in training, and ``held_out`` in test, whose translations
      can be compared with the truth without having been trained on,
    - ``oracle``: the CT of all MRI patients, slice for slice.

    A CT's range of 120 HU around 40 is stored; the other of age and sex is kept in the tables.

    Args:
        folder: Where to write; an earlier dataset of the same arguments there is used again.
        target: Target patients in training. Who shares a nearly identical image with a patient
            of validation or test goes there, so that there may be fewer.
        source: Source patients in training.
        val: Target patients in validation.
        test: Target patients in test.
        held_out: Source patients in test.
        slices: Of each patient.
        size: Side of the stored images, pixels.
        label: What is predicted.
        seed: Of the patients.
        listener: Told of progress.

    Raises:
        UsageError: Other patients are there already.
    """
    heads, raw, data = source + held_out, folder / "raw", folder / "data"
    patients = {"ct": target + val + test, "mri": heads}
    wanted = {"patients": patients, "slices": slices, "size": SCAN_SIZE, "seed": seed}
    written = folder / "raw.json"
    if not written.is_file():
        write_phantoms(raw, **wanted, paired={"mri": heads}, listener=listener)
        written.write_text(json.dumps(wanted))
    elif json.loads(written.read_text()) != wanted:
        raise UsageError(f"{raw} holds other patients.", "Delete it, or choose another folder.")
    prepare_phantoms(raw, data, label=label, size=size, listener=listener)
    ct, mri = ([identity(name, n + 1) for n in range(count)] for name, count in patients.items())
    parts: Mapping[Part, Sequence[str]] = {
        "train": [*ct[:target], *mri[:source]],
        "val": ct[target : target + val],
        "test": [*ct[target + val :], *mri[source:]],
    }
    return PairedData(data, "mri", "ct", ORACLE, given_split(data, ("ct", "mri", ORACLE), parts))


def write_lgg_pairs(
    folder: Path,
    kaggle: Path,
    *,
    target: int = 20,
    val: int = 4,
    test: int = 20,
    size: int = 64,
    label: Literal["level", "age", "sex"] = "level",
    seed: int = 0,
    listener: Listener = silent,
) -> PairedData:
    """Write T1 (source) and FLAIR (target) of LGG MRI, whose files hold both of each slice.

    Patients whose T1 is missing, in whose place the files repeat FLAIR, are left out.

    ``folder/tables`` holds a label table a modality (file, patient, level, age, sex),
    ``folder/data`` the dataset:

    - ``flair``: ``target`` patients in training, ``val`` in validation, ``test`` in test,
    - ``t1``: all other patients in training, and the test patients, whose FLAIR is the truth for
      the translations of their T1,
    - ``oracle``: the FLAIR of the source patients in training, slice for slice.

    Args:
        folder: Where to write; an earlier dataset there is used again.
        kaggle: The data set's folder ``kaggle_3m``.
        target: Target patients in training.
        val: Target patients in validation.
        test: Patients in test.
        size: Side of the stored images, pixels.
        label: What is predicted: the height of a slice among its patient's, 0 to 100, the age in
            years, or the sex (1 or 2); the others are kept in the tables.
        seed: Of the draw that deals out the patients.
        listener: Told of progress.

    Raises:
        UsageError: There are too few patients.
    """
    frame = lgg_slices(kaggle)
    frame = frame[~frame["patient"].isin(without_t1(kaggle))]
    everyone = np.random.default_rng(seed).permutation(sorted(frame["patient"].unique())).tolist()
    ends = np.cumsum([target, val, test])
    if ends[-1] >= len(everyone):
        raise UsageError(
            f"{kaggle} has {len(everyone)} patients with an age: too few for {ends[-1]} beside the "
            "sources."
        )
    wanted, chosen, tested, sources = (part.tolist() for part in np.split(everyone, ends))
    tables = {
        "flair": ("flair", [*wanted, *chosen, *tested]),
        "t1": ("t1", [*sources, *tested]),
        ORACLE: ("flair", sources),
    }
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    for name, (sequence, patients) in tables.items():
        table = folder / "tables" / f"{name}.csv"
        frame[frame["patient"].isin(patients)].to_csv(table, index=False)
        options = PrepareOptions(
            labels=table,
            label=label,
            file="file",
            patient="patient",
            keep=tuple(name for name in ("level", "age", "sex") if name != label),
            task="classification" if label == "sex" else "regression",
            recipe="as-is",
            channel=CHANNELS[sequence],
        )
        prepare(
            kaggle,
            modality=name,
            data=folder / "data",
            size=size,
            options=options,
            listener=listener,
        )
    parts: Mapping[Part, Sequence[str]] = {
        "train": [*wanted, *sources],
        "val": chosen,
        "test": tested,
    }
    split = given_split(folder / "data", tuple(tables), parts)
    return PairedData(folder / "data", "t1", "flair", ORACLE, split)
