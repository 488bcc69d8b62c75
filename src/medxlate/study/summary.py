"""A study's findings as files: tables, statistics, and ``report.md``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import date
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medxlate.base.files import remove_stale, whole_file, write_json
from medxlate.base.records import for_csv, in_markdown
from medxlate.config import Config, keys
from medxlate.dataset.splits import MEANING
from medxlate.method.registry import find_method
from medxlate.method.settings import concerns
from medxlate.study.collect import Findings
from medxlate.study.comparison import REPEATS
from medxlate.study.measured import level_of
from medxlate.study.study import Study, StudyFolder, cells
from medxlate.study.tables import main_comparison
from medxlate.study.verdicts import headline_record
from medxlate.study.wording import answer_tables, in_order, sentences

FAIR = """\
Every method makes the same number of predictor updates, chooses its predictor by the same rule
(`optimizer.keep`) and, within a repeat, starts from the same weights. The first stages of
`cyclegan` and `transfer` come on top (column "Seconds, shared"). Methods differ in the number of
images per step (column "Images seen"). """
GROUP_NORM = """\
Group norm uses no batch statistics, so this
does not affect normalisation.
"""
BATCH_NORM = {  # by model.batch_norm
    "joint": """\
This also changes batch norm: methods that show more
than target images compute its statistics over all images together.
""",
    "separate": """\
This also changes batch norm in `multitask` and
`dann`, which compute its statistics over all images together; the other methods keep those of
target images separate.
""",
}
NOT_SHOWN = (  # where a study is carried out, and what its grid decides
    *("method", "data.folder", "data.sources", "data.target_fraction", "data.source_fraction"),
    "runtime.",
)


def remove_half_written(folder: StudyFolder) -> None:
    """Remove what a process left that was killed while it wrote findings; call it under a lock."""
    for name in ("results", "predictions", "subgroups", "statistics", "report"):
        remove_stale(folder.path, name)
    for place in ("tables", "figures"):
        remove_stale(folder.path / place)


def write_findings(
    study: Study,
    folder: StudyFolder,
    findings: Findings,
    failed: Mapping[str, str],
    *,
    label: str = "",
) -> None:
    """Write results, predictions, tables, statistics and ``report.md`` into the study folder.

    Args:
        study: The study.
        folder: Where it lies.
        findings: What was found.
        failed: Why cells failed, by name.
        label: What is predicted.
    """
    for name, frame in (("results", findings.results), ("predictions", findings.predictions)):
        with whole_file(folder.path / f"{name}.parquet") as partial:
            frame.to_parquet(partial)
    for name, frame in (("results", findings.results), ("subgroups", findings.subgroups)):
        if len(frame):
            _write(folder.path / f"{name}.csv", for_csv(frame).to_csv(index=False))
    for table in findings.tables:
        place = folder.path / "tables"
        _write(place / f"{table.name}.md", table.markdown())
        _write(place / f"{table.name}.tex", table.latex())
        _write(place / f"{table.name}.csv", table.csv())
    statistics = _statistics(findings)
    about = {"target": study.config.data.target, "unit": level_of(findings.results)}
    found = headline_record(statistics, label=label, **about)
    collected = date.today().isoformat()
    write_json(
        folder.path / "statistics.json",
        {"headline": found, "collected": collected, **statistics},
    )
    _write(folder.path / "report.md", "\n".join(_report(study, folder, findings, failed)) + "\n")


def _statistics(findings: Findings) -> dict[str, Any]:
    return {
        "primary": [_plain(asdict(findings.primary))] if findings.primary else [],
        "against_target_only": [_plain(asdict(each)) for each in findings.comparisons],
        "against_target_only_per_image": [
            _plain(asdict(each)) for each in findings.image_comparisons
        ],
        "with_fewer_target_patients": [_plain(asdict(each)) for each in findings.fewer_patients],
        "joint_against_baselines": [_plain(asdict(each)) for each in findings.baselines],
        "equivalents": [_plain(asdict(each)) for each in findings.equivalents],
        "saturation": [_plain(asdict(each)) for each in findings.saturation],
    }


def _plain(value: Any) -> Any:
    """Return a value that JSON can hold: what is not finite becomes null."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def _report(
    study: Study, folder: StudyFolder, findings: Findings, failed: Mapping[str, str]
) -> Iterator[str]:
    yield "# Comparison\n"
    yield "## Does it help?\n"
    statistics = _statistics(findings)
    yield from _bullets(in_order(statistics))
    for title, table in answer_tables(statistics, unit=level_of(findings.results)):
        yield f"\n## {title}\n"
        yield table.markdown()
    yield "## What was compared\n"
    yield from design_paragraphs(study, findings.results)
    if found := _bullets(statistics["joint_against_baselines"]):
        yield "## joint compared with the other methods\n"
        yield from found
    if found := _bullets([*statistics["equivalents"], *statistics["saturation"]]):
        yield "\n## How many patients it takes\n"
        yield from found
    yield "\n## Tables\n"
    yield from (table.markdown() for table in findings.tables)
    if len(findings.subgroups):
        yield "\n## Subgroups\n"
        yield from _subgroups(findings.subgroups)
    yield "\n## Figures\n"
    yield from (
        f"![{path.stem}]({path.relative_to(folder.path).as_posix()})\n" for path in findings.figures
    )
    yield "## Settings\n"
    yield from _settings(study)
    if failed:
        yield "\n## Failed\n"
        yield from (in_markdown(f"- {name}: {error}") for name, error in failed.items())


