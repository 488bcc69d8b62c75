"""``medxlate compare``: every method on the same patients, and what the results allow to say."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from medxlate.base.device import choose_compute
from medxlate.base.errors import DataError, UsageError, plural
from medxlate.base.events import CellEnded, Event, Listener, Progress, Stage, Warned, silent
from medxlate.base.files import locked, write_json
from medxlate.config import Config
from medxlate.dataset.splits import MEANING
from medxlate.evaluation.features import find_inception
from medxlate.method.registry import find_method, single_images
from medxlate.study.begin import Grid, begin_study, plan_study
from medxlate.study.cell import RESULT, STAGE_RECORD, Assignment, Done, carry_out
from medxlate.study.cluster import ray_runner
from medxlate.study.collect import Findings, collect, finished_cells
from medxlate.study.external_predictions import score_tables
from medxlate.study.study import (
    Cell,
    OpenStudy,
    Study,
    StudyFolder,
    cell_stages,
    cells,
    find_cell,
    read_study,
    stage_name,
)
from medxlate.study.study_report import PAGE, task_of, write_study_page
from medxlate.study.summary import remove_half_written, write_findings
from medxlate.study.workers import Outcome, Runner, in_turn, local_processes

RETRIES = 2


@dataclass(frozen=True)
class Where:
    """Where the cells are trained.

    Attributes:
        jobs: Processes at the same time; with several GPUs they are dealt out in turn.
        ray: The address of an existing Ray cluster; "": this computer. A cell takes one of its
            GPUs where ``config.runtime.device`` is ``cuda``, else one of its processors.
        cell: One cell alone, for a job array; nothing is collected.
        device: auto, cpu, cuda, cuda:N or mps; "": the configured one.
        keep_models: Whether every cell keeps its trained model.
    """

    jobs: int = 1
    ray: str = ""
    cell: int | None = None
    device: str = ""
    keep_models: bool = False


@dataclass(frozen=True)
class CompareResult:
    """The result of ``compare``.

    Attributes:
        folder: The study folder.
        study: What was compared.
        cells: How many cells the grid has.
        failed: Cells that failed, with the reasons.
        findings: The results of the finished cells; None if a single cell was asked for.
        training_seconds: Spent in trainings, over all cells and stages of this call.
        seconds: How long this call took.
        overhead: What came on top of the trainings, as a share of their time: reading, predicting,
            writing, statistics, figures; not the waiting of a process for another. None where
            nothing was trained.
    """

    folder: Path
    study: Study
    cells: int
    failed: dict[str, str]
    findings: Findings | None
    training_seconds: float
    seconds: float
    overhead: float | None


def compare(
    config: Config | None = None,
    grid: Grid | None = None,
    *,
    out: Path | str = "compare",
    where: Where | None = None,
    predictions: Sequence[Path | str] = (),
    inception: Path | str | None = None,
    listener: Listener = silent,
) -> CompareResult:
    """Train every method on the same splits, score them on the same test patients, and compare.

    An interrupted study continues with the missing cells; failed cells are tried again, and the
    others continue without them.

    Args:
        config: Of every cell; see ``medxlate.config.resolve``. None: the study in ``out``.
        grid: What is compared.
        out: The study folder.
        where: Where the cells are trained.
        predictions: CSV files of other tools' predictions for the same test images.
        inception: Inception weights for FID and IS; without them, predictor features are used.
        listener: Receives progress, finished cells and warnings.

    Raises:
        ConfigError: A method, modality or value is wrong.
        DataError: Too few patients, a class is absent from training or test, or no cell finished.
        OutputError: The folder holds another study, or something else.
        UsageError: There is no such cell, or no Ray cluster at that address.
    """
    began = time.monotonic()
    folder, where = StudyFolder(Path(out)), where or Where()
    if config is None:
        study = read_study(folder.path)
    else:
        study = plan_study(config, grid or Grid(), here=not where.ray)
    device = where.device or study.config.runtime.device
    if where.ray and device == "auto":
        listener(Warned("Cells use the CPUs of the cluster. To use its GPUs, add --device cuda."))
    if where.ray and study.config.runtime.offline:
        raise UsageError("--ray needs a connection to the cluster, which --offline forbids.")
    runner = _runner(device, where)
    begin_study(study, folder, listener)
    if note := single_images(study.config):
        listener(Warned(note))
    tables = [Path(each) for each in predictions]
    weights = Path(inception) if inception else None
    _check_extras(study, folder, tables, weights)
    assignments = _assignments(study, folder, where)
    here = not where.ray and (where.jobs == 1 or where.cell is not None)
    work = _Work(study, folder, assignments, runner, in_this_process=here, listener=listener)
    before = time.monotonic()
    work.run()
    running = time.monotonic() - before
    if where.cell is None and not finished_cells(study, folder):
        raise DataError(f"Every cell of {folder.path} failed, for example {_first(work.failed)}")
    findings = None
    if where.cell is None:
        listener(Stage("Comparing"))
        with locked(folder.path / ".compare.lock", wait=True):
            remove_half_written(folder)
            findings = collect(
                study,
                folder,
                predictions=tables,
                inception=weights,
                device="auto" if where.ray else device,
            )
            task = task_of(study)
            write_findings(study, folder, findings, work.failed, label=task.name if task else "")
            _write_page(folder, listener)
        if not work.failed:
            shutil.rmtree(folder.path / "shared", ignore_errors=True)  # no cell needs it now
    seconds = time.monotonic() - began
    trained = work.training_seconds
    return CompareResult(
        folder.path,
        study,
        len(cells(study)),
        work.failed,
        findings,
        round(trained, 3),
        round(seconds, 3),
        round((seconds - running + work.other_seconds) / trained, 4) if trained else None,
    )


def _write_page(folder: StudyFolder, listener: Listener) -> None:
    """Write report.html; a study with results does not fail because of its page."""
    try:
        write_study_page(folder.path)
    except Exception as problem:
        listener(Warned(f"{PAGE} could not be written: {problem}"))


def _check_extras(
    study: Study, folder: StudyFolder, predictions: Sequence[Path], inception: Path | None
) -> None:
    """Refuse, before anything is trained, a dataset that changed and files that are of no use."""
    find_inception(inception, download=False)
    score_tables(predictions, OpenStudy(study, folder))


def _runner(device: str, where: Where) -> Runner:
    if where.ray:
        gpus = 1 if device.startswith("cuda") else 0
        return ray_runner(where.ray, gpus_per_item=gpus, cpus_per_item=1, retries=RETRIES)
    if where.jobs == 1 or where.cell is not None:
        return in_turn(device, 0)
    devices = [str(choose_compute(device).device)]
    if device in ("auto", "cuda") and devices == ["cuda"]:
        devices = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return local_processes(where.jobs, devices)


def _assignments(study: Study, folder: StudyFolder, where: Where) -> list[Assignment]:
    """Return an assignment for each cell that is missing."""
    wanted = cells(study) if where.cell is None else [find_cell(study, where.cell)]
    return [
        Assignment(folder.path.resolve(), cell.index, keep_models=where.keep_models)
        for cell in wanted
        if not (folder.cell(cell) / RESULT).is_file()
    ]


class _Work:
    """What is trained in this call: first what cells share, then the cells."""

    def __init__(
        self,
        study: Study,
        folder: StudyFolder,
        assignments: Sequence[Assignment],
        runner: Runner,
        *,
        in_this_process: bool,
        listener: Listener,
    ) -> None:
        self.failed: dict[str, str] = {}
        self.training_seconds = 0.0
        self.other_seconds = 0.0
        self._study = study
        self._folder = folder
        self._assignments = list(assignments)
        self._cells = cells(study)
        self._runner = runner
        self._in_this_process = in_this_process
        self._listener = listener
        self._done = 0.0
        self._total = 0.0
        self._warned = {MEANING["image"], single_images(study.config)}  # said before

    def run(self) -> None:
        """Train everything that is missing; a failure costs what depends on it only."""
        stages = self._stages()
        costs = {
            assignment: self._steps(assignment) for assignment in [*stages, *self._assignments]
        }
        self._total = sum(costs.values())
        count = len(self._assignments)
        shared = f", after {plural(len(stages), 'shared first stage')}" if stages else ""
        self._listener(Stage(f"{count} of {len(self._cells)} cells to train{shared}"))
        broken: dict[str, str] = {}
        for outcome in self._outcomes(list(stages), costs):
            if outcome.error:
                broken[stages[outcome.item]] = outcome.error
        ready = []
        for assignment in self._assignments:
            cell = self._cells[assignment.index]
            error = next((broken[n] for n in self._needs(cell) if n in broken), "")
            if error:
                error = f"its first stage failed: {error}"
                self._fail(cell, error, costs[assignment])
                self._listener(CellEnded(cell.name, len(self.failed), count, None, 0.0, error))
            else:
                ready.append(assignment)
        finished = len(self.failed)
        for outcome in self._outcomes(ready, costs):
            cell = self._cells[outcome.item.index]
            finished += 1
            if outcome.error:
                self._fail(cell, outcome.error, 0)
            loss = outcome.result.loss if outcome.result else None
            seconds = outcome.result.seconds if outcome.result else 0.0
            self._listener(CellEnded(cell.name, finished, count, loss, seconds, outcome.error))

    def _outcomes(
        self, assignments: Sequence[Assignment], costs: dict[Assignment, float]
    ) -> Iterator[Outcome[Assignment, Done]]:
        """Carry assignments out and count their time; each costs its share of all steps."""
        listening = [self._listening(assignment) for assignment in assignments]
        with closing(self._runner.run(carry_out, listening)) as outcomes:
            for outcome in outcomes:
                if outcome.result:
                    self.training_seconds += outcome.result.seconds
                    self.other_seconds += outcome.result.other_seconds
                self._advance(costs[outcome.item])
                yield outcome

    def _listening(self, assignment: Assignment) -> Assignment:
        """Return the assignment with a listener, where it is carried out in this process."""
        return replace(assignment, listener=self._inside) if self._in_this_process else assignment

    def _inside(self, event: Event) -> None:
        """Pass on how far the training of one cell is, as part of the whole."""
        if isinstance(event, Progress):
            done = min(self._done + event.done, self._total)
            self._listener(Progress("study", round(done), round(self._total)))
        elif isinstance(event, Warned) and event.text not in self._warned:
            self._warned.add(event.text)  # cells are alike: each warning once
            self._listener(event)

    def _advance(self, steps: float) -> None:
        self._done += steps
        self._listener(Progress("study", round(self._done), round(self._total)))

    def _stages(self) -> dict[Assignment, str]:
        """Return an assignment for each stage that missing cells still need, and its name."""
        found: dict[str, Assignment] = {}
        for assignment in self._assignments:
            for name, config in cell_stages(self._study, self._cells[assignment.index]).items():
                shared = stage_name(config)
                if not (self._folder.stage(config).path / STAGE_RECORD).is_file():
                    found.setdefault(shared, replace(assignment, stage=name))
        return {assignment: name for name, assignment in found.items()}

    def _needs(self, cell: Cell) -> list[str]:
        return [stage_name(config) for config in cell_stages(self._study, cell).values()]

    def _steps(self, assignment: Assignment) -> float:
        optimizer = self._study.config.optimizer
        epochs = optimizer.epochs
        if assignment.stage:
            epochs = self._study.config.baselines.first_epochs or epochs
        if find_method(self._cells[assignment.index].method).build is None:
            return 0
        return epochs * (optimizer.steps_per_epoch or 1)

    def _fail(self, cell: Cell, error: str, steps: float) -> None:
        self.failed[cell.name] = error
        write_json(self._folder.failure(cell), {**cell.keys, "error": error})
        self._advance(steps)


def _first(failed: dict[str, str]) -> str:
    name, error = next(iter(failed.items()))
    return f"{name}: {error}"
