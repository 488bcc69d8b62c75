"""``medxlate demo``: the whole way on generated patients."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from medxlate.artifacts.runs import RunFolder, read_config
from medxlate.base.errors import DataError
from medxlate.base.events import Listener, Stage, silent
from medxlate.base.files import check_free, write_json
from medxlate.config import Config, Values, resolve
from medxlate.dataset.given_split import given_split
from medxlate.dataset.index import Dataset, DatasetInfo
from medxlate.dataset.labels import TaskKind
from medxlate.dataset.loading import Slices
from medxlate.dataset.options import PrepareOptions
from medxlate.dataset.prepare import prepare
from medxlate.dataset.splits import PARTS, Part, Split, read_split
from medxlate.dataset.training_data import image_size, open_modalities
from medxlate.evaluation.evaluate import Evaluation, evaluate
from medxlate.evaluation.paired import find_pairs
from medxlate.evaluation.results import read_results
from medxlate.inference.engine import run as run_network
from medxlate.inference.predict import PredictResult, predict
from medxlate.inference.translate import TranslateResult, Translator, translate
from medxlate.phantoms.files import PAIRED, check_counts, identity, write_phantoms
from medxlate.report.image_rows import Gains, ImageRow, images_and_gains
from medxlate.report.printing import with_interval
from medxlate.report.run_comparison import compare_runs
from medxlate.training.train import train

PATIENTS = {"ct": 95, "mri": 110, "pet": 12}
TRAIN = {"ct": 25, "mri": 100}  # the first patients of each
VALIDATE = {"ct": 5, "mri": 0}  # those after them; all others are test patients
SLICES = 4
SCAN_SIZE = 64
SIZE = 64
PICTURES = 5
MARKER = "demo.json"
ORACLE = "oracle"  # the modality that CT scans of MRI and PET patients are prepared as

PRESET = "scarce"
METHODS = ("target-only", "raw-mix", "joint", "oracle")  # in the order in which they are trained
SETTINGS: Values = {"runtime": {"log_every": 50, "samples_every": 10}}


@dataclass(frozen=True)
class DemoResult:
    """The results of the demo.

    Attributes:
        out: The folder with everything.
        dataset: What was prepared.
        methods: The evaluation of each of METHODS on test patients; `joint` with images and audits.
        runs: The run of each.
        translation: The result of ``translate``.
        predictions: The result of ``predict``.
        picture: Source, translated and true target images.
        seconds: Wall time.
    """

    out: Path
    dataset: DatasetInfo
    methods: Mapping[str, Evaluation]
    runs: Mapping[str, Path]
    translation: TranslateResult
    predictions: PredictResult
    picture: Path
    seconds: float


def demo(
    out: Path | str = "demo",
    *,
    seed: int = 0,
    overwrite: bool = False,
    listener: Listener = silent,
) -> DemoResult:
    """Generate patients as DICOM and NIfTI files and run every stage on them.

    CT is the scarce target, MRI the source; PET is prepared too, to try it. The MRI patients'
    true CT is generated as well: the oracle learns from it, and translations are compared with
    it. All methods make the same number of predictor updates on the same patients.

    Args:
        out: The folder to write.
        seed: Determines everything that is generated and trained.
        overwrite: Whether an older demo there is replaced.
        listener: Receives progress.

    Raises:
        OutputError: ``out`` holds something else.
    """
    began = time.monotonic()
    out = Path(out)
    _clear(out, overwrite=overwrite)
    paired = {"mri": PATIENTS["mri"]}
    _generate(out / "raw", patients=PATIENTS, paired=paired, seed=seed, listener=listener)
    dataset = prepare_phantoms(out / "raw", out / "data", listener=listener)
    split = demo_split(out / "data")
    runs = {
        method: train(
            _config(out, method, seed),
            split=split,
            runs=out / "runs",
            name=method,
            listener=listener,
        ).run
        for method in METHODS
    }
    run = RunFolder(runs["joint"])
    translation = translate(out / "raw/mri", out=out / "fake_ct", model=run.path, listener=listener)
    predictions = predict(
        out / "raw/ct", out=out / "predictions.csv", model=run.path, listener=listener
    )
    methods = {method: evaluate(each, listener=listener) for method, each in runs.items()}
    result = DemoResult(
        out,
        dataset,
        methods=methods,
        runs=runs,
        translation=translation,
        predictions=predictions,
        picture=draw(runs, out / "demo.png"),
        seconds=round(time.monotonic() - began, 1),
    )
    write_json(out / MARKER, {"finished": True, "seconds": result.seconds})
    return result


def demo_split(data: Path) -> Split:
    """Return the demo's split: the first patients train, the next validate, the others test."""
    parts: dict[Part, list[str]] = {"train": [], "val": [], "test": []}
    for name in ("ct", "mri"):
        ends = [0, TRAIN[name], TRAIN[name] + VALIDATE[name], PATIENTS[name]]
        for part, first, last in zip(PARTS, ends, ends[1:], strict=False):
            parts[part] += [identity(name, number + 1) for number in range(first, last)]
    return given_split(data, ("ct", "mri", ORACLE), parts)


