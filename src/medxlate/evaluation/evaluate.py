"""``medxlate evaluate``: a run's predictor and translator on its test patients."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from medxlate.config import Config, parse
from medxlate.dataset.index import Dataset, DatasetInfo
from medxlate.dataset.labels import Task
from medxlate.dataset.leaks import check_no_leak
from medxlate.dataset.links import find_links
from medxlate.dataset.loading import Slices
from medxlate.dataset.splits import MEANING, read_split
from medxlate.errors import DataError, ModelError, UsageError
from medxlate.evaluation.distribution import (
    NAMES,
    SMALL,
    Features,
    compare_features,
    extract,
    find_inception,
    inception_features,
    open_store,
    predictor_features,
    to_eight_bit,
)
from medxlate.evaluation.prediction import (
    constant_predictions,
    metric_names,
    score,
    score_slices,
)
from medxlate.evaluation.shared import (
    common_folder,
    gather_features,
    gather_predictions,
    share,
)
from medxlate.evaluation.store import FOLDER, StoredFeatures
from medxlate.events import Listener, Stage, Warned, silent
from medxlate.inference.choices import validated_compute
from medxlate.inference.engine import run as run_network
from medxlate.inference.predict import Predictor, predict_batches
from medxlate.inference.translate import Translator
from medxlate.models.folder import ModelInfo, predictor_of, read_model
from medxlate.models.runs import RunFolder, find_model, find_run
from medxlate.ranks import ranks
from medxlate.records import read_json
from medxlate.training.data import open_modalities, part_slices

# Images at once. A processor is no faster with more, and what a generator computes for 16 images
# of 256 x 256 takes more than 1 GiB.
BATCHES = {"cpu": 4, "gpu": 32}


@dataclass(frozen=True)
class Evaluation:
    """What ``evaluate`` measured on the run's test patients.

    Attributes:
        run: The run folder.
        target: The target modality.
        images: Real target images in the test part.
        patients: Their patients.
        per_image: Prediction metrics over images.
        per_patient: The same over patients, each by the mean of its images; a patient whose
            images carry several labels counts once for each.
        constant: The same metrics per image of a prediction that ignores the image: the mean
            training label, or the training classes' frequencies.
        image_metrics: fid, kid, is by source, under names that carry their features.
        translated: Translated test images by source.
        seconds: How long it took.
    """

    run: Path
    target: str
    images: int
    patients: int
    per_image: dict[str, float | None] = field(default_factory=dict)
    per_patient: dict[str, float | None] = field(default_factory=dict)
    constant: dict[str, float | None] = field(default_factory=dict)
    image_metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    translated: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


def evaluate(
    run: Path | str = "runs/latest",
    *,
    metrics: Sequence[str] = (),
    data: Path | str | None = None,
    model: Path | str | None = None,
    inception: Path | str | None = None,
    download: bool = False,
    offline: bool = False,
    device: str = "auto",
    precision: str = "auto",
    listener: Listener = silent,
) -> Evaluation:
    """Measure a run on the test patients that its training never saw.

    The processes of a job of torchrun divide the batches; all get the same figures.

    Args:
        run: A run folder or ``runs/latest``.
        metrics: mse, mae, r2 | accuracy, auroc, f1; fid, kid, is. None: all that fit.
        data: The dataset folder; None: where it was when the run was trained.
        model: A model folder whose translators are measured in place of the run's, by fid, kid and
            is alone: an imported one, say. Its training images are not known: that the run's test
            patients are not among them is for the caller to know.
        inception: Inception's weights for fid, kid and is. Without them (and without
            torch-fidelity's own copy) the predictor's features serve, and the names say so.
        download: Whether torch-fidelity may download Inception's weights.
        offline: Whether that is refused all the same; also where the run's configuration says so.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto, fp32 or bf16.
        listener: Told of stages and warnings.

    Raises:
        UsageError: A metric is unknown, does not fit the task or cannot be taken.
        ModelError: The run is missing or not finished, or ``model`` cannot be compared with it.
        DataError: The dataset is gone or has changed.
    """
    began = time.monotonic()
    folder = find_run(Path(run))
    own = find_model(folder.path)
    info = read_model(own)
    measured = own if model is None else find_model(Path(model))
    translators = read_model(measured)
    task = None if model is not None else predictor_of(own, info).head.task
    wanted = _wanted(metrics, task, translates=bool(translators.translators))
    config = parse(read_json(folder.config, error=ModelError))
    dataset = Dataset(Path(data or config.data.folder))
    if measured != own:
        _check_like(measured, translators, info, config.data.sources)
        _check_recipes(measured, translators, dataset.info)
    train, test = _slices(folder, dataset, config)
    if config.split.policy == "image":
        listener(Warned(MEANING["image"]))
    compute = validated_compute(translators, device, precision, listener=listener)
    batch_size = BATCHES["cpu" if compute.device.type == "cpu" else "gpu"]
    predictor = Predictor(folder.path, compute=compute)
    real = test[info.target]
    scores: dict[str, Any] = {}
    if prediction := [name for name in wanted if name not in NAMES]:
        listener(Stage(f"Predicting {len(real)} {info.target} images of test patients"))
        every = _prediction_scores(predictor, train, real, batch_size)
        scores = {k: {n: v[n] for n in prediction} for k, v in every.items()}
    found: dict[str, dict[str, float]] = {}
    if distribution := [name for name in wanted if name in NAMES]:
        offline = offline or config.runtime.offline
        features = _features(predictor, inception, download=download, offline=offline)
        _check_is(metrics, features)
        _check_enough(translators.translators, test, real, distribution)
        with (
            common_folder(dataset.folder / FOLDER, listener) as place,
            open_store(place, features, compute.device, listener=listener) as store,
        ):

            def taken(images: Iterable[Tensor], count: int) -> StoredFeatures:
                own = extract(map(to_eight_bit, images), features, compute.device, store)
                return gather_features(own, store, count, batch_size)

            listener(Stage(f"Taking the features of {len(real)} real {real.name} images"))
            reals = taken((batch.images for batch in share(real, batch_size)), len(real))
            for source in translators.translators:
                slices = test[source]
                listener(Stage(f"Comparing {len(slices)} translated {source} images by features"))
                translator = Translator(measured, source=source, compute=compute)
                fakes = taken(_translated(translator, slices, batch_size), len(slices))
                if ranks().is_first:
                    found[source] = compare_features(fakes, reals, distribution, features)
                if min(len(fakes), len(reals)) < SMALL:
                    listener(
                        Warned(
                            f"{len(fakes)} translated and {len(reals)} real images are few: fid is "
                            f"biased upwards below {SMALL}; compare only figures of equal numbers."
                        )
                    )
    found = ranks().tell(found)
    return Evaluation(
        folder.path,
        info.target,
        len(real),
        len(set(real.patients)),
        **scores,
        image_metrics=found,
        translated={source: len(test[source]) for source in found},
        seconds=round(time.monotonic() - began, 3),
    )


def _wanted(metrics: Sequence[str], task: Task | None, *, translates: bool) -> list[str]:
    """Return the metrics to take; without a task only those of images."""
    fitting = [*(metric_names(task) if task else ()), *(NAMES if translates else ())]
    for name in metrics:
        if name not in fitting:
            if name in NAMES:
                raise UsageError(f"{name} needs a translator, and this run has none.")
            what = f"a {task.kind}" if task else "--model"
            raise UsageError(
                f"The metric '{name}' does not exist or does not fit {what}.",
                f"Choose from {', '.join(fitting)}.",
            )
    return list(dict.fromkeys(metrics)) or fitting


def _check_like(folder: Path, model: ModelInfo, own: ModelInfo, sources: Sequence[str]) -> None:
    """Refuse a model that was made for other images than the run's, or makes none."""
    if not model.translators:
        raise ModelError(f"{folder} cannot translate, so --model has nothing to measure.")
    if (model.target, model.image_size) != (own.target, own.image_size):
        raise ModelError(
            f"{folder} makes {model.target} images of {model.image_size} px, the run's are "
            f"{own.target} of {own.image_size} px."
        )
    for source in model.translators:
        if source not in sources:
            raise ModelError(
                f"{folder} translates from {source}, of which the run has no images.",
                f"It has {', '.join(sources)}." if sources else "",
            )


