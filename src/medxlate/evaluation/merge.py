"""An evaluation's results, merged in the run folder with those of an earlier one."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from medxlate.artifacts.runs import RunFolder
from medxlate.base.distributed import ranks
from medxlate.base.errors import ModelError, OutputError
from medxlate.base.events import Listener, Warned
from medxlate.base.files import check_free, whole_folder
from medxlate.evaluation.audit import audit_translators
from medxlate.evaluation.audits.label import LABEL
from medxlate.evaluation.contact_sheet import SHEET, write_contact_sheets
from medxlate.evaluation.results import (
    EXAMPLES,
    FILE,
    PREDICTIONS,
    Audit,
    Metric,
    Results,
    read_results,
    write_results,
)
from medxlate.evaluation.subject import Subject


class Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def timing(self, stage: str) -> Iterator[None]:
        """Time the body."""
        began = time.monotonic()
        yield
        self.seconds[stage] = round(time.monotonic() - began, 2)


def check_replaceable(run: RunFolder) -> None:
    """Refuse, before anything is computed, a folder that ``write_evaluation`` cannot replace.

    Raises:
        OutputError: ``<run>/evaluation`` holds files, but no evaluation.json.
    """
    try:
        check_free(run.evaluation, marker=FILE, overwrite=True)
    except OutputError as problem:
        raise OutputError(
            problem.message, f"Move {run.evaluation} away and evaluate again."
        ) from None


def write_evaluation(
    run: RunFolder,
    subject: Subject,
    results: Results,
    table: pd.DataFrame | None,
    clock: Clock,
    *,
    audit: bool,
    listener: Listener,
) -> Results:
    """Audit, and write ``<run>/evaluation``; return, in all processes, what it then holds.

    Args:
        run: The run.
        subject: What was evaluated.
        results: What was found, without audits.
        table: The predictions of test images; None keeps the earlier ones.
        clock: The seconds so far.
        audit: Whether the translators are audited; else earlier audits are kept.
        listener: Receives stages and warnings.
    """
    values = None
    if ranks().is_first:
        before = _earlier(run, results, listener)
        with whole_folder(run.evaluation, marker=FILE, overwrite=True) as partial:
            audits: tuple[Audit, ...] = ()
            if audit and subject.translators:
                with clock.timing("audits"):
                    audits = audit_translators(subject, partial, listener=listener)
                write_contact_sheets(subject, partial)
            if before is not None:
                results = _merged(before, results, audit=audit, listener=listener)
                if not audit:
                    _copy(run.evaluation / EXAMPLES, partial / EXAMPLES)
                    _copy(run.evaluation / SHEET, partial / SHEET)
                if table is None:
                    _copy(run.evaluation / PREDICTIONS, partial / PREDICTIONS)
            if audit:
                results = results.model_copy(update={"audits": audits})
            if table is not None:
                table.to_parquet(partial / PREDICTIONS, index=False)
            results = results.model_copy(update={"seconds": {**results.seconds, **clock.seconds}})
            write_results(partial, results)
        values = results.model_dump(mode="json")
    return Results.model_validate(ranks().broadcast(values))


def _earlier(run: RunFolder, results: Results, listener: Listener) -> Results | None:
    """Return earlier results of the same model on the same patients; None if there are none."""
    if not (run.evaluation / FILE).exists():
        return None
    try:
        before = read_results(run.evaluation)
    except ModelError as problem:
        listener(Warned(f"{problem.message} Replacing the whole evaluation."))
        return None
    same = (before.split, before.model, before.images) == (
        results.split,
        results.model,
        results.images,
    )
    return before if same else None


def _merged(before: Results, results: Results, *, audit: bool, listener: Listener) -> Results:
    """Return the earlier results with new figures in the place of the same older ones.

    Figures that another judge took, or the run's own predictor before there was a judge, are
    dropped.
    """

    def key(metric: Metric) -> tuple[str, ...]:
        features = metric.features
        return (metric.group, metric.name, metric.level, metric.of, metric.source, features)

    new = {key(metric) for metric in results.metrics}
    kept = [metric for metric in before.metrics if key(metric) not in new]
    audits = () if audit else before.audits
    if results.judge not in ("", before.judge):
        judged = [each for each in kept if each.features == "predictor" or each.group == "tstr"]
        lost = [each for each in audits if each.kind == LABEL.kind]
        kept = [each for each in kept if each not in judged]
        audits = tuple(each for each in audits if each not in lost)
        if names := sorted({m.label for m in judged} | {each.kind for each in lost}):
            listener(
                Warned(
                    f"Dropped the results of an earlier judge: {', '.join(names)}. Evaluate "
                    "without --metric to compute them again."
                )
            )
    update: dict[str, Any] = {
        "judge": results.judge or before.judge,
        "metrics": (*kept, *results.metrics),
        "audits": audits,
        "seconds": before.seconds,
    }
    if not results.groups:
        update |= {"groups": before.groups, "pictures": before.pictures}
    return results.model_copy(update=update)


def _copy(old: Path, new: Path) -> None:
    if old.is_dir():
        shutil.copytree(old, new)
    elif old.is_file():
        shutil.copyfile(old, new)
