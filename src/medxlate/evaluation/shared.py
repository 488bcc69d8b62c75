"""An evaluation divided between the processes of a job, batch by batch.

Whole batches are divided, so that a network computes the same ones as in one process.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medxlate.base.distributed import ranks
from medxlate.base.errors import DataError
from medxlate.base.events import Listener, Warned
from medxlate.dataset.loading import Batch, Slices
from medxlate.evaluation.store import FeatureStore, StoredFeatures

Predictions = np.ndarray[Any, Any]
KEY_BYTES = 32  # of an image's key


def share(slices: Slices, batch_size: int) -> Iterator[Batch]:
    """Yield those batches of all slices that are this process's."""
    return (slices.batch(rows) for rows in shared_rows(len(slices), batch_size))


def shared_rows(count: int, batch_size: int) -> Iterator[range]:
    """Yield those batches of ``count`` rows that are this process's."""
    for start in ranks().shard(range(0, count, batch_size)):
        yield range(start, min(start + batch_size, count))


def batch_count(count: int, batch_size: int) -> int:
    """Return how many batches of ``count`` rows are this process's."""
    return len(ranks().shard(range(0, count, batch_size)))


def some_of(slices: Slices, most: int) -> Slices:
    """Return at most ``most`` of some slices, evenly spaced."""
    keep = np.linspace(0, len(slices) - 1, min(most, len(slices))).astype(int)
    return slices.picked(np.unique(keep))


def gather_predictions(
    predict: Callable[[Iterable[Tensor]], Predictions], slices: Slices, batch_size: int
) -> Predictions:
    """Return the predictions [N, ...] for all slices, each made by one of the processes.

    Args:
        predict: From at least one batch of images to predictions.
        slices: N.
        batch_size: Slices in a batch.
    """
    own = [] if len(slices) <= ranks().rank * batch_size else share(slices, batch_size)
    values = predict(batch.images for batch in own) if own else np.empty(0, dtype=np.float32)
    if ranks().is_alone:
        return values
    gathered = [row for rows in ranks().gather(values.tolist()) for row in rows]
    return np.asarray(gathered, dtype=np.float32)[_order(len(gathered), batch_size)]


def gather_features(
    own: StoredFeatures, store: FeatureStore, count: int, batch_size: int
) -> StoredFeatures:
    """Return the features of all images [N, D], which the first process may read.

    The processes hand the images' keys to each other, and the features by the store's folder.

    Args:
        own: Those of this process's share.
        store: Where they lie; all processes use one folder.
        count: N.
        batch_size: Of the shares.

    Raises:
        DataError: What another process kept is not in the folder.
    """
    if ranks().is_alone:
        return own
    store.flush()
    keys = torch.tensor([list(name) for name in own.names], dtype=torch.uint8)
    rows = torch.cat(ranks().gather_rows(keys.reshape(-1, KEY_BYTES))).numpy()
    names = [bytes(row) for row in rows[_order(count, batch_size)]]
    if ranks().is_first and (missing := store.look_again(names)):
        raise DataError(
            f"{store.folder} lacks the features of {missing} images that other processes kept.",
            "Evaluate in one process, or on a disk that all processes share.",
        )
    return StoredFeatures(store, names)


@contextmanager
def common_folder(folder: Path, listener: Listener) -> Iterator[Path]:
    """Yield the folder, or, where it cannot be written, a temporary one for all processes.

    A process alone needs none: ``FeatureStore`` does without by itself.
    """
    team = ranks()
    if team.is_alone:
        yield folder
        return
    temporary: str | None = None
    if team.is_first and (problem := _cannot_write(folder)):
        listener(Warned(f"{folder} cannot keep features for the next time: {problem}"))
        temporary = tempfile.mkdtemp(prefix="medxlate-features-")
    try:
        yield Path(team.broadcast(temporary) or folder)
        team.barrier()
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _cannot_write(folder: Path) -> str:
    """Return why no file can be made in a folder; "" where it can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as problem:
        return str(problem)
    return ""


def _order(count: int, batch_size: int) -> Sequence[int]:
    """Return, for each of ``count`` slices, where it is in the shares, one after the other."""
    starts = range(0, count, batch_size)
    each = [range(count)[start : start + batch_size] for start in starts]
    place = {
        index: at
        for at, index in enumerate(
            index
            for rank in range(ranks().count)
            for batch in each[rank :: ranks().count]
            for index in batch
        )
    }
    return [place[index] for index in range(count)]
