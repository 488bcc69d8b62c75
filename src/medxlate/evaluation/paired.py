"""How near translations come to the truth, where the same slice exists in both modalities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from medxlate.base.distributed import ranks
from medxlate.base.events import Listener, Stage
from medxlate.dataset.loading import Slices
from medxlate.evaluation.batches import order_of_gathered, own_rows
from medxlate.evaluation.intervals import REPLICATES, bootstrap
from medxlate.evaluation.results import Metric
from medxlate.evaluation.subject import Subject

NAMES = ("paired_psnr", "paired_ssim", "paired_mae")
RANGE = 2.0  # of values in [-1, 1]
BEST_PSNR = 100.0  # decibels, of images that are the same
SAME_FILE = "the same file and position"
SAME_PLACE = (
    "the same position in each modality's only series, with equal numbers and sizes of slices"
)
REMEDY = "It needs test patients with both modalities, slice by slice in the same place."
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Pairs:
    """Slices of both modalities that show the same.

    Attributes:
        source: Rows of the source's table.
        target: As many of the target's.
        rule: What they have in common, in words.
    """

    source: list[int]
    target: list[int]
    rule: str


def find_pairs(source: pd.DataFrame, target: pd.DataFrame) -> Pairs | None:
    """Return the slices that exist in both modalities; None where there are none.

    Two slices show the same if they have the same patient and original size, and either the same
    file (of several channels, or under two folders) and position in it, or, where no file is the
    same, the same position in the only series of each modality, with as many slices. The latter
    takes for granted that two volumes of equal shape are registered.

    Args:
        source: Rows of its table, indexed by their numbers.
        target: Likewise.
    """
    place = ["patient", "position", "height", "width"]
    source, target = _within_files(source), _within_files(target)
    found = _joined(source, target, ["patient", "height", "width", "file", "within"])
    if found is not None:
        return Pairs(*found, SAME_FILE)
    shapes = [
        table.groupby("patient")["series"].agg(["nunique", "size"]) for table in (source, target)
    ]
    both = shapes[0].merge(shapes[1], left_index=True, right_index=True, suffixes=("", "_other"))
    alike = both[
        (both["nunique"] == 1) & (both["nunique_other"] == 1) & (both["size"] == both["size_other"])
    ].index
    one, other = (table[table["patient"].isin(alike)] for table in (source, target))
    found = _joined(one, other, place)
    return None if found is None else Pairs(*found, SAME_PLACE)


def _within_files(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with the position of each slice in its file; 0 where that holds one."""
    several = table.duplicated(["patient", "file"], keep=False)
    return table.assign(within=table["position"].where(several, 0))


def _joined(
    source: pd.DataFrame, target: pd.DataFrame, keys: list[str]
) -> tuple[list[int], list[int]] | None:
    """Return the rows of both tables that agree in these columns, each unique in its table."""
    tables = []
    for table in (source, target):
        alone = table[~table.duplicated(keys, keep=False)]
        tables.append(alone[keys].assign(row_=alone.index))
    found = tables[0].merge(tables[1], on=keys, suffixes=("", "other"))
    if found.empty:
        return None
    return found["row_"].tolist(), found["row_other"].tolist()


def similarity(fakes: Tensor, reals: Tensor) -> Array:
    """Return psnr (dB), ssim and mean absolute error of each pair, [B, 3].

    The range of values is that of the recipe, 2 in [-1, 1].

    Args:
        fakes: [B, 1, S, S] in [-1, 1].
        reals: Likewise.
    """
    one, other = fakes.double(), reals.double()
    square = ((one - other) ** 2).mean(dim=(1, 2, 3)).numpy()
    with np.errstate(divide="ignore"):
        psnr = np.minimum(10 * np.log10(RANGE**2 / square), BEST_PSNR)
    error = (one - other).abs().mean(dim=(1, 2, 3)).numpy()
    return np.stack([psnr, _structure(one, other).numpy(), error], axis=1)


