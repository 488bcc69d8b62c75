"""The writing half of ``prepare``: parts become shards and the table of slices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medxlate.dataset.annotate import Annotation
from medxlate.dataset.index import ModalityInfo
from medxlate.dataset.parts import Part, PartJob, PartSlice, pixels_of
from medxlate.dataset.plan import Plan
from medxlate.dataset.shards import ShardWriter
from medxlate.images.recipes import Limits


@dataclass(frozen=True)
class Assembled:
    """A modality's content.

    Attributes:
        table: A row a slice; see ``index.COLUMNS``. Patients stand under their real ids.
        info: Its entry in dataset.json; None without slices.
        skipped: What could not be used, and why.
        notes: Scans that are used although something about them is odd.
    """

    table: pd.DataFrame
    info: ModalityInfo | None
    skipped: dict[str, str]
    notes: dict[str, str]


def assemble(
    folder: Path, plan: Plan, parts: Iterable[tuple[PartJob, Part]], *, size: int
) -> Assembled:
    """Write ``shards/`` from the parts, in the order of the scans, and gather the table.

    Args:
        folder: Where to write them.
        plan: Labels and patients, and the recipe.
        parts: The parts, one a scan of the plan.
        size: Side of the slices, pixels.
    """
    dtype = np.uint8 if plan.recipe.bits == 8 else np.uint16
    rows: list[dict[str, Any]] = []
    limits: list[Limits] = []
    series: dict[str, int] = {}  # the number of each series, volume or single image
    skipped: dict[str, str] = {}
    notes: dict[str, str] = {}
    with ShardWriter(folder / "shards", size=size, dtype=dtype) as shards:
        for index, (job, part) in enumerate(parts):
            skipped |= part.skipped
            before = len(rows)
            name, place = job.scan.name, plan.places.get(job.scan.name)
            volume = f"scan {index}" if place is None else f"volume {place.volume}"
            for slice_, content in zip(part.slices, pixels_of(job, part), strict=True):
                annotation = plan.annotation_of(job.scan, slice_.file)
                if annotation is not None:
                    within = {
                        "series": series.setdefault(volume, len(series)),
                        "position": slice_.number if place is None else place.position,
                    }
                    stored = shards.append(content)
                    rows.append(_row(len(rows), stored, slice_, annotation, within))
            if len(rows) > before and part.limits is not None:
                limits.append(part.limits)
                if part.notes:
                    notes[name] = "; ".join(part.notes)
    table = pd.DataFrame(rows)
    if table.empty:
        return Assembled(table, None, skipped, notes)
    return Assembled(table, _info(table, plan, limits), skipped, notes)


def _row(
    number: int,
    stored: tuple[int, int],
    slice_: PartSlice,
    annotation: Annotation,
    within: Mapping[str, int],
) -> dict[str, Any]:
    return {
        "slice_id": f"{number:06d}",
        "shard": stored[0],
        "row": stored[1],
        "patient": annotation.patient,
        "label": annotation.label,
        "file": slice_.file,
        **within,
        "height": slice_.height,
        "width": slice_.width,
        "pixel_hash": slice_.pixel_hash,
        "perceptual_hash": slice_.perceptual_hash,
        **annotation.kept,
    }


def _info(table: pd.DataFrame, plan: Plan, limits: list[Limits]) -> ModalityInfo:
    low, high = (float(value) for value in np.median(limits, axis=0))
    return ModalityInfo(
        recipe=plan.recipe.model_copy(update={"output_range": (low, high)}),
        images=len(table),
        series=int(table["series"].nunique()),
        patients=int(table["patient"].nunique()),
        widths=(int(table["width"].min()), int(table["width"].max())),
        heights=(int(table["height"].min()), int(table["height"].max())),
        labels=_label_summary(table["label"]),
        where=plan.where,
    )


def _label_summary(labels: pd.Series[Any]) -> dict[str, float]:
    if labels.dtype == np.float64:
        return {"min": float(labels.min()), "max": float(labels.max())}
    return {str(name): int(count) for name, count in sorted(labels.value_counts().items())}
