"""What model.json says of a model: records, and reading them. Builds no network."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from medxlate.artifacts.calibration import Calibration
from medxlate.artifacts.greys import Greys
from medxlate.base.device import Precision
from medxlate.base.errors import ModelError
from medxlate.base.events import Listener, silent
from medxlate.base.plugins import Kind, PluginRecord, Settings, check_installed
from medxlate.base.records import is_plain, read_record
from medxlate.config import PredictorNorm, Skip, Upsample
from medxlate.images.limits import MAX_SQUARE, MIN_SIDE
from medxlate.images.recipes import Recipe
from medxlate.method.label_transform import LabelTransform

SCHEMA_VERSION = 1
MARKER = "model.json"


class Weights(BaseModel):
    """A file of weights.

    Attributes:
        file: Its name in the model folder.
        sha256: SHA-256 of the file.
        step: The training step of these weights; 0 if unknown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    sha256: str
    step: int


class TranslatorInfo(BaseModel):
    """The generator from one source modality to the target.

    Attributes:
        recipe: The source's intensity recipe.
        architecture: `resnet`, or the name of a plug-in's generator.
        settings: Settings of the plug-in.
        width: Channels of its first layer.
        blocks: How many residual blocks it has.
        upsample: How it doubles height and width; see ``Generator``.
        skip: What bypasses its layers; see ``Generator``.
        weights: Its file of weights.
        greys: Grey values of the source's training images; None in imported models, in those of
            older versions, and if there were few images.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: Recipe
    architecture: str = "resnet"
    settings: Settings = {}
    width: int = Field(ge=1, le=1024)
    blocks: int = Field(ge=0, le=64)
    upsample: Upsample = "transposed"
    skip: Skip = "none"
    weights: Weights
    greys: Greys | None = None


class PredictorInfo(BaseModel):
    """The predictor on the target modality.

    Attributes:
        architecture: Its name in timm, or that of a plug-in's predictor.
        settings: Settings of the plug-in.
        norm: Whether it has group norm in the place of batch norm.
        head: What its outputs mean.
        weights: Its file of weights.
        calibration: Calibration of its predictions; None in models of older versions.
        calibration_tta: Calibration of its predictions with ``--tta``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str
    settings: Settings = {}
    norm: PredictorNorm = "batch"
    head: LabelTransform
    weights: Weights
    calibration: Calibration | None = None
    calibration_tta: Calibration | None = None


class TrainedOn(BaseModel):
    """How much data a model was trained on, and how it was split: counts, nothing of a patient.

    Attributes:
        train: Patients and slices of the training part, by modality.
        val: The same of the validation part, which chose the best predictor and calibrated it.
        divided: Whether patients or images were split.
        notes: Notes on the training, as sentences.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: dict[str, tuple[int, int]]
    val: dict[str, tuple[int, int]]
    divided: Literal["patient", "image"]
    notes: tuple[str, ...] = ()


class ModelInfo(BaseModel):
    """The content of model.json.

    Attributes:
        schema_version: Version of this file's format.
        medxlate: The version that wrote it.
        method: Method of the training; ``imported`` if it was trained elsewhere.
        prepared_size: Side of the squares that images are first brought to, pixels.
        image_size: Side of the squares that the networks see, pixels.
        target: Name of the target modality.
        target_recipe: Its intensity recipe.
        target_greys: Grey values of its training images; None as in ``TranslatorInfo``.
        translators: By source modality; empty for methods that do not translate.
        predictor: The predictor; None for a model that only translates, such as an imported one.
        precision: The precision of training and validation.
        trained_on: How much data it was trained on; None for imported models and
            those of older versions.
        plugins: The plug-ins that trained it and that read its images.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    medxlate: str
    method: str
    prepared_size: int = Field(ge=MIN_SIDE, le=MAX_SQUARE)
    image_size: int = Field(ge=MIN_SIDE, le=MAX_SQUARE)
    target: str
    target_recipe: Recipe
    target_greys: Greys | None = None
    translators: dict[str, TranslatorInfo]
    predictor: PredictorInfo | None
    precision: Precision = "fp32"
    trained_on: TrainedOn | None = None
    plugins: tuple[PluginRecord, ...] = ()

    @field_validator("target", "translators")
    @classmethod
    def _names(cls, value: str | dict[str, TranslatorInfo]) -> str | dict[str, TranslatorInfo]:
        if not all(map(is_plain, [value] if isinstance(value, str) else value)):
            raise ValueError("the name of a modality must not be a path")
        return value


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
        hint="Give a model folder or a run with --model.",
        again="Train again",
    )


def predictor_of(folder: Path, info: ModelInfo) -> PredictorInfo:
    """Return what model.json says of the predictor; raises ModelError where there is none."""
    if info.predictor is None:
        raise ModelError(
            f"{folder} has no predictor: it only translates.",
            "Train one with `medxlate train`.",
        )
    return info.predictor


def check_plugins(
    folder: Path, info: ModelInfo, kinds: Collection[Kind], listener: Listener = silent
) -> None:
    """Compare the plug-ins that a model needs with those that are installed.

    Args:
        folder: The model folder.
        info: The content of its model.json.
        kinds: What is needed of it.
        listener: Receives a warning where a plug-in has another version or other files.

    Raises:
        ModelError: One is missing.
    """
    needed = [each for each in info.plugins if each.kind in kinds]
    check_installed(needed, f"The model {folder}", listener)


def all_weights(info: ModelInfo) -> list[Weights]:
    """Return the files of weights: the predictor's first, then those of the translators."""
    predictor = [] if info.predictor is None else [info.predictor.weights]
    return [*predictor, *(t.weights for t in info.translators.values())]


def weights_hashes(info: ModelInfo) -> dict[str, str]:
    """Return the SHA-256 of each file of weights, by its name: what tells two models apart."""
    return {each.file: each.sha256 for each in all_weights(info)}
