"""The paper's tables 2 to 5, the sweep of the ratio and an overview, from the cells of a study.

Layout and names are those of Yang and Xie, Discriminative Cross-Modal Data Augmentation for Medical
Imaging Applications, section 4.4. The standard deviation is the sample's (``ddof=1``) over repeats.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from medxlate.dataset.splits import MEANING
from medxlate.report.printing import Cell, Number, PrintedTable

OURS = "Our method"
BASELINES = {
    "transfer": "TL",
    "multitask": "MTL",
    "dann": "DA",
    "cyclegan": "CycleGAN",
    "joint": OURS,
}
AUGMENTATIONS = {
    "simple-augment": "Simple Augment",
    "autoaugment": "AutoAugment",
    "random-erasing": "Random Erasing",
}
SYSTEM = ["method", "sources", "target_fraction", "source_fraction"]
FRACTIONS = {"target_fraction": "Target", "source_fraction": "Source"}
# Figures that stand beside the loss.
BESIDE = {"patient_mae": "MAE", "patient_brier": "Brier", "patient_auroc": "AUC"}
QUALITY = {"inception_score": "IS ↑", "fid": "FID ↓"}
CONTROLS = {
    "duplicate-real": "Duplicated real images",
    "raw-mix": "Raw mix",
    "histogram": "Histogram matching",
    "oracle": "Oracle",
}
METHODS = ("constant", "target-only", *CONTROLS, *AUGMENTATIONS, *BASELINES)
SMALL = 2048  # images, below which FID's covariance of Inception's 2048 features has no full rank


def tables(results: pd.DataFrame, *, target: str, unit: str = "") -> list[PrintedTable]:
    """Return the paper's tables 2 to 5, the ratios and the overview; none without a figure.

    Args:
        results: A row a finished cell.
        target: The target modality.
        unit: Of the loss, such as ``years²``; none for classification.
    """
    results = results.assign(sources=results["sources"].fillna(""))
    measure = _Measure.of(results, unit)
    found = [
        make(results, target, measure)
        for make in (_settings_table, _baselines_table, _augmentations_table)
    ]
    found += [_quality_table(results, target), _ratios_table(results, measure)]
    found += [_overview_table(results, measure)]
    return [table for table in found if table is not None]


def main_comparison(results: pd.DataFrame) -> pd.DataFrame:
    """Return the cells at the largest target fraction and the largest source fraction."""
    with_source = results["sources"] != ""
    largest = results.loc[with_source, "source_fraction"].max()
    whole = np.isclose(results["target_fraction"], results["target_fraction"].max())
    return results[whole & (~with_source | np.isclose(results["source_fraction"], largest))]


def arrow(sources: str, target: str) -> str:
    """Return ``MRI + PET → CT`` for ``mri+pet`` and ``ct``."""
    return f"{_plus(sources)} → {target.upper()}"


def paper_name(method: str, sources: str, target: str) -> str:
    """Return a system's name in tables and figures: ``Our method + AutoAugment (MRI → CT)``."""
    names = {**BASELINES, **AUGMENTATIONS, **CONTROLS}
    names |= {"constant": "Constant", "target-only": f"PURE-{target.upper()}"}
    base, _, extra = method.partition("+")
    name = names.get(base, base) + (f" + {names.get(extra, extra)}" if extra else "")
    return f"{name} ({arrow(sources, target)})" if sources else name


def _settings_table(results: pd.DataFrame, target: str, measure: _Measure) -> PrintedTable | None:
    """Return table 2: the target's images alone, and with each set of translated sources."""
    main = main_comparison(results)
    named = {f"PURE-{target.upper()}": _losses(main, "target-only", "")}
    for sources in _source_sets(main, ["joint"]):
        name = "-".join(["MIX", target, *sources.split("+")]).upper()
        named[name] = _losses(main, "joint", sources)
    columns = [((name,), losses) for name, losses in named.items() if len(losses)]
    title = f"Prediction error by training data: {measure.name}"
    return _mean_and_std("table-2", title, columns, measure.note(results, columns))


def _baselines_table(results: pd.DataFrame, target: str, measure: _Measure) -> PrintedTable | None:
    """Return table 3: other uses of the source beside the paper's method, per set of sources."""
    main = main_comparison(results)
    others = [method for method in BASELINES if method != "joint"]
    run = [method for method in BASELINES if _source_sets(main, [method])]
    columns = [
        ((arrow(sources, target), BASELINES[method]), _losses(main, method, sources))
        for sources in _source_sets(main, others)
        for method in run
    ]
    title = f"Our method and its baselines: {measure.name}"
    return _mean_and_std("table-3", title, columns, measure.note(results, columns), "Method")


def _augmentations_table(
    results: pd.DataFrame, target: str, measure: _Measure
) -> PrintedTable | None:
    """Return table 4: augmentations of the target's own images beside the paper's method."""
    main = main_comparison(results)
    named = {name: _losses(main, method, "") for method, name in AUGMENTATIONS.items()}
    if not any(map(len, named.values())):
        return None
    sets = _source_sets(main, ["joint"])
    for sources in [one for one in sets if "+" not in one] or sets:
        named[paper_name("joint", sources, target)] = _losses(main, "joint", sources)
    columns = [((name,), losses) for name, losses in named.items() if len(losses)]
    title = f"Our method and data augmentation: {measure.name}"
    return _mean_and_std("table-4", title, columns, measure.note(results, columns))


