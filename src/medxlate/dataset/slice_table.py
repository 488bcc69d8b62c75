"""The table of a modality's slices, ``slices.parquet``, read with distrust."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from medxlate.dataset.labels import Task
from medxlate.dataset.parquet_pages import claimed_bytes

NUMBERS = ("shard", "row", "series", "position", "height", "width")
TEXTS = ("slice_id", "patient", "file", "pixel_hash")
HASH_DIGITS = 128  # of a perceptual hash
NEEDED = ("shard", "row", "patient", "label")
MOST_BYTES = 1 << 14  # of a row, unpacked; names of files are the longest
_TEXT_TYPES = (pa.string(), pa.large_string())
MOST_TEXT = 4096  # bytes
FEW = 100_000  # rows up to which texts are looked at: with more it takes longer than reading
SPARE_BYTES = 1 << 20  # of a table, beside its rows


def read_slice_table(path: Path, counts: Sequence[int], task: Task) -> pd.DataFrame:
    """Read the table and hold it against the shards.

    Args:
        path: The parquet file.
        counts: How many slices each shard holds; the table must have as many rows.
        task: What the labels are of.

    Raises:
        OSError: It cannot be read.
        ValueError: It is damaged, has another length than the shards (seen before a row is read),
            lacks a column, or names a slice or a label that does not exist.
    """
    try:
        schema = pq.read_schema(path) if sum(counts) <= FEW else ()
        texts = [each.name for each in schema if each.type in _TEXT_TYPES]
        with pq.ParquetFile(path, read_dictionary=texts) as file, path.open("rb") as stream:
            _check_claims(file.metadata, stream, sum(counts))
            table = _plain(file.read())
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


def _check_claims(metadata: pq.FileMetaData, stream: BinaryIO, rows: int) -> None:
    if metadata.num_rows != rows:
        raise ValueError("slices.parquet and shards differ in length")
    if claimed_bytes(stream, metadata) > MOST_BYTES * rows + SPARE_BYTES:
        raise ValueError("slices.parquet claims more than slices need")


def _plain(table: pa.Table) -> pa.Table:
    """Return the table with texts in place of numbers of texts, once none of these is long.

    A text that many rows share is stored once; filled in, it might take any memory.
    """
    for number, column in enumerate(table.columns):
        if not pa.types.is_dictionary(column.type):
            continue
        for chunk in column.chunks:
            if (pc.max(pc.binary_length(chunk.dictionary)).as_py() or 0) > MOST_TEXT:
                raise ValueError(f"slices.parquet holds a text of more than {MOST_TEXT} bytes")
        plain = column.cast(pa.large_string())
        table = table.set_column(number, table.schema.field(number).name, plain)
    return table


def _check_columns(frame: pd.DataFrame) -> None:
    for name in (*NUMBERS, *TEXTS, "label"):
        if name in NEEDED and name not in frame:
            raise ValueError(f"slices.parquet has no column {name}")
        if name in frame and frame[name].isna().any():
            raise ValueError(f"the column {name} of slices.parquet has gaps")
    for name in filter(frame.__contains__, NUMBERS):
        if frame[name].dtype.kind != "i":
            raise ValueError(f"the column {name} of slices.parquet holds no integers")
    for name in filter(frame.__contains__, TEXTS):
        if not pd.api.types.is_string_dtype(frame[name]):
            raise ValueError(f"the column {name} of slices.parquet holds no text")


def _check_hashes(frame: pd.DataFrame) -> None:
    if (
        "perceptual_hash" in frame
        and not frame["perceptual_hash"]
        .astype(str)
        .str.fullmatch(f"[0-9a-f]{{{HASH_DIGITS}}}")
        .all()
    ):
        raise ValueError("slices.parquet holds a broken perceptual_hash")


def _check_folded(frame: pd.DataFrame) -> None:
    if "folded_id" not in frame:  # as an older medxlate left it
        return
    values = pd.Series(frame["folded_id"].unique()).astype(str)
    if not values.str.fullmatch("[fd][0-9a-f]{16}").all():
        raise ValueError("slices.parquet holds a broken folded_id")


def _check_places(frame: pd.DataFrame, counts: Sequence[int]) -> None:
    shards, rows = frame["shard"].to_numpy(), frame["row"].to_numpy()
    if len(frame) and not (shards.min() >= 0 and shards.max() < len(counts)):
        raise ValueError("slices.parquet names a shard that does not exist")
    if ((rows < 0) | (rows >= np.asarray(counts)[shards])).any():
        raise ValueError("slices.parquet names a slice that does not exist")


def _check_labels(frame: pd.DataFrame, task: Task) -> None:
    labels = frame["label"]
    if task.kind == "classification":
        known = pd.api.types.is_string_dtype(labels) and labels.isin(task.classes).all()
    else:
        known = pd.api.types.is_numeric_dtype(labels) and np.isfinite(labels.to_numpy()).all()
    if not known:
        raise ValueError("slices.parquet holds labels that the task does not have")
