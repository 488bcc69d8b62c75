"""From a finished run to the model folder that one hands on."""

from __future__ import annotations

import tempfile
from pathlib import Path

import medxlate
from medxlate.config import Config
from medxlate.dataset.index import DatasetInfo
from medxlate.models.device import Precision
from medxlate.models.folder import (
    ModelInfo,
    PredictorInfo,
    TranslatorInfo,
    write_model,
    write_weights,
)
from medxlate.models.head import Head
from medxlate.models.runs import RunFolder
from medxlate.records import in_markdown
from medxlate.training.checkpoints import last_position, load_part
from medxlate.training.methods import find_method, generator_blocks
from medxlate.training.snapshot import Position
from medxlate.training.stages import Stages, checkpoint_of

CARD = """# {what}

Made by medxlate {version} with the method `{method}`.

- Predictor: {architecture} on {target} images of {size} x {size} px, label {label}. Taken at step
  {best} of {steps}, where the validation error was lowest ({error:.4g}).
- Translators: {translators}
- Epochs: {epochs}; seed: {seed}.

Use it with `medxlate predict IMAGES --model THIS_FOLDER`{translate}.

Translated images are synthetic. Neither they nor the predictions are for diagnosis. The folder
holds no image, no id, no date and no path of the data that it was trained on.
"""


def export_model(
    run: RunFolder,
    *,
    config: Config,
    dataset: DatasetInfo,
    head: Head,
    image_size: int,
    position: Position,
    stages: Stages,
    precision: Precision,
) -> ModelInfo:
    """Write ``model/``: the predictor of the best checkpoint, the generators of the last one.

    The predictor is the one with the lowest validation error; generators have no such measure
    and are best where their learning rate has come down to zero. A source whose translator was
    trained first has its generator from there. ``precision`` is that of the validation.
    """
    with tempfile.TemporaryDirectory(dir=run.path, prefix=".export.", suffix=".partial") as name:
        scratch = Path(name)
        predictor = write_weights(
            scratch,
            "predictor.safetensors",
            load_part(checkpoint_of(run, "best"), "predictor."),
            step=position.best_step,
        )
        translators = {}
        for source in config.data.sources if find_method(config.method).translates else ():
            trained = stages.get(source, run)
            weights = write_weights(
                scratch,
                f"translator-{source}.safetensors",
                load_part(checkpoint_of(trained, "last"), f"{source}.g."),
                step=last_position(trained.checkpoints).step,
            )
            translators[source] = TranslatorInfo(
                recipe=dataset.modalities[source].recipe,
                width=config.model.generator_width,
                blocks=generator_blocks(config, image_size),
                weights=weights,
            )
        info = ModelInfo(
            medxlate=medxlate.__version__,
            method=config.method,
            prepared_size=dataset.image_size,
            image_size=image_size,
            target=config.data.target,
            target_recipe=dataset.modalities[config.data.target].recipe,
            translators=translators,
            predictor=PredictorInfo(
                architecture=config.model.predictor, head=head, weights=predictor
            ),
            precision=precision,
        )
        write_model(run.model, info, weights_from=scratch, card=_card(info, head, config, position))
    return info


def _card(info: ModelInfo, head: Head, config: Config, position: Position) -> str:
    task = head.task
    task = task.model_copy(update={"name": in_markdown(task.name), "unit": in_markdown(task.unit)})
    sources = ", ".join(info.translators)
    what = f"{task.name} from {info.target}"
    return CARD.format(
        what=f"{what}, with {sources} translated to {info.target}" if sources else what,
        version=info.medxlate,
        method=info.method,
        architecture=config.model.predictor,
        target=info.target,
        size=info.image_size,
        label=f"{task.name} in {task.unit}" if task.unit else task.name,
        best=position.best_step,
        steps=position.step,
        error=position.best_error,
        translators=f"{sources} to {info.target}, taken at the last step." if sources else "none.",
        epochs=config.optimizer.epochs,
        seed=config.runtime.seed,
        translate=" and `medxlate translate IMAGES --model THIS_FOLDER`" if sources else "",
    )
