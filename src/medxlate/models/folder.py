"""The model folder: what one hands on. Safetensors and JSON, no pickle, nobody's identity."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor, nn

from medxlate.errors import ModelError, nearest
from medxlate.files import whole_folder, write_json
from medxlate.images.limits import MAX_SQUARE, MIN_SIDE
from medxlate.images.recipes import Recipe
from medxlate.models.calibration import Calibration
from medxlate.models.device import Precision
from medxlate.models.generator import Generator
from medxlate.models.head import Head
from medxlate.models.predictor import PredictorNetwork
from medxlate.models.tensors import load_tensors, save_tensors
from medxlate.records import inside, is_plain, read_record

SCHEMA_VERSION = 1
MARKER = "model.json"

Network = TypeVar("Network", bound=nn.Module)


class Weights(BaseModel):
    """A file of weights.

    Attributes:
        file: Its name in the model folder.
        sha256: Of its bytes.
        step: The training step it was taken at; 0 where that is not known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    sha256: str
    step: int


class TranslatorInfo(BaseModel):
    """The generator from one source modality to the target.

    Attributes:
        recipe: The source's intensity recipe.
        width: Channels of its first layer.
        blocks: How many residual blocks it has.
        weights: Its file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: Recipe
    width: int = Field(ge=1, le=1024)
    blocks: int = Field(ge=0, le=64)
    weights: Weights


class PredictorInfo(BaseModel):
    """The predictor on the target modality.

    Attributes:
        architecture: Its name in timm.
        head: What its outputs mean.
        weights: Its file.
        calibration: Of its predictions; None in models from before there was one.
        calibration_tta: Of its predictions with ``--tta``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str
    head: Head
    weights: Weights
    calibration: Calibration | None = None
    calibration_tta: Calibration | None = None


class TrainedOn(BaseModel):
    """How much a model was trained on, and how; counts, and nothing of a patient.

    Attributes:
        train: Patients and slices of the training part, by modality.
        val: Of the part by which the best predictor was chosen, and by which it was calibrated.
        divided: Whether patients or images were divided into the parts.
        notes: Sentences on the training.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: dict[str, tuple[int, int]]
    val: dict[str, tuple[int, int]]
    divided: Literal["patient", "image"]
    notes: tuple[str, ...] = ()


class ModelInfo(BaseModel):
    """The content of model.json.

    Attributes:
        schema_version: Of this file.
        medxlate: The version that wrote it.
        method: By which it was trained; ``imported`` where that was elsewhere.
        prepared_size: Side of the squares that images are first brought to, pixels.
        image_size: Side of the squares that the networks see, pixels.
        target: Name of the target modality.
        target_recipe: Its intensity recipe.
        translators: By source modality; empty for methods that do not translate.
        predictor: The predictor; None for a model that only translates, such as an imported one.
        precision: In which it was trained and validated.
        trained_on: How much data that was; None for models from before this was kept, and for
            imported ones.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    medxlate: str
    method: str
    prepared_size: int = Field(ge=MIN_SIDE, le=MAX_SQUARE)
    image_size: int = Field(ge=MIN_SIDE, le=MAX_SQUARE)
    target: str
    target_recipe: Recipe
    translators: dict[str, TranslatorInfo]
    predictor: PredictorInfo | None
    precision: Precision = "fp32"
    trained_on: TrainedOn | None = None

    @field_validator("target", "translators")
    @classmethod
    def _names(cls, value: str | dict[str, TranslatorInfo]) -> str | dict[str, TranslatorInfo]:
        if not all(map(is_plain, [value] if isinstance(value, str) else value)):
            raise ValueError("a modality's name is a path")
        return value


def write_weights(folder: Path, name: str, state: Mapping[str, Tensor], *, step: int) -> Weights:
    """Write a state dict as ``name`` and return what model.json says of it."""
    return Weights(file=name, sha256=save_tensors(folder / name, state), step=step)


def write_model(folder: Path, info: ModelInfo, *, weights_from: Path, card: str) -> None:
    """Put model.json, the model card and the weights that it names into a new model folder.

    Args:
        folder: The model folder; an older one is replaced.
        info: The content of model.json.
        weights_from: The folder in which the weights now lie; they are moved.
        card: The model card, Markdown.
    """
    with whole_folder(folder, marker=MARKER, overwrite=True) as partial:
        for weights in all_weights(info):
            (weights_from / weights.file).rename(partial / weights.file)
        write_description(partial, info, card)


def write_description(folder: Path, info: ModelInfo, card: str) -> None:
    """Write model.json and the model card beside weights that are there."""
    (folder / "README.md").write_text(card, encoding="utf-8")
    write_json(folder / MARKER, info.model_dump(mode="json"))