def generate(
    out: Path | str,
    *,
    patients: Mapping[str, int] | None = None,
    paired: Mapping[str, int] | None = None,
    seed: int = 0,
    overwrite: bool = False,
    listener: Listener = silent,
) -> None:
    """Write generated patients as DICOM and NIfTI files, and train nothing.

    The folder then holds what ``phantoms.files.write_phantoms`` says: ``ct/``, ``mri/``, ``pet/``
    and, with pairs, ``paired_ct/``.

    Args:
        out: The folder to write.
        patients: How many patients of each modality (ct, mri, pet); None: the demo's.
        paired: How many of the patients of mri and of pet have a CT too, the truth for their
            translations.
        seed: Everything generated follows from it.
        overwrite: Whether an older demo there is replaced.
        listener: Receives progress.

    Raises:
        UsageError: A modality is unknown, a count is below 1, or there are more pairs than
            patients of MRI or PET.
        OutputError: ``out`` holds something else.
    """
    patients, out, paired = PATIENTS if patients is None else patients, Path(out), paired or {}
    check_counts(patients, paired)
    _clear(out, overwrite=overwrite)
    _generate(out, patients=patients, paired=paired, seed=seed, listener=listener)
    write_json(out / MARKER, {"finished": True})


def _clear(out: Path, *, overwrite: bool) -> None:
    """Make the folder, empty but for the mark of a demo; refuse to replace anything else."""
    check_free(out, marker=MARKER, overwrite=overwrite)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    write_json(out / MARKER, {"finished": False})


def _generate(
    raw: Path,
    *,
    patients: Mapping[str, int],
    paired: Mapping[str, int],
    seed: int,
    listener: Listener,
) -> None:
    listener(Stage(f"Generating patients as DICOM and NIfTI files in {raw}"))
    write_phantoms(
        raw,
        patients=patients,
        slices=SLICES,
        paired=paired,
        size=SCAN_SIZE,
        seed=seed,
        listener=listener,
    )


def draw(runs: Mapping[str, Path], path: Path) -> Path:
    """Draw what the demo shows: source, its translation, the true target, and the errors.

    Args:
        runs: The evaluated run of each of METHODS.
        path: The file to write.

    Raises:
        DataError: No test patient has the same slice in source and ``data.oracle``.
    """
    run = RunFolder(runs["joint"])
    config = read_config(run)
    source, task = config.data.sources[0], Dataset(Path(config.data.folder)).info.task
    originals, truth = _pairs(run, config)
    some = [round(i * (len(originals) - 1) / (PICTURES - 1)) for i in range(PICTURES)]
    chosen, true = originals.batch(some), truth.batch(some)
    translator = Translator(run.path, source=source)
    fakes = run_network(translator.network, [chosen.images], compute=translator.compute)
    ages = [f"{float(label):.0f} {task.unit}" for label in chosen.labels]
    name, target = source.upper(), config.data.target.upper()
    blank = [""] * len(some)
    rows = [
        ImageRow(f"{name} in", list(chosen.images[:, 0].numpy()), ages),
        ImageRow(f"{target} out", list(fakes[:, 0].numpy()), blank),
        ImageRow(f"true {target}", list(true.images[:, 0].numpy()), blank),
    ]
    images_and_gains(path, rows, _gains(runs, name, target), note=_said(runs))
    return path


