"""What is evaluated, opened once: a run's networks, their translations and the test patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from medxlate.artifacts.folder import generator_of
from medxlate.artifacts.info import ModelInfo, check_plugins, read_model
from medxlate.artifacts.runs import RunFolder
from medxlate.base.device import Compute
from medxlate.base.errors import ModelError
from medxlate.base.events import Listener
from medxlate.dataset.index import DatasetInfo
from medxlate.dataset.loading import Slices
from medxlate.evaluation.cohort import Cohort, open_cohort
from medxlate.evaluation.judge import Judge
from medxlate.inference.engine import run as run_network
from medxlate.inference.engine import validated_compute
from medxlate.inference.finite import check_finite
from medxlate.inference.predict import Predictor
from medxlate.inference.translate import Translator
from medxlate.method.placing import place
from medxlate.training.checkpoints import load_translation, pointed

# Images at once. A processor is no faster with more, and what a generator computes for 16 images
# of 256 x 256 takes more than 1 GiB.
BATCHES = {"cpu": 4, "gpu": 32}
MOST_KEPT = 64 << 20  # bytes of translated images: 256 of 256 x 256


class TranslatedImages:
    """The translated test images of a source, which figures, audits and examples share.

    Images are translated when they are asked for, each once where all fit in memory: the network
    is nearly all of the time of an evaluation, which asks for the same images several times. Those
    beyond ``most`` are computed again each time.

    Args:
        translator: G.
        slices: The source's test images.
        most: Bytes of translated images that are kept.
    """

    def __init__(self, translator: Translator, slices: Slices, *, most: int) -> None:
        self._translator = translator
        self._slices = slices
        self._left = most
        self._kept: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self._slices)

    def images(self, rows: Sequence[int]) -> Tensor:
        """Return translated images, float32 [B, 1, S, S] in [-1, 1], by positions in the slices.

        Raises:
            ModelError: The network's output is not finite.
        """
        missing = [row for row in rows if row not in self._kept]
        made: dict[int, Tensor] = {}
        if missing:
            batch = self._slices.batch(missing).images
            outputs = run_network(
                self._translator.network, [batch], compute=self._translator.compute
            )
            made = dict(zip(missing, outputs, strict=True))
            check_finite(outputs.numpy(), "translator", f"translated {self._slices.name} images")
            self._left -= outputs.nbytes
            if self._left >= 0:
                self._kept |= made
        return torch.stack([made[row] if row in made else self._kept[row] for row in rows])


@dataclass(frozen=True)
class Subject:
    """The networks that are judged, and the images that they are judged by.

    Attributes:
        info: The content of model.json.
        cohort: The run's dataset and parts.
        compute: Device and precision of all networks.
        predictor: The run's; None where a model without one is judged.
        translators: G of each source.
        translated: G's test images of each source.
        backward: F of each source, where the run still has a checkpoint with it.
        batch_size: Images that are computed at once.
        judge: The predictor of real target images alone that judges translated ones, from
            ``find_judge``; None where it is not needed.
    """

    info: ModelInfo
    cohort: Cohort
    compute: Compute
    predictor: Predictor | None
    translators: Mapping[str, Translator]
    translated: Mapping[str, TranslatedImages]
    backward: Mapping[str, nn.Module]
    batch_size: int
    judge: Judge | None = None


def load_backward(run: RunFolder, info: ModelInfo, compute: Compute) -> dict[str, nn.Module]:
    """Return F, target to source, of the run's last checkpoint by source; {} where none is left.

    Args:
        run: The run.
        info: The description of its model.
        compute: The networks' device.
    """
    found: dict[str, nn.Module] = {}
    for source, translator in info.translators.items():
        folders = (run.checkpoints, run.path / "first" / source / "checkpoints")
        for folder in folders:
            last = pointed(folder, "last")
            weights = load_translation(last, source, "f") if last is not None else {}
            if weights:
                network = generator_of(translator)
                network.load_state_dict(weights)
                found[source] = place(network, compute).eval()
                break
    return found


def open_subject(
    run: RunFolder,
    own: Path,
    other: Path | None,
    data: Path | str | None,
    device: str,
    precision: str,
    listener: Listener,
) -> Subject:
    """Open the networks that are judged, and the run's cohort.

    Args:
        run: The run.
        own: Its model folder.
        other: A model folder to judge in its place; None: the run's own.
        data: See ``open_cohort``.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto, fp32 or bf16.
        listener: Receives a note on the chosen precision.

    Raises:
        ModelError: The model is missing or damaged, or ``other`` cannot be compared with the run.
        DataError: See ``open_cohort``.
    """
    folder = own if other is None else other
    info = read_model(folder)
    check_plugins(folder, info, ("generators", "predictors"), listener)
    cohort = open_cohort(run, data)
    if other is not None:
        _check_like(other, info, read_model(own), cohort.config.data.sources)
        _check_recipes(other, info, cohort.dataset.info)
    compute = validated_compute(info, device, precision, listener=listener)
    translators = {
        source: Translator(folder, source=source, compute=compute) for source in info.translators
    }
    most = MOST_KEPT // max(len(translators), 1)
    return Subject(
        info=info,
        cohort=cohort,
        compute=compute,
        predictor=Predictor(run.path, compute=compute) if other is None else None,
        translators=translators,
        translated={
            source: TranslatedImages(each, cohort.test[source], most=most)
            for source, each in translators.items()
        },
        backward=load_backward(run, info, compute) if other is None else {},
        batch_size=BATCHES["cpu" if compute.device.type == "cpu" else "gpu"],
    )


def _check_like(folder: Path, model: ModelInfo, own: ModelInfo, sources: Sequence[str]) -> None:
    """Refuse a model that cannot translate, or was made for other images than the run's."""
    if not model.translators:
        raise ModelError(
            f"{folder} has no translator, so there is nothing to measure with --model."
        )
    if (model.target, model.image_size) != (own.target, own.image_size):
        raise ModelError(
            f"{folder} makes {model.target} images of {model.image_size} px, but the run has "
            f"{own.target} images of {own.image_size} px."
        )
    for source in model.translators:
        if source not in sources:
            raise ModelError(
                f"{folder} translates from {source}, but the run has no {source} images.",
                f"It has {', '.join(sources)}." if sources else "",
            )


def _check_recipes(folder: Path, model: ModelInfo, info: DatasetInfo) -> None:
    """Refuse a model that reads pixel values otherwise than the dataset was prepared."""
    recipes = {name: translator.recipe for name, translator in model.translators.items()}
    for name, recipe in {**recipes, model.target: model.target_recipe}.items():
        if recipe != info.modalities[name].recipe:
            raise ModelError(
                f"{folder} and the dataset have different recipes for {name}.",
                "Import it again with --data.",
            )