def read_model(folder: Path) -> ModelInfo:
    """Read model.json.

    Raises:
        ModelError: It is missing, damaged or of another version.
    """
    return read_record(
        folder / MARKER,
        ModelInfo,
        version=SCHEMA_VERSION,
        error=ModelError,
        hint="Name a model folder or a run with --model.",
        again="Train again",
    )


def load_generator(folder: Path, info: ModelInfo, source: str | None) -> tuple[str, Generator]:
    """Return the source's name and its generator, in eval mode.

    Args:
        folder: The model folder.
        info: Its model.json.
        source: The source modality; None where the model has only one.

    Raises:
        ModelError: There is no such translator, or its weights are damaged.
    """
    known = sorted(info.translators)
    if not known:
        raise ModelError(
            f"{folder} cannot translate: it was trained with the method {info.method}.",
            "Train one with `medxlate train --method joint`.",
        )
    if source is None and len(known) > 1:
        raise ModelError(
            f"{folder} translates from {', '.join(known)}.", "Choose one with --source."
        )
    name = source or known[0]
    if name not in info.translators:
        raise ModelError(f"{folder} has no translator from '{name}'.", nearest(name, known))
    translator = info.translators[name]
    network = load_network(
        lambda: Generator(width=translator.width, blocks=translator.blocks),
        folder,
        translator.weights,
    )
    return name, network


def predictor_of(folder: Path, info: ModelInfo) -> PredictorInfo:
    """Return what model.json says of the predictor; raises ModelError where there is none."""
    if info.predictor is None:
        raise ModelError(
            f"{folder} only translates: it has no predictor.",
            "Train one with `medxlate train`.",
        )
    return info.predictor


def load_predictor(folder: Path, info: ModelInfo) -> PredictorNetwork:
    """Return the predictor, in eval mode.

    Raises:
        ModelError: The model has none, or its weights are damaged.
    """
    found = predictor_of(folder, info)
    return load_network(
        lambda: PredictorNetwork(architecture=found.architecture, outputs=found.head.outputs),
        folder,
        found.weights,
    )


def load_network(make: Callable[[], Network], folder: Path, weights: Weights) -> Network:
    """Return a network with checked weights, in eval mode.

    No initial weights are drawn; each tensor is copied once, from where the file is mapped to
    memory of its own. Without that copy, the network would depend on the file as long as it lives
    (a file that is cut off then ends the process), and, for want of alignment, on its layout in the
    last digit.

    Args:
        make: Builds the network.
        folder: The model folder.
        weights: Which of its files.

    Raises:
        ModelError: The file is missing, changed, damaged or does not fit.
    """
    path = inside(folder, weights.file, error=ModelError)
    tensors = load_tensors(path, expected=weights.sha256, hint="Copy the whole model folder again.")
    hollow = _on_meta(make)
    if hollow is not None:
        _check_claims(hollow, path)
        hollow = hollow if _is_saved_whole(hollow) else None
    network = make() if hollow is None else hollow
    kinds = {name: own.dtype for name, own in network.state_dict().items()}
    tensors = {k: each.to(kinds.get(k, each.dtype), copy=True) for k, each in tensors.items()}
    try:
        network.load_state_dict(tensors, assign=hollow is not None)
    except RuntimeError as problem:
        first = str(problem).splitlines()[0]
        raise ModelError(f"{path} does not fit the network in model.json: {first}") from None
    network.eval()
    return network


def _on_meta(make: Callable[[], Network]) -> Network | None:
    """Return a network whose weights take no memory and no time; None where that cannot be."""
    try:
        with torch.device("meta"):
            return make()
    except (ModelError, RuntimeError):  # PredictorNetwork tells timm's RuntimeErrors as the first
        return None


def _is_saved_whole(network: nn.Module) -> bool:
    """Return whether its file holds all it needs; some of timm's compute tensors when built."""
    saved = network.state_dict().keys()
    return all(name in saved for name, _ in network.named_buffers())


def _check_claims(network: nn.Module, path: Path) -> None:
    """Raise ModelError where model.json claims a larger network than its weights' file holds."""
    needed = sum(tensor.nbytes for tensor in network.state_dict().values())
    if needed > path.stat().st_size:
        raise ModelError(f"{path} does not fit the network in {MARKER}: the file is smaller.")


def all_weights(info: ModelInfo) -> list[Weights]:
    """Return the files of weights: the predictor's first, then those of the translators."""
    predictor = [] if info.predictor is None else [info.predictor.weights]
    return [*predictor, *(t.weights for t in info.translators.values())]


def weights_hashes(info: ModelInfo) -> dict[str, str]:
    """Return the SHA-256 of each file of weights, by its name: what tells two models apart."""
    return {each.file: each.sha256 for each in all_weights(info)}
