"""The dataset folder as it lies on disk; ``docs/reference/folders.md`` describes it."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, field_validator

from medxlate.base.errors import DataError, nearest
from medxlate.base.grey_levels import Stored
from medxlate.base.records import is_plain, read_json, read_record, safe_join
from medxlate.dataset.labels import Task
from medxlate.dataset.shards import ShardReader
from medxlate.dataset.slice_table import read_slice_table
from medxlate.images.limits import MAX_SQUARE, MIN_SIDE
from medxlate.images.pseudonym import KEY_BYTES, read_key
from medxlate.images.recipes import Recipe

COLUMNS = (
    "slice_id",
    "shard",
    "row",
    "patient",
    "folded_id",
    "label",
    "file",
    "series",
    "position",
    "height",
    "width",
    "pixel_hash",
    "perceptual_hash",
)
SCHEMA_VERSION = 2
KEY_FILE = "pseudonym.key"
SUMMARY = "dataset.json"
MODALITY_FILE = "modality.json"
_BLOCK = 65536  # rows of a table that are held as Python values at once

Rows = Sequence[int] | npt.NDArray[np.integer[Any]]


class ModalityInfo(BaseModel):
    """What dataset.json says about a modality (as in the paper's table 1).

    Attributes:
        recipe: Its intensity recipe.
        images: Number of slices.
        series: Number of series, volumes and single images that the slices come from.
        patients: Number of patients.
        widths: Smallest and largest original width, pixels.
        heights: Smallest and largest original height, pixels.
        labels: Lowest and highest label, or images per class.
        where: Expressions that selected the images (``prepare --where``).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: Recipe
    images: int
    series: int
    patients: int
    widths: tuple[int, int]
    heights: tuple[int, int]
    labels: dict[str, float]
    where: tuple[str, ...] = ()


class DatasetInfo(BaseModel):
    """The content of dataset.json.

    Attributes:
        schema_version: Version of this file's format.
        medxlate: The version that wrote it.
        image_size: Side of the stored squares, pixels.
        task: What is predicted.
        modalities: One entry per modality, by name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    medxlate: str
    image_size: int = Field(ge=MIN_SIDE, le=MAX_SQUARE)
    task: Task
    modalities: dict[str, ModalityInfo] = {}

    @field_validator("modalities")
    @classmethod
    def _names(cls, value: dict[str, ModalityInfo]) -> dict[str, ModalityInfo]:
        if not all(map(is_plain, value)):
            raise ValueError("the name of a modality must not be a path")
        return value


@dataclass(frozen=True)
class Modality:
    """One prepared modality.

    Attributes:
        name: The one given to ``prepare --modality``.
        info: Its entry in dataset.json.
        slices: A row a slice: slice_id, shard, row, patient, label, file, pixel_hash...
        reader: The reader of its shards.
        folder: Its folder.
        whole: The modality as prepared, where ``slices`` is a selection of its rows.
    """

    name: str
    info: ModalityInfo
    slices: pd.DataFrame
    reader: ShardReader
    folder: Path
    whole: Modality | None = None
    _columns: dict[str, list[Any]] = field(default_factory=dict, init=False, repr=False)

    @property
    def shards(self) -> tuple[Path, ...]:
        """Files of arrays [n, S, S]."""
        return self.reader.paths

    def pixels(self, index: int) -> Stored:
        """Return the stored integers [S, S] of the slice in row ``index`` of the table."""
        pixels: Stored = self.read([index])[0]
        return pixels

    def read(self, rows: Rows) -> Stored:
        """Return the stored integers [B, S, S] of the slices in these rows of the table."""
        shards, within = self._places
        chosen = np.asarray(rows, dtype=np.intp)
        return self.reader.read(shards[chosen].tolist(), within[chosen].tolist())

    def fingerprint(self) -> str:
        """Return a hash of pixels, labels, patients and recipe: all that a training depends on."""
        return self._fingerprint

    def column(self, name: str) -> list[Any]:
        """Return a column of the table as plain Python values."""
        if name not in self._columns:
            self._columns[name] = self.slices[name].tolist()
        return self._columns[name]

    @cached_property
    def _places(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        shards, rows = (self.slices[name].to_numpy(np.int32) for name in ("shard", "row"))
        return shards, rows

    @cached_property
    def _fingerprint(self) -> str:
        return fingerprint(self.info.recipe, self.slices)


def free_name(name: str, taken: Collection[str], prefix: str) -> str:
    """Return a column's name, with a prefix where an output table has a column of that name.

    Args:
        name: The label's, or that of a kept column.
        taken: The columns of the table; ``p(...)`` are those of probabilities.
        prefix: What to put before it.
    """
    return f"{prefix} {name}" if name in taken or name.startswith("p(") else name


def kept_columns(slices: pd.DataFrame, taken: Collection[str] = ()) -> pd.DataFrame:
    """Return the columns of ``prepare --keep``, a row a slice, under names that are free."""
    kept = slices[[name for name in slices.columns if name not in COLUMNS]]
    return kept.rename(columns=lambda name: free_name(name, taken, "kept") if taken else name)


def fingerprint(recipe: Recipe, slices: pd.DataFrame) -> str:
    """Return the hash of a modality's pixels, labels, patients and recipe.

    The hash is over the columns as JSON, taken a block of rows at a time.
    """
    facts = hashlib.sha256(recipe.model_dump_json().encode())
    for name in ("pixel_hash", "label", "patient"):
        facts.update(b"[")
        for start in range(0, len(slices), _BLOCK):
            values = slices[name].iloc[start : start + _BLOCK].tolist()
            facts.update((", " * (start > 0) + json.dumps(values)[1:-1]).encode())
        facts.update(b"]")
    return facts.hexdigest()


class Dataset:
    """An opened dataset folder.

    Args:
        folder: What ``prepare`` wrote.

    Raises:
        DataError: The folder is missing, damaged or of another version.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        info = read_info(self.folder)
        if info is None:
            raise DataError(
                f"{folder} is not a dataset: it has no dataset.json.",
                "Create one with `medxlate prepare`, or give its folder with --data.",
            )
        self.info = info

    def modality(self, name: str) -> Modality:
        """Open one modality.

        Raises:
            DataError: It was not prepared, or its files are damaged.
        """
        if name not in self.info.modalities:
            raise DataError(
                f"The modality '{name}' was not prepared in {self.folder}.",
                f"{nearest(name, self.info.modalities)} "
                f"To add it: `medxlate prepare RAW --modality {name}`.",
            )
        folder = safe_join(self.folder, name, error=DataError)
        again = f"Prepare it again: `medxlate prepare RAW --modality {name} --overwrite`."
        info = self.info.modalities[name]
        opened = folder.stat() if folder.exists() else None
        # A prepare that was killed between its two renames leaves them different.
        written = read_json(folder / MODALITY_FILE, error=DataError, hint=again)
        if isinstance(written, dict):
            written = {"where": [], **written}  # which older versions did not know
        if written != info.model_dump(mode="json"):
            raise DataError(f"{folder} does not match {self.folder / SUMMARY}.", again)
        try:
            shards = safe_join(folder, "shards", error=DataError)
            names = sorted(path.name for path in shards.glob("*.npy"))
            reader = ShardReader([safe_join(shards, name, error=DataError) for name in names])
            path = safe_join(folder, "slices.parquet", error=DataError)
            slices = read_slice_table(path, reader.counts, self.info.task)
        except (OSError, ValueError) as problem:
            raise DataError(f"{folder} is damaged: {problem}.", again) from None
        if opened is None or not os.path.samestat(opened, folder.stat()):
            raise DataError(
                f"{folder} was replaced while it was being opened.", "Run the command again."
            )
        if reader.size != self.info.image_size:
            raise DataError(f"{folder} is damaged: its slices have the wrong size.", again)
        return Modality(name, info, slices, reader, folder)


def other_modalities(data: Path, existing: DatasetInfo | None, name: str) -> dict[str, Modality]:
    """Return the dataset's modalities beside this one, opened."""
    names = set(existing.modalities) - {name} if existing else set()
    return {other: Dataset(data).modality(other) for other in sorted(names)}


def read_info(folder: Path) -> DatasetInfo | None:
    """Return the checked content of dataset.json, or None where there is none.

    Raises:
        DataError: It is damaged or of another version.
    """
    path = folder / SUMMARY
    if not path.exists():
        return None
    return read_record(
        path,
        DatasetInfo,
        version=SCHEMA_VERSION,
        error=DataError,
        hint="Create a dataset with `medxlate prepare`.",
        again="Prepare the data again",
    )


def load_key(folder: Path) -> bytes:
    """Return the dataset's secret key, or a newly drawn one; it never leaves the folder.

    Raises:
        DataError: The key file is damaged, or missing although patients were named with it.
    """
    path = folder / KEY_FILE
    if not path.exists():
        if (folder / SUMMARY).exists():
            raise DataError(
                f"{path} is missing, so patients of a new modality cannot be matched.",
                "Restore it, or prepare all modalities again into another folder.",
            )
        return secrets.token_bytes(KEY_BYTES)
    return read_key(path)


def save_key(folder: Path, key: bytes) -> None:
    """Keep the key in the dataset folder, readable by its owner only.

    Raises:
        DataError: The folder has got another key meanwhile.
    """
    path = folder / KEY_FILE
    if not path.exists():
        handle, name = tempfile.mkstemp(prefix=f".{KEY_FILE}.", suffix=".partial", dir=folder)
        try:
            with os.fdopen(handle, "w", encoding="ascii") as stream:  # mkstemp made it private
                stream.write(key.hex())
            os.replace(name, path)
        finally:
            Path(name).unlink(missing_ok=True)
    if load_key(folder) != key:
        raise DataError(
            f"{path} was written by another `prepare` at the same time.", "Run the command again."
        )
