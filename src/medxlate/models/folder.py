"""The model folder: what one hands on. Safetensors and JSON, no pickle, nobody's identity."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor, nn

from medxlate.errors import ModelError, nearest
from medxlate.files import inside, is_plain, read_record, whole_folder, write_json
from medxlate.images.limits import MAX_SQUARE, MIN_SIDE
from medxlate.images.recipes import Recipe
from medxlate.models.device import Precision
from medxlate.models.generator import Generator
from medxlate.models.head import Head
from medxlate.models.predictor import PredictorNetwork
from medxlate.models.tensors import load_tensors, save_tensors

SCHEMA_VERSION = 1
MARKER = "model.json"


class Weights(BaseModel):
    """A file of weights: its name, SHA-256, and the training step it was taken at."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    sha256: str
    step: int


class TranslatorInfo(BaseModel):
    """The generator from one source modality to the target."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: Recipe
    width: int = Field(ge=1, le=1024)
    blocks: int = Field(ge=0, le=64)
    weights: Weights


class PredictorInfo(BaseModel):
    """The predictor on the target modality."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str
    head: Head
    weights: Weights


class ModelInfo(BaseModel):
    """The content of model.json.

    Attributes:
        prepared_size: Side of the squares that images are first brought to, pixels.
        image_size: Side of the squares that the networks see, pixels.
        target: Name of the target modality.
        target_recipe: Its intensity recipe.
        translators: By source modality; empty for methods that do not translate.
        predictor: The predictor.
        precision: In which it was trained and validated.
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
    predictor: PredictorInfo
    precision: Precision = "fp32"

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
        for weights in _all_weights(info):
            (weights_from / weights.file).rename(partial / weights.file)
        (partial / "README.md").write_text(card, encoding="utf-8")
        write_json(partial / MARKER, info.model_dump(mode="json"))


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

    def build() -> Generator:
        return Generator(width=translator.width, blocks=translator.blocks)

    _check_claims(build, folder, translator.weights)
    network = build()
    load_weights(network, folder, translator.weights)
    return name, network.eval()


def load_predictor(folder: Path, info: ModelInfo) -> PredictorNetwork:
    """Return the predictor, in eval mode; raises ModelError where its weights are damaged."""

    def build() -> PredictorNetwork:
        return PredictorNetwork(
            architecture=info.predictor.architecture, outputs=info.predictor.head.outputs
        )

    _check_claims(build, folder, info.predictor.weights)
    network = build()
    load_weights(network, folder, info.predictor.weights)
    network.eval()
    return network


def load_weights(network: nn.Module, folder: Path, weights: Weights) -> None:
    """Load checked weights into a network.

    Raises:
        ModelError: The file is missing, changed, damaged or does not fit.
    """
    path = inside(folder, weights.file, error=ModelError)
    tensors = load_tensors(path, expected=weights.sha256, hint="Copy the whole model folder again.")
    try:
        network.load_state_dict(tensors)
    except RuntimeError as problem:
        first = str(problem).splitlines()[0]
        raise ModelError(f"{path} does not fit the network in model.json: {first}") from None


def _check_claims(build: Callable[[], nn.Module], folder: Path, weights: Weights) -> None:
    """Refuse a network that is larger than its weights' file, before memory is taken for it.

    Raises:
        ModelError: It is, or the file is missing or lies elsewhere.
    """
    path = inside(folder, weights.file, error=ModelError)
    with torch.device("meta"):  # shapes without memory
        state = build().state_dict()
    needed = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    if path.is_file() and needed > path.stat().st_size:
        raise ModelError(f"{path} is smaller than the network that {MARKER} describes.")


def _all_weights(info: ModelInfo) -> list[Weights]:
    return [info.predictor.weights, *(t.weights for t in info.translators.values())]
