"""Errors within subgroups of the test images: sex, site, decades of age."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import pandas as pd

from medxlate.study.measured import KEYS

FEWEST, MOST = 2, 20  # values of a column that divides into subgroups


def subgroups(
    predictions: pd.DataFrame,
    columns: Sequence[str] = ("sex", "site"),
    label_name: str = "",
    regression: bool = False,
) -> pd.DataFrame:
    """Measure every system's loss within subgroups of the test images.

    Args:
        predictions: A row a test image and cell.
        columns: What divides; columns that are absent, or that have fewer than 2 or more than 20
            distinct values, are passed over. Images without a value are left out.
        label_name: The label's name. An age (``age``, ``physiological_age``, ``PatientAge``) in a
            regression is divided into decades, ``40-49``.
        regression: Whether the label is a number.

    Returns:
        A row a system, column and value: KEYS, ``subgroup`` (the column, or ``age decade``),
        ``value``, ``repeats``, ``images`` and ``patients`` (distinct, over all repeats), ``loss``
        (mean over repeats of the mean over images) and ``std`` (over repeats, ddof 1; NaN for
        one).
    """
    table = predictions.assign(sources=predictions["sources"].fillna(""))
    kinds = {column: table[column] for column in columns if column in table}
    if regression and _is_age(label_name):
        kinds["age decade"] = table["label"].astype(float).map(_decade, na_action="ignore")
    parts = [
        _subgroup(table, kind, values.where(values.notna() & (values.astype(str) != "")))
        for kind, values in kinds.items()
    ]
    names = [*KEYS, "subgroup", "value", "repeats", "images", "patients", "loss", "std"]
    kept = [part for part in parts if len(part)]
    return pd.concat(kept, ignore_index=True) if kept else pd.DataFrame(columns=names)


def _subgroup(table: pd.DataFrame, kind: str, values: pd.Series) -> pd.DataFrame:
    if not FEWEST <= values.nunique() <= MOST:
        return pd.DataFrame()
    group = [*KEYS, "subgroup", "value"]
    known = table.assign(subgroup=kind, value=values.astype(object))[values.notna()]
    known["value"] = known["value"].astype(str)
    means = known.groupby([*group, "repeat"], as_index=False)["loss"].mean()
    rows = means.groupby(group).agg(repeats=("repeat", "nunique"), loss=("loss", "mean"))
    rows["std"] = means.groupby(group)["loss"].std()
    rows["images"] = known.groupby(group)["slice_id"].nunique()
    rows["patients"] = known.groupby(group)["patient"].nunique()
    return rows.reset_index()[[*group, "repeats", "images", "patients", "loss", "std"]]


def _decade(age: float) -> str:
    first = 10 * math.floor(age / 10)
    return f"{first}-{first + 9}"


def _is_age(name: str) -> bool:
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    return "age" in re.split(r"[^a-z]+", words)
