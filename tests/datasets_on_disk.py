"""Datasets of a few images, written without ``prepare``, and how much memory reading them takes."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from medxlate.dataset.index import Dataset, DatasetInfo, Modality, ModalityInfo
from medxlate.dataset.labels import Task
from medxlate.dataset.shards import ShardWriter
from medxlate.images.recipes import Recipe

AGE = Task(kind="regression", name="age", unit="years")


def write_dataset(folder: Path, images, labels, *, task: Task = AGE, shard_bytes: int) -> Modality:
    """Write a dataset of one modality without prepare; image i belongs to patient i // 2."""
    rows = []
    writer: ShardWriter | None = None
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        writer = writer or ShardWriter(
            folder / "mri" / "shards",
            size=image.shape[0],
            dtype=image.dtype,
            shard_bytes=shard_bytes,
        )
        shard, row = writer.append(image.tobytes())
        rows.append({"shard": shard, "row": row, "patient": f"p{i // 2}", "label": label})
    writer.close()
    pd.DataFrame(rows).to_parquet(folder / "mri" / "slices.parquet", index=False)
    size = image.shape[0]
    info = ModalityInfo(
        recipe=Recipe(kind="as-is"),
        images=len(rows),
        series=len(rows),
        patients=(len(rows) + 1) // 2,
        widths=(size, size),
        heights=(size, size),
        labels={},
    )
    dataset = DatasetInfo(medxlate="0", image_size=size, task=task, modalities={"mri": info})
    (folder / "dataset.json").write_text(dataset.model_dump_json())
    (folder / "mri" / "modality.json").write_text(info.model_dump_json())
    return Dataset(folder).modality("mri")


def resident_memory() -> int:
    """Return the bytes of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