def _check_recipes(folder: Path, model: ModelInfo, info: DatasetInfo) -> None:
    """Refuse a model that reads pixel values in another way than the dataset was prepared."""
    recipes = {name: translator.recipe for name, translator in model.translators.items()}
    for name, recipe in {**recipes, model.target: model.target_recipe}.items():
        if recipe != info.modalities[name].recipe:
            raise ModelError(
                f"{folder} has another recipe for {name} than the dataset.",
                "Import it again with --data.",
            )


def _slices(
    folder: RunFolder, dataset: Dataset, config: Config
) -> tuple[Slices, dict[str, Slices]]:
    """Return the target's training slices and every modality's test slices."""
    opened = open_modalities(dataset, config)
    split = read_split(folder.split, opened)
    slices = {name: modality.slices for name, modality in opened.items()}
    check_no_leak(split, slices, find_links(opened, split.policy))
    train, test = (part_slices(dataset, opened, split, config, part) for part in ("train", "test"))
    if not len(test[config.data.target]):
        raise DataError("The split has no test patient of the target modality.")
    return train[config.data.target], test


def _prediction_scores(
    predictor: Predictor, train: Slices, test: Slices, batch_size: int
) -> dict[str, dict[str, float | None]]:
    """Score images, patients, and a constant prediction."""
    head = predictor.head

    def predict(images: Iterable[Tensor]) -> np.ndarray[Any, Any]:
        return predict_batches(predictor.network, images, head=head, compute=predictor.compute)

    values = gather_predictions(predict, test, batch_size)
    labels = test.labels.numpy()
    per_image, per_patient = score_slices(values, labels, test.patients, head.task)
    constant = constant_predictions(train.labels.numpy(), len(labels), head.task)
    return {
        "per_image": per_image,
        "per_patient": per_patient,
        "constant": score(constant, labels, head.task),
    }