def _quality_table(results: pd.DataFrame, target: str) -> PrintedTable | None:
    """Return table 5: IS and FID of translated images.

    The number of images comes from the column ``fid_images``, where there is one.
    """
    main = main_comparison(results)
    main = main[main["method"].isin(["cyclegan", "joint"])]
    main = main[main[list(QUALITY)].notna().any(axis=1)]
    sets = _source_sets(main, ["cyclegan", "joint"])
    if not sets:
        return None
    heads = [(arrow(one, target), label) for one in sets for label in QUALITY.values()]
    rows: list[tuple[Cell, ...]] = [
        (BASELINES[method], *(_spread(_losses(main, method, one, figure))
                              for one in sets for figure in QUALITY))
        for method in ("cyclegan", "joint") if (main["method"] == method).any()
    ]  # fmt: skip
    top, names = zip(*heads, strict=True)
    title = "Quality of the translated images: inception score (IS) and Fréchet distance (FID)"
    note = f"Mean ± standard deviation over repeats. {_features(main)} {_policy(main)}"
    return PrintedTable("table-5", title, (("", *top), ("", *names)), tuple(rows), note)


def _ratios_table(results: pd.DataFrame, measure: _Measure) -> PrintedTable | None:
    """Return errors over the ratio of source images to real ones, where several ratios were run."""
    swept = results[(results["sources"] != "") & (results["source_images"] > 0)]
    if swept["source_fraction"].nunique() < 2:
        return None
    ratio = swept["source_images"] / swept["train_images"]
    groups = sorted(
        (cells for _, cells in swept.assign(ratio=ratio).groupby(SYSTEM, sort=False)),
        key=lambda cells: (
            *_order(*cells.iloc[0][SYSTEM][:3]),
            float(cells["ratio"].mean()),
        ),
    )
    digits = _digits(float(cells["patient_loss"].mean()) for cells in groups)
    heads = (
        *("Method", "Sources", "Target patients", "Source patients", "Images per real image"),
        *("Repeats", "Error per patient", "Std", "Seconds"),
    )
    rows: list[tuple[Cell, ...]] = [
        (
            cells.iloc[0]["method"],
            _plus(cells.iloc[0]["sources"]),
            _mean(cells["train_patients"]),
            _mean(cells["source_patients"]),
            _mean(cells["ratio"], 2),
            Number(len(cells), 0),
            _mean(cells["patient_loss"], digits),
            Number(float(cells["patient_loss"].std(ddof=1)), digits),
            _mean(cells["seconds"] + cells["shared_seconds"], 1),
        )
        for cells in groups
    ]
    title = f"Error by ratio of source images (translated or not) to real images: {measure.name}"
    note = (
        "Errors on test patients. Each step shows as many source as target images, whatever the "
        f"ratio. {_policy(results)}"
    )
    return PrintedTable("ratios", title, (heads,), tuple(rows), note)


def _overview_table(results: pd.DataFrame, measure: _Measure) -> PrintedTable | None:
    """Return a row a system, all fractions included: errors, images and time."""
    systems = sorted(
        (cells for _, cells in results.groupby(SYSTEM, sort=False)),
        key=lambda cells: _order(*cells.iloc[0][SYSTEM]),
    )
    if not systems:
        return None
    fractions = [key for key in FRACTIONS if results[key].nunique() > 1]
    beside = [key for key in BESIDE if key in results and results[key].notna().any()]
    quality = [key for key in QUALITY if results[key].notna().any()]
    digits = _digits(float(cells["loss"].mean()) for cells in systems)
    lines = [_overview_line(cells, fractions, beside, quality, digits) for cells in systems]
    heads: tuple[tuple[str, ...], ...] = tuple(zip(*lines[0], strict=True))
    note = measure.note(results, [((), cells["loss"]) for cells in systems])
    note += " Shared seconds: time for stages that several cells use."
    if quality:
        note += f" {_features(results)}"
    rows = tuple(tuple(line.values()) for line in lines)
    return PrintedTable("overview", f"All systems: {measure.name}", heads, rows, note)