def _bullets(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the sentences of comparisons or readings as a list; files name some of the systems."""
    return [f"- {in_markdown(each)}" for each in sentences(entries)]


def design_paragraphs(study: Study, results: pd.DataFrame) -> Iterator[str]:
    """Yield what was compared, and what makes it fair, a paragraph each."""
    config = study.config
    grid = cells(study)
    sources = ", ".join("+".join(each) for each in study.source_sets) or "none"
    yield (
        f"Target {config.data.target}, sources {sources}; {study.repeats} "
        f"{REPEATS[study.design]}{'s' * (study.repeats > 1)}; "
        f"{len(results)} of {len(grid)} cells. {MEANING[config.split.policy]}\n"
    )
    grouped = config.model.predictor_norm == "group"
    yield FAIR + (GROUP_NORM if grouped else BATCH_NORM[config.model.batch_norm])
    how = results.reindex(columns=["device", "precision"]).dropna().drop_duplicates()
    if len(how) > 1:
        yield (
            "Cells were trained on different devices or with different precision "
            f"({'; '.join(' '.join(row) for row in how.itertuples(index=False))}), which adds to "
            "the differences between their errors.\n"
        )


def _subgroups(frame: pd.DataFrame) -> Iterator[str]:
    names = ["method", "sources", "subgroup", "value", "patients", "images", "loss", "std"]
    largest = main_comparison(frame)
    yield "| " + " | ".join(names) + " |"
    yield "|" + "---|" * len(names)
    for row in largest[names].itertuples(index=False):
        yield "| " + " | ".join(in_markdown(_shown(value)) for value in row) + " |"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if np.isfinite(value) else "-"
    return str(value)


def settings(study: Study) -> dict[str, list[str]]:
    """Return the configuration keys by the methods that they concern, in words."""
    trained = [name for name in study.methods if find_method(name).build is not None]
    groups: dict[str, list[str]] = {}
    for key in keys():
        users = [name for name in trained if concerns(key, name)]
        if users and (key == "runtime.seed" or not key.startswith(NOT_SHOWN)):
            of = "all methods" if users == trained else ", ".join(users)
            groups.setdefault(of, []).append(key)
    return groups


def _settings(study: Study) -> Iterator[str]:
    for methods, names in settings(study).items():
        yield f"- {methods}: {_values(study.config, names)}"


def _values(config: Config, names: Sequence[str]) -> str:
    shown = []
    for key in names:
        value = attrgetter(key)(config)
        if value != {}:  # nothing of plug-ins
            shown.append(f"`{key}` = {value}")
    return ", ".join(shown)


def _write(path: Path, text: str) -> None:
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