def _features(
    predictor: Predictor, inception: Path | str | None, *, download: bool, offline: bool
) -> Features:
    weights = find_inception(
        None if inception is None else Path(inception), download=download, offline=offline
    )
    if weights is not None:
        features = inception_features(weights)
        features.network.to(predictor.compute.device)
        return features
    has_classes = predictor.head.task.kind == "classification"
    return predictor_features(predictor.network, has_classes=has_classes)


def _check_is(metrics: Sequence[str], features: Features) -> None:
    """Refuse IS where it was asked for by name and the features have no classes."""
    if "is" in metrics and not features.has_classes:
        raise UsageError(
            "IS needs class probabilities; a regression's predictor has none.",
            "Name Inception's weights with --inception, or allow --download.",
        )


def _check_enough(
    sources: Iterable[str], test: Mapping[str, Slices], real: Slices, metrics: Sequence[str]
) -> None:
    """Refuse test parts in which there is nothing to compare."""
    for source in sources:
        if not len(test[source]):
            raise DataError(
                f"The split has no test patient of {source}, so nothing can be compared.",
                "Prepare more patients, or train again with another split.seed.",
            )
        if min(len(test[source]), len(real)) < 2:
            raise DataError(
                f"{len(test[source])} translated and {len(real)} real test images are too few for "
                f"{', '.join(metrics)}; at least 2 of each are needed."
            )


def _translated(translator: Translator, slices: Slices, batch_size: int) -> Iterator[Tensor]:
    """Yield this process's share of a source's translated test slices.

    Batch by batch, for all would not fit in memory.
    """
    for batch in share(slices, batch_size):
        yield run_network(translator.network, [batch.images], compute=translator.compute)
