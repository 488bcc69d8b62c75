"""Batches of images, divided between the processes of a job.

Whole batches are divided, so that a network computes the same ones as in one process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from medxlate.base.distributed import ranks
from medxlate.dataset.loading import Batch, Slices

Predictions = npt.NDArray[Any]


def own_batches(slices: Slices, batch_size: int) -> Iterator[Batch]:
    """Yield those batches of all slices that this process computes."""
    return (slices.batch(rows) for rows in own_rows(len(slices), batch_size))


def own_rows(count: int, batch_size: int) -> list[range]:
    """Return those batches of ``count`` rows that this process computes."""
    starts = ranks().shard(range(0, count, batch_size))
    return [range(start, min(start + batch_size, count)) for start in starts]


def order_of_gathered(count: int, batch_size: int) -> npt.NDArray[np.intp]:
    """Return where each of ``count`` rows is in the processes' rows, one process after another."""
    team = ranks()
    batches = [range(count)[start : start + batch_size] for start in range(0, count, batch_size)]
    gathered = [row for rank in range(team.count) for b in batches[rank :: team.count] for row in b]
    return np.argsort(np.array(gathered, dtype=np.intp))


def gather_predictions(
    predict: Callable[[Iterable[Tensor]], Predictions], slices: Slices, batch_size: int
) -> Predictions:
    """Return the predictions [N, ...] for all slices, each made by one of the processes.

    Args:
        predict: From at least one batch of images to predictions.
        slices: N.
        batch_size: Slices in a batch.
    """
    values = np.empty(0, dtype=np.float32)
    if own_rows(len(slices), batch_size):
        values = predict(batch.images for batch in own_batches(slices, batch_size))
    if ranks().is_alone:
        return values
    gathered = [row for rows in ranks().gather(values.tolist()) for row in rows]
    order = order_of_gathered(len(gathered), batch_size)
    return np.asarray(gathered, dtype=np.float32)[order]


def evenly_spaced(count: int, most: int) -> npt.NDArray[np.intp]:
    """Return at most ``most`` of ``count`` row numbers, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).astype(np.intp))


def some_of(slices: Slices, most: int) -> Slices:
    """Return at most ``most`` of some slices, evenly spaced."""
    return slices.picked(evenly_spaced(len(slices), most))