def _gains(runs: Mapping[str, Path], source: str, target: str) -> Gains:
    """Return the errors of the demo's methods by what they learned from."""
    words = {
        "target-only": f"{target} alone",
        "raw-mix": f"+ untranslated {source}",
        "joint": f"+ translated {source}",
        "oracle": f"+ true {target} of the {source} patients",
    }
    errors = {}
    for method, run in runs.items():
        results = read_results(RunFolder(run).evaluation)
        metric = next(
            m for m in results.metrics
            if (m.name, m.level, m.of) == ("mse", "patient", "model")
        )  # fmt: skip
        errors[words[method]] = metric.value or 0.0
        name = results.task.name if results.task else "label"
        title = f"Mean squared error of {name}, {metric.unit}\nby what the predictor learned from"
    return Gains(title, errors, words["joint"])


def _said(runs: Mapping[str, Path]) -> str:
    """Return how sure the difference between the joint method and target-only is."""
    found = compare_runs(RunFolder(runs["joint"]), RunFolder(runs["target-only"]))
    low, high = (None if end is None else 100 * end for end in (found.low, found.high))
    value, ends = with_interval(100 * found.change, low, high, signed=True)
    return (
        "Generated test patients, never seen in training. Error with translated images against "
        f"without: {value} % (95 % CI {ends} %, {found.patients} patients, one split)."
    )


def _pairs(run: RunFolder, config: Config) -> tuple[Slices, Slices]:
    """Return the first source's test slices that have a truth, and the truth of each."""
    dataset = Dataset(Path(config.data.folder))
    modalities = open_modalities(dataset, config)
    split = read_split(run.split, modalities)
    both = [modalities[name] for name in (config.data.sources[0], config.data.oracle)]
    found = find_pairs(*(m.slices.iloc[split.rows(m.name, m.slices, "test")] for m in both))
    if found is None:
        raise DataError(
            f"No test patient has the same slice in both {both[0].name} and {both[1].name}.",
            "Prepare both modalities from the files of one demo.",
        )
    size, task = image_size(dataset, config), dataset.info.task
    originals, truth = (
        Slices(modality, rows, task=task, image_size=size)
        for modality, rows in zip(both, (found.source, found.target), strict=True)
    )
    return originals, truth


def prepare_phantoms(
    raw: Path,
    data: Path,
    *,
    label: Literal["age", "sex"] = "age",
    size: int = SIZE,
    listener: Listener = silent,
) -> DatasetInfo:
    """Prepare what ``write_phantoms`` wrote: CT, MRI and PET, with ages, into one dataset.

    Modalities that were not written are left out. CT scans of MRI and PET patients become the
    modality ``oracle``, with the patients of ``mri`` and ``pet``.

    Args:
        raw: The folder of generated patients.
        data: The dataset folder.
        label: What is predicted: the age in years, or the sex; the other stays in the index.
        size: Side of the stored images, pixels.
        listener: Receives progress.
    """
    other = "sex" if label == "age" else "age"
    task: TaskKind = "regression" if label == "age" else "classification"
    tag = {"age": "PatientAge", "sex": "PatientSex"}
    tags = PrepareOptions(label=tag[label], label_name=label, keep=(tag[other],), task=task)
    brain = replace(tags, window=(40, 120))
    labels = raw / "mri/labels.csv"
    table = PrepareOptions(
        labels=labels, label=label, file="file", patient="patient", keep=(other,), task=task
    )
    for folder, modality, options in (
        ("ct", "ct", brain),
        ("mri", "mri", table),
        ("pet", "pet", tags),
        (PAIRED, ORACLE, brain),
    ):
        if (raw / folder).is_dir():
            prepare(
                raw / folder,
                modality=modality,
                data=data,
                size=size,
                options=options,
                listener=listener,
            )
    return Dataset(data).info


def _config(out: Path, method: str, seed: int) -> Config:
    data = {"folder": str(out / "data"), "sources": ["mri"], "target": "ct", "oracle": ORACLE}
    return resolve(
        preset=PRESET,
        overrides={
            **SETTINGS,
            "method": method,
            "data": data,
            "split": {"seed": seed},
            "runtime": {**SETTINGS["runtime"], "seed": seed},
        },
    )