def _overview_line(
    cells: pd.DataFrame, fractions: list[str], beside: list[str], quality: list[str], digits: int
) -> dict[tuple[str, str], Cell]:
    """Return a system's cells under their two headings."""
    method, sources = cells.iloc[0][["method", "sources"]]
    line: dict[tuple[str, str], Cell] = {("", "Method"): method}
    line["", "Sources"] = _plus(sources) or "-"
    for key in fractions:
        share = f"{cells.iloc[0][key]:g}"
        line["Fraction", FRACTIONS[key]] = share if sources or key == "target_fraction" else "-"
    line["Patients", "Target"] = _mean(cells["train_patients"])
    line["Patients", "Source"] = _mean(cells["source_patients"]) if sources else "-"
    line["", "Repeats"] = Number(len(cells), 0)
    line["Per patient", "Mean"] = _mean(cells["patient_loss"], digits)
    line["Per patient", "Std"] = Number(float(cells["patient_loss"].std(ddof=1)), digits)
    for key, name in BESIDE.items():
        if key in beside:
            line["Per patient", name] = _mean(cells[key], 3)
    line["Seconds", "Own"] = _mean(cells["seconds"], 1)
    line["Seconds", "Shared"] = _mean(cells["shared_seconds"], 1)
    line["Per image", "Mean"] = _mean(cells["loss"], digits)
    line["Per image", "Std"] = Number(float(cells["loss"].std(ddof=1)), digits)
    for key in quality:
        line["Translated", QUALITY[key]] = _mean(cells[key], 2)
    line["Training", "Images seen"] = _mean(cells["images_seen"])
    line["Training", "Updates"] = _mean(cells["updates"])
    return line


@dataclass(frozen=True)
class _Measure:
    """What the loss is: its name, with the unit, and whether it is an error rate."""

    name: str

    @staticmethod
    def of(results: pd.DataFrame, unit: str) -> _Measure:
        if "mse" in results and results["mse"].notna().any():
            return _Measure(f"mean squared error ({unit})" if unit else "mean squared error")
        return _Measure("error rate (1 - accuracy)")

    def note(self, results: pd.DataFrame, columns: Iterable[tuple[object, pd.Series]]) -> str:
        counts = {len(losses) for _, losses in columns} - {0}
        over = "the repeats"
        if counts:
            over = " to ".join(f"{n}" for n in sorted({min(counts), max(counts)})) + " repeats"
        name = self.name[0].upper() + self.name[1:]
        text = f"{name} of the test images, lower is better: mean and standard deviation over"
        single = "" if max(counts, default=2) > 1 else " One repeat has no standard deviation."
        return f"{text} {over.replace('1 repeats', '1 repeat')}.{single} {_policy(results)}"


_Columns = Sequence[tuple[tuple[str, ...], pd.Series]]


def _mean_and_std(
    name: str, title: str, columns: _Columns, note: str, corner: str = ""
) -> PrintedTable | None:
    if not columns:
        return None
    digits = _digits(float(losses.mean()) for _, losses in columns)
    means = tuple(Number(float(losses.mean()), digits) for _, losses in columns)
    stds = tuple(Number(float(losses.std(ddof=1)), digits) for _, losses in columns)
    first, *others = zip(*(head for head, _ in columns), strict=True)
    heads = ((corner, *first), *(("", *row) for row in others))
    return PrintedTable(name, title, heads, (("Mean", *means), ("Std", *stds)), note)


def _losses(cells: pd.DataFrame, method: str, sources: str, figure: str = "loss") -> pd.Series:
    chosen = (cells["method"] == method) & (cells["sources"] == sources)
    return cells.loc[chosen, figure].dropna()


def _source_sets(cells: pd.DataFrame, methods: Sequence[str]) -> list[str]:
    """Return the sets of sources that the methods were run with, single ones first."""
    found = set(cells.loc[cells["method"].isin(methods), "sources"]) - {""}
    return sorted(found, key=lambda one: (one.count("+"), one))


def _order(method: str, sources: str, *fractions: float) -> tuple[object, ...]:
    base, _, extra = method.partition("+")
    place = METHODS.index(base) if base in METHODS else len(METHODS)
    return place, base, extra, sources.count("+"), sources, *(-share for share in fractions)


def _digits(means: Iterable[float]) -> int:
    """Return two decimals, or as many as give the smallest mean three significant digits."""
    smallest = min((mean for mean in means if mean > 0 and math.isfinite(mean)), default=1.0)
    return int(np.clip(2 - math.floor(math.log10(smallest)), 2, 6))


def _spread(figures: pd.Series) -> Number:
    return Number(float(figures.mean()), std=float(figures.std(ddof=1)))


def _mean(figures: pd.Series, digits: int = 0) -> Number:
    return Number(float(figures.mean()), digits)


def _plus(sources: str) -> str:
    return sources.upper().replace("+", " + ")


def _policy(results: pd.DataFrame) -> str:
    return " ".join(MEANING[policy] for policy in sorted(set(results["policy"].dropna())))


def _features(cells: pd.DataFrame) -> str:
    """Return where IS and FID come from and what they may be compared with."""
    cells = cells[cells[list(QUALITY)].notna().any(axis=1)]
    names = sorted(set(cells["features"].dropna()))
    text = f"Features used for IS and FID: {', '.join(names) or 'unknown'}"
    counts = cells["fid_images"].dropna() if "fid_images" in cells else pd.Series(dtype=float)
    if len(counts):
        span = dict.fromkeys(f"{count:.0f}" for count in (counts.min(), counts.max()))
        text += f", {' to '.join(span)} translated images per repeat"
    text += "."
    if names != ["inception"]:
        text += (
            " They are not Inception features, so the values cannot be compared with published "
            "ones."
        )
    if len(counts) and counts.min() < SMALL:
        text += f" FID is biased upwards below {SMALL} images, the more so the fewer there are."
    return text
