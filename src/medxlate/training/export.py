"""From a finished run to the model folder that one shares."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from medxlate._version import __version__
from medxlate.artifacts.calibration import Calibration, calibrate, no_calibration
from medxlate.artifacts.card import model_card
from medxlate.artifacts.folder import build_predictor, load_network, write_model, write_weights
from medxlate.artifacts.greys import MOST_IMAGES, Greys
from medxlate.artifacts.info import ModelInfo, PredictorInfo, TrainedOn, TranslatorInfo
from medxlate.artifacts.runs import RunFolder
from medxlate.base.device import Compute
from medxlate.base.plugins import PluginRecord
from medxlate.config import Config
from medxlate.dataset.index import DatasetInfo
from medxlate.dataset.loading import Slices
from medxlate.inference.engine import run as run_network
from medxlate.inference.shifts import shifted
from medxlate.method.placing import place
from medxlate.method.registry import find_method, generator_blocks, used_plugins
from medxlate.training.checkpoints import last_position, load_part, load_translation
from medxlate.training.setup import TrainingSetup
from medxlate.training.stages import Stages, checkpoint_of
from medxlate.training.state import TrainingProgress

BATCH = 16


def export_model(
    run: RunFolder, setup: TrainingSetup, *, stages: Stages, position: TrainingProgress
) -> ModelInfo:
    """Write ``model/``: the predictor of the best checkpoint, the generators of the last one.

    The predictor is the one with the lowest validation error, or the last (``optimizer.keep``);
    generators have no such measure and are best where their learning rate has come down to
    zero. A source whose translator was trained first has its generator from there. The predictor
    is calibrated on the validation patients of the target.

    Args:
        run: The run.
        setup: Its training, its data as they were divided: no translation stands in the place of a
            source.
        stages: What was trained first.
        position: Where the training stands.
    """
    config, dataset, data = setup.config, setup.inputs.dataset.info, setup.data
    head, compute, image_size = setup.head, setup.compute, setup.image_size
    with tempfile.TemporaryDirectory(dir=run.path, prefix=".export.", suffix=".partial") as name:
        scratch = Path(name)
        predictor = PredictorInfo(
            architecture=config.model.predictor,
            settings=config.plugins.get(config.model.predictor, {}),
            norm=config.model.predictor_norm,
            head=head,
            weights=write_weights(
                scratch,
                "predictor.safetensors",
                load_part(checkpoint_of(run, "best"), "predictor."),
                step=position.best_step,
            ),
        )
        translators = {}
        for source in config.data.sources if find_method(config.method).translates else ():
            trained = stages.get(source, run)
            weights = write_weights(
                scratch,
                f"translator-{source}.safetensors",
                load_translation(checkpoint_of(trained, "last"), source, "g"),
                step=last_position(trained.checkpoints).step,
            )
            translators[source] = TranslatorInfo(
                recipe=dataset.modalities[source].recipe,
                architecture=config.model.generator,
                settings=config.plugins.get(config.model.generator, {}),
                width=config.model.generator_width,
                blocks=generator_blocks(config, image_size),
                upsample=config.model.upsample,
                skip=config.model.skip,
                weights=weights,
                greys=_greys(data.train[source]),
            )
        info = ModelInfo(
            medxlate=__version__,
            method=config.method,
            prepared_size=dataset.image_size,
            image_size=image_size,
            target=config.data.target,
            target_recipe=dataset.modalities[config.data.target].recipe,
            target_greys=_greys(data.train[config.data.target]),
            translators=translators,
            predictor=_calibrated(
                predictor, scratch, data.val[config.data.target], config, compute
            ),
            precision=compute.precision,
            trained_on=TrainedOn(
                train=_counts(data.train),
                val=_counts(data.val),
                divided=config.split.policy,
                notes=_notes(config, position),
            ),
            plugins=_plugins(config, dataset),
        )
        write_model(run.model, info, weights_from=scratch, card=model_card(info))
    return info


def _plugins(config: Config, dataset: DatasetInfo) -> tuple[PluginRecord, ...]:
    """Return the plug-ins of the training, and those of the recipes by which its images are read.

    The latter as the dataset has them: the version by which its images were prepared.
    """
    shown = (*config.data.sources, config.data.target)
    recipes = [dataset.modalities[name].recipe for name in shown]
    of_recipes = [each.plugin for each in recipes if each.plugin is not None]
    return tuple(dict.fromkeys([*used_plugins(config), *of_recipes]))


def _calibrated(
    info: PredictorInfo, folder: Path, val: Slices, config: Config, compute: Compute
) -> PredictorInfo:
    """Return the record of the predictor with what the target's validation patients say of it."""
    reason = ""
    if not len(val):
        reason = "the target had no validation patient"
    if config.split.policy == "image":
        reason = "the split is by image, so validation patients may also be in training"
    if reason:
        none = no_calibration(info.head, reason)
        return info.model_copy(update={"calibration": none, "calibration_tta": none})
    network = load_network(lambda: build_predictor(info), folder, info.weights)
    network = place(network, compute)

    def calibration(*, tta: bool) -> Calibration:
        images = (batch.images for batch in val.batches(BATCH))
        outputs = run_network(
            network, images, compute=compute, call=shifted(network) if tta else None
        )
        return calibrate(
            outputs, val.labels, patients=val.patients, volumes=val.volumes, head=info.head
        )

    with torch.no_grad():
        found = {"calibration": calibration(tta=False), "calibration_tta": calibration(tta=True)}
    return info.model_copy(update=found)


def _greys(train: Slices) -> Greys | None:
    """Return the grey values of training images, or of 2,000 of them, evenly spaced."""
    if len(train) > MOST_IMAGES:
        train = train.picked(np.linspace(0, len(train) - 1, MOST_IMAGES).astype(np.intp))
    return Greys.of((batch.images.numpy() for batch in train.batches(BATCH)), train.patients)


def _counts(part: Mapping[str, Slices]) -> dict[str, tuple[int, int]]:
    """Return patients and images by modality, of which each counts once, however often shown."""
    patients: dict[str, set[str]] = {}
    rows: dict[str, set[int]] = {}
    for slices in part.values():
        patients.setdefault(slices.name, set()).update(slices.patients)
        rows.setdefault(slices.name, set()).update(slices.rows.tolist())
    return {name: (len(patients[name]), len(rows[name])) for name in patients}


def _notes(config: Config, position: TrainingProgress) -> tuple[str, ...]:
    error = position.best_error
    found = "the last step, as nothing was validated" if error is None else f"error {error:.4g}"
    lines = [
        f"{config.optimizer.epochs} epochs, {position.step} steps, seed {config.runtime.seed}.",
        f"Predictor weights: the step with the lowest validation error ({found})."
        if config.optimizer.keep == "best"
        else f"Predictor weights: the last step ({found}).",
    ]
    if config.optimizer.ema_decay and find_method(config.method).translates:
        lines.append(
            "Generator weights: moving averages over the training (decay "
            f"{config.optimizer.ema_decay:g} per step)."
        )
    return tuple(lines)