def _structure(one: Tensor, other: Tensor) -> Tensor:
    """Return ssim of each pair, [B] (Wang et al. 2004, equation 13), where the window fits whole.

    The window is a Gaussian of 1.5 pixels, cut at 5. The code is our own, for torchmetrics' result
    differs by 0.003 from the authors' and scikit-image's, which leave out the border.
    """
    steps = torch.arange(-5, 6, dtype=torch.float64)
    line = torch.exp(-(steps**2) / (2 * 1.5**2))
    line = line / line.sum()
    window = (line[:, None] * line[None, :])[None, None]

    def mean(images: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(images, window)

    a, b = mean(one), mean(other)
    spread = mean(one**2) - a**2 + mean(other**2) - b**2
    common = mean(one * other) - a * b
    c1, c2 = (0.01 * RANGE) ** 2, (0.03 * RANGE) ** 2
    found = (2 * a * b + c1) * (2 * common + c2) / ((a**2 + b**2 + c1) * (spread + c2))
    return found.mean(dim=(1, 2, 3))


def paired_metrics(
    subject: Subject, wanted: Sequence[str], *, listener: Listener
) -> tuple[Metric, ...]:
    """Compare translated test slices with the same slices of the target.

    The processes of a job divide them; all get the same figures.

    Args:
        subject: What is judged.
        wanted: Figures of NAMES.
        listener: Receives stages.

    Returns:
        A figure for each source and name: means over slices with intervals over patients; the
        absolute error is in the target's unit. Without a value where no patient has both.
    """
    found: list[Metric] = []
    for source in subject.translators:
        pairs = _pairs(subject, source)
        if pairs is None:
            found += [_missing(name, source) for name in wanted]
            continue
        listener(
            Stage(f"Comparing {len(pairs.source)} translated {source} slices with the ground truth")
        )
        values, patients = _values(subject, source, pairs)
        found += _figures(subject, source, pairs, values, patients, wanted)
    return tuple(found)


def _pairs(subject: Subject, source: str) -> Pairs | None:
    cohort = subject.cohort
    tables = [
        cohort.tables[name]
        .slices.iloc[cohort.test[name].rows]
        .set_axis(cohort.test[name].rows, axis=0)
        for name in (source, subject.info.target)
    ]
    return find_pairs(*tables)


def _values(subject: Subject, source: str, pairs: Pairs) -> tuple[Array, list[str]]:
    """Return the figures of each pair, and its patient."""
    cohort, task = subject.cohort, subject.cohort.dataset.info.task
    size, target = cohort.test[source].shape[1], cohort.tables[subject.info.target]
    reals = Slices(target, pairs.target, task=task, image_size=size)
    place = {int(row): i for i, row in enumerate(cohort.test[source].rows)}
    own: list[list[float]] = []
    for rows in own_rows(len(reals), subject.batch_size):
        made = subject.translated[source].images([place[pairs.source[i]] for i in rows])
        own += similarity(made, reals.batch(rows).images).tolist()
    gathered = [row for part in ranks().gather(own) for row in part]
    order = order_of_gathered(len(reals), subject.batch_size)
    return np.array(gathered)[order], reals.patients


def _figures(
    subject: Subject,
    source: str,
    pairs: Pairs,
    values: Array,
    patients: list[str],
    wanted: Sequence[str],
) -> list[Metric]:
    recipe = subject.info.target_recipe
    low, high = recipe.output_range
    units = {"paired_psnr": "dB", "paired_mae": recipe.unit}
    values = values * [1, 1, (high - low) / 2]
    columns = {name: values[:, NAMES.index(name)] for name in wanted}

    def means(weights: Array) -> dict[str, Array]:
        return {name: weights @ column / weights.sum(axis=1) for name, column in columns.items()}

    intervals = bootstrap(means, patients)
    found = []
    for name, column in columns.items():
        interval = intervals[name]
        ends = interval or (None, None)
        found.append(
            Metric(
                group="translation",
                name=name,
                unit=units.get(name, ""),
                better="lower" if name == "paired_mae" else "higher",
                of="translated",
                source=source,
                value=float(column.mean()),
                low=ends[0],
                high=ends[1],
                interval=f"bootstrap over {len(set(patients))} patients, {REPLICATES:,} resamples"
                if interval
                else "",
                n=len(column),
                reference=len(column),
                notes=(f"Pairs are slices of the same patient with {pairs.rule}.",),
            )
        )
    return found


def _missing(name: str, source: str) -> Metric:
    return Metric(
        group="translation",
        name=name,
        better="lower" if name == "paired_mae" else "higher",
        of="translated",
        source=source,
        reason=f"{name} cannot be computed: no test patient has the same slice in both modalities.",
        remedy=REMEDY,
    )
