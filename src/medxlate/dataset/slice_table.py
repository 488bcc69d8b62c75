"""The table of a modality's slices, ``slices.parquet``, checked for damage while it is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from medxlate.dataset.labels import Task

NUMBERS = ("shard", "row", "series", "position", "height", "width")
TEXTS = ("slice_id", "patient", "file", "pixel_hash")
HASH_DIGITS = 128  # of a perceptual hash
NEEDED = ("shard", "row", "patient", "label")
MAX_ROW_BYTES = 1 << 14  # of a row, unpacked; names of files are the longest
SPARE_BYTES = 1 << 20  # of a table, beside its rows


def read_slice_table(path: Path, counts: Sequence[int], task: Task) -> pd.DataFrame:
    """Read the table and compare it with the shards.

    Args:
        path: The parquet file.
        counts: How many slices each shard holds; the table must have as many rows.
        task: What the labels are of.

    Raises:
        OSError: It cannot be read.
        ValueError: It is damaged, has another length than the shards, claims more memory than
            slices need (both by its metadata, before a row is read), lacks a column, or names a
            slice or a label that does not exist.
    """
    try:
        with pq.ParquetFile(path) as file:
            _check_claims(file.metadata, sum(counts))
            table = file.read()
        table.validate(full=True)  # or broken text would be found much later
        frame: pd.DataFrame = table.to_pandas(ignore_metadata=True)
    except (OSError, ValueError):
        raise
    except Exception as problem:  # arrow and thrift have many kinds of their own
        raise ValueError(f"{path.name} cannot be read: {type(problem).__name__}") from None
    _check_columns(frame)
    _check_hashes(frame)
    _check_folded(frame)
    _check_places(frame, counts)
    _check_labels(frame, task)
    return frame


def _check_claims(metadata: pq.FileMetaData, rows: int) -> None:
    if metadata.num_rows != rows:
        raise ValueError("slices.parquet and shards differ in length")
    groups = map(metadata.row_group, range(metadata.num_row_groups))
    if sum(group.total_byte_size for group in groups) > MAX_ROW_BYTES * rows + SPARE_BYTES:
        raise ValueError("slices.parquet is larger than its slices need")


def _check_columns(frame: pd.DataFrame) -> None:
    for name in (*NUMBERS, *TEXTS, "label"):
        if name in NEEDED and name not in frame:
            raise ValueError(f"slices.parquet has no column {name}")
        if name in frame and frame[name].isna().any():
            raise ValueError(f"the column {name} of slices.parquet has gaps")
    for name in filter(frame.__contains__, NUMBERS):
        if frame[name].dtype.kind != "i":
            raise ValueError(f"the column {name} of slices.parquet is not of integers")
    for name in filter(frame.__contains__, TEXTS):
        if not pd.api.types.is_string_dtype(frame[name]):
            raise ValueError(f"the column {name} of slices.parquet is not text")


def _check_hashes(frame: pd.DataFrame) -> None:
    if "perceptual_hash" not in frame:  # as an older medxlate left it
        return
    digits = f"[0-9a-f]{{{HASH_DIGITS}}}"
    if not frame["perceptual_hash"].astype(str).str.fullmatch(digits).all():
        raise ValueError("slices.parquet contains an invalid perceptual_hash")


def _check_folded(frame: pd.DataFrame) -> None:
    if "folded_id" not in frame:  # as an older medxlate left it
        return
    values = pd.Series(frame["folded_id"].unique()).astype(str)
    if not values.str.fullmatch("[fd][0-9a-f]{16}").all():
        raise ValueError("slices.parquet contains an invalid folded_id")


def _check_places(frame: pd.DataFrame, counts: Sequence[int]) -> None:
    shards, rows = frame["shard"].to_numpy(), frame["row"].to_numpy()
    if len(frame) and not (shards.min() >= 0 and shards.max() < len(counts)):
        raise ValueError("slices.parquet refers to a shard that does not exist")
    if ((rows < 0) | (rows >= np.asarray(counts)[shards])).any():
        raise ValueError("slices.parquet refers to a slice that does not exist")


def _check_labels(frame: pd.DataFrame, task: Task) -> None:
    labels = frame["label"]
    if task.kind == "classification":
        known = pd.api.types.is_string_dtype(labels) and labels.isin(task.classes).all()
    else:
        known = pd.api.types.is_numeric_dtype(labels) and np.isfinite(labels.to_numpy()).all()
    if not known:
        raise ValueError("slices.parquet contains labels that the task does not have")
