"""What a study will cost: some steps of each kind of training, multiplied; what it could show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from medxlate.base.events import Listener, Progress, silent
from medxlate.config import Config
from medxlate.dataset.index import Dataset, Modality
from medxlate.dataset.splits import Part, Split
from medxlate.dataset.training_data import image_size, named_modalities, open_modalities
from medxlate.method.registry import STAGES, find_method
from medxlate.study.begin import Grid, plan_study
from medxlate.study.cell import JUDGE
from medxlate.study.designs import draw_splits
from medxlate.study.outlook import Outlook, outlook_of
from medxlate.study.study import Study, cell_config, cell_stages, cells, stage_name
from medxlate.training.setup import RunInputs, make_inputs
from medxlate.training.trial import Trial, try_steps

KEPT = 2  # checkpoints that a training holds at once, the last and the best


@dataclass(frozen=True)
class TrainingCost:
    """One kind of training in a study.

    Attributes:
        method: A method, or the first stage ``translator`` or ``source-only``.
        sources: Its sources.
        count: How many such trainings there are.
        steps: Steps of each.
        step_seconds: Measured on this machine.
        seconds: All of them together, validation included.
        memory_bytes: Highest memory of the GPU; None on other devices.
    """

    method: str
    sources: str
    count: int
    steps: int
    step_seconds: float
    seconds: float
    memory_bytes: int | None


@dataclass(frozen=True)
class Forecast:
    """What a study will cost.

    Attributes:
        study: What is compared.
        cells: Cells of the grid.
        lines: A line a kind of training.
        seconds: All trainings, one after the other.
        wall_seconds: The same, shared out over the jobs.
        disk_bytes: About the most that is on disk at once: checkpoints of what is being trained;
            until the last cell is finished the first stages with the translated images; the models
            that judge images, and the translations of test images.
        outlook: What it could show; None where slices are divided, or nothing is compared.
    """

    study: Study
    cells: int
    lines: tuple[TrainingCost, ...]
    seconds: float
    wall_seconds: float
    disk_bytes: int
    outlook: Outlook | None


def plan(
    config: Config,
    grid: Grid | None = None,
    *,
    jobs: int = 1,
    spread_from: Path | str | None = None,
    listener: Listener = silent,
) -> Forecast:
    """Forecast the cost and the power of ``compare`` with the same arguments.

    Nothing is written.

    A few steps of each kind of training are taken on this machine.

    Args:
        config: As for ``compare``.
        grid: As for ``compare``.
        jobs: Cells at the same time; on one processor they share its cores, so that the time
            falls by less than this.
        spread_from: A finished study, by whose differences the smallest detectable one is
            forecast; None: they are guessed from the label.
        listener: Receives progress.

    Raises:
        ConfigError: A method, modality or value is wrong.
        DataError: The dataset is unusable, or its patients cannot be split; or the study
            ``spread_from`` does not fit.
    """
    study = plan_study(config, grid or Grid())
    dataset = Dataset(Path(study.config.data.folder))
    tables = open_modalities(dataset, study.config)
    splits = draw_splits(study, dataset, tables)
    outlook = outlook_of(
        study,
        tables[study.config.data.target],
        splits,
        dataset.info.task,
        None if spread_from is None else Path(spread_from),
    )
    kinds, counts = _kinds(study)
    lines, largest, kept = [], 0, 0
    for done, (kind, settings) in enumerate(kinds.items()):
        listener(Progress("trying", done, len(kinds)))
        inputs = _run_inputs(dataset, tables, splits[0], settings)
        trial = try_steps(inputs)
        lines.append(_line(kind, counts[kind], settings, trial))
        largest = max(largest, trial.checkpoint_bytes)
        kept += counts[kind] * _kept(inputs, trial)
    listener(Progress("trying", len(kinds), len(kinds)))
    seconds = sum(line.seconds for line in lines)
    return Forecast(
        study,
        len(cells(study)),
        tuple(lines),
        seconds,
        seconds / jobs,
        largest * KEPT * jobs + kept,
        outlook,
    )


Kind = tuple[str, str]


def _kinds(study: Study) -> tuple[dict[Kind, Config], Counter[Kind]]:
    """Return a configuration of each kind of training, and how many there are of it."""
    kinds: dict[Kind, Config] = {}
    counts: Counter[Kind] = Counter()
    shared: set[str] = set()
    for cell in cells(study):
        for config in cell_stages(study, cell).values():
            if stage_name(config) not in shared:
                shared.add(stage_name(config))
                _count(config, kinds, counts)
        if find_method(cell.method).build is not None:
            _count(cell_config(study, cell), kinds, counts)
    return kinds, counts


def _count(config: Config, kinds: dict[Kind, Config], counts: Counter[Kind]) -> None:
    kind = (config.method, "+".join(config.data.sources))
    kinds.setdefault(kind, config)
    counts[kind] += 1


def _run_inputs(
    dataset: Dataset, everything: Mapping[str, Modality], split: Split, config: Config
) -> RunInputs:
    tables = {name: everything[name] for name in named_modalities(config)}
    return make_inputs(config, dataset, tables, split)


def _line(kind: Kind, count: int, config: Config, trial: Trial) -> TrainingCost:
    optimizer = config.optimizer
    steps = optimizer.epochs * (optimizer.steps_per_epoch or 1)
    each = steps * trial.step_seconds + optimizer.epochs * trial.validation_seconds
    return TrainingCost(*kind, count, steps, trial.step_seconds, count * each, trial.memory_bytes)


def _kept(inputs: RunInputs, trial: Trial) -> int:
    """Return what stays of one training until the study has ended, bytes."""
    method, size = inputs.config.method, image_size(inputs.dataset, inputs.config)
    if method in STAGES:
        translated = _count_images(inputs, "train") if method == "translator" else 0
        return trial.checkpoint_bytes * KEPT + translated * size**2 * 2
    judging = trial.checkpoint_bytes // 3 if method == JUDGE else 0  # weights without moments
    translated = _count_images(inputs, "test") if find_method(method).translates else 0
    return judging + translated * size**2


def _count_images(inputs: RunInputs, part: Part) -> int:
    """Return how many source images a part has."""
    return sum(
        len(inputs.split.rows(name, inputs.tables[name].slices, part))
        for name in inputs.config.data.sources
    )
