"""The model folder: what one shares. Safetensors and JSON, no pickle, nobody's identity."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from medxlate.artifacts.info import (
    MARKER,
    ModelInfo,
    PredictorInfo,
    TranslatorInfo,
    Weights,
    all_weights,
    predictor_of,
)
from medxlate.base.errors import ConfigError, ModelError, nearest
from medxlate.base.files import sha256, whole_folder, write_json
from medxlate.base.plugins import PluginError
from medxlate.base.records import safe_join
from medxlate.base.tensors import load_tensors, save_tensors
from medxlate.method.generator import GeneratorShape, build_generator
from medxlate.method.predictor import PredictorNetwork, import_timm

Network = TypeVar("Network", bound=nn.Module)


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


def copy_weights(folder: Path, weights: Iterable[Weights], to: Path, names: Iterable[str]) -> None:
    """Copy files of weights under other names, checking each.

    Args:
        folder: The model folder.
        weights: Which of its files.
        to: An existing folder.
        names: The name that each gets there.

    Raises:
        ModelError: A file is missing or damaged.
    """
    for each, name in zip(weights, names, strict=True):
        path = safe_join(folder, each.file, error=ModelError)
        if not path.is_file() or sha256(path) != each.sha256:
            raise ModelError(f"{path} is missing or damaged.", "Copy the whole model again.")
        shutil.copyfile(path, to / name)


def load_generator(folder: Path, info: ModelInfo, source: str | None) -> tuple[str, nn.Module]:
    """Return the source's name and its generator, in eval mode.

    Args:
        folder: The model folder.
        info: Its model.json.
        source: The source modality; None where the model has only one.

    Raises:
        ModelError: There is no such translator, or its weights are damaged.
    """
    name = chosen_source(folder, info, source)
    translator = info.translators[name]
    network = load_network(
        lambda: generator_of(translator),
        folder,
        translator.weights,
    )
    return name, network


def chosen_source(folder: Path, info: ModelInfo, source: str | None) -> str:
    """Return the source modality of the translator that is asked for.

    Args:
        folder: The model folder.
        info: Its model.json.
        source: The source modality; None where the model has only one.

    Raises:
        ModelError: There is no such translator.
    """
    known = sorted(info.translators)
    if not known:
        raise ModelError(
            f"{folder} has no translator: it was trained with the method {info.method}.",
            "Train one with `medxlate train --method joint`.",
        )
    if source is None and len(known) > 1:
        raise ModelError(
            f"{folder} has several translators: {', '.join(known)}.", "Choose one with --source."
        )
    name = source or known[0]
    if name not in info.translators:
        raise ModelError(f"{folder} has no translator from '{name}'.", nearest(name, known))
    return name


def generator_of(info: TranslatorInfo) -> nn.Module:
    """Return a generator of the shape that model.json says, with weights of its own.

    Raises:
        ModelError: This medxlate does not have its architecture.
    """
    try:
        shape = GeneratorShape(info.width, info.blocks, info.upsample, info.skip)
        return build_generator(info.architecture, shape, info.settings)
    except ConfigError as problem:
        raise ModelError(
            problem.message, "Install the package or version that the model was trained with."
        ) from None


def load_predictor(folder: Path, info: ModelInfo) -> PredictorNetwork:
    """Return the predictor, in eval mode.

    Raises:
        ModelError: The model has none, or its weights are damaged.
    """
    found = predictor_of(folder, info)
    import_timm()
    return load_network(lambda: build_predictor(found), folder, found.weights)


def build_predictor(info: PredictorInfo) -> PredictorNetwork:
    """Return a predictor of the shape that model.json says, with weights of its own."""
    return PredictorNetwork(
        architecture=info.architecture,
        outputs=info.head.outputs,
        norm=info.norm,
        settings=info.settings,
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
    path = safe_join(folder, weights.file, error=ModelError)
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
        raise ModelError(f"{path} does not match the network in model.json: {first}") from None
    network.eval()
    return network


def _on_meta(make: Callable[[], Network]) -> Network | None:
    """Return a network whose weights take no memory and no time; None where that cannot be."""
    try:
        with torch.device("meta"):
            return make()
    except PluginError:  # whose code may need values; an error of another kind comes again
        return None
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
        raise ModelError(f"{path} does not match the network in {MARKER}: the file is too small.")
