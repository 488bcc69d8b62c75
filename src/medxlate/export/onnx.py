"""``medxlate export onnx``: the networks as ONNX, compared with torch in onnxruntime."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from medxlate._version import __version__
from medxlate.artifacts.folder import load_generator, load_predictor
from medxlate.artifacts.info import ModelInfo, check_plugins, read_model
from medxlate.artifacts.runs import RunFolder, find_model, read_config
from medxlate.base.errors import MedxlateError, ModelError, UsageError
from medxlate.base.events import Listener, Stage, silent
from medxlate.base.files import sha256, whole_folder, write_json
from medxlate.dataset.index import Dataset
from medxlate.images.recipes import to_network

SCHEMA_VERSION = 1
MARKER = "onnx.json"
NEEDED = ("onnx", "onnxruntime", "onnxscript")
TOLERANCE = 1e-3
IMAGES = 8  # of each kind, for the parity check
BATCHES = (1, 3)  # sizes, for a batch may have any number of images
SEED = 0


@dataclass(frozen=True)
class Parity:
    """How far onnxruntime is from torch: max |difference| / max(1, max |torch's output|).

    Attributes:
        random: For random images.
        real: For images of the dataset; None where the dataset is gone.
    """

    random: float
    real: float | None


@dataclass(frozen=True)
class OnnxResult:
    """What was exported.

    Attributes:
        out: The folder.
        parity: That of each file, by name.
    """

    out: Path
    parity: dict[str, Parity]


def export_onnx(
    model: Path | str,
    *,
    out: Path | str,
    tolerance: float = TOLERANCE,
    overwrite: bool = False,
    listener: Listener = silent,
) -> OnnxResult:
    """Write the networks of a model as ONNX, each checked in onnxruntime.

    Each takes ``images`` [batch, 1, S, S] in [-1, 1], float32, any number of them, and returns
    ``outputs``: target images of the same shape, or the predictor's [batch, outputs].
    ``onnx.json`` explains how an image is prepared and what the outputs mean.

    Args:
        model: A model folder, a run folder, ``runs/latest``, or ``hf://OWNER/NAME@REVISION``.
            Where the run's dataset still exists, the networks are also compared on real images.
        out: The folder to write.
        tolerance: The largest ``Parity`` that is accepted.
        overwrite: Whether an older export in ``out`` is replaced.
        listener: Receives progress.

    Raises:
        UsageError: The packages of the extra ``onnx`` are missing.
        ModelError: The model cannot be used or exported, or has other outputs in onnxruntime.
        OutputError: ``out`` exists.
    """
    check_packages()
    folder, out = find_model(Path(model), listener=listener), Path(out)
    info = read_model(folder)
    check_plugins(folder, info, ("generators", "predictors"), listener)
    with whole_folder(out, marker=MARKER, overwrite=overwrite) as partial:
        files: list[dict[str, Any]] = []
        parity: dict[str, Parity] = {}
        for name, network, facts in _networks(folder, info):
            listener(Stage(f"Exporting {name}"))
            path = partial / name
            _write(network, path, info)
            modality = str(facts["input"]["modality"])
            found = _parity(network, path, info.image_size, _real(folder, info, modality))
            _check(name, found, tolerance)
            parity[name] = found
            of_runtime = {"random": found.random, "real": found.real, "tolerance": tolerance}
            files.append({"file": name, "sha256": sha256(path), **facts, "parity": of_runtime})
        write_json(partial / MARKER, _sidecar(info, files))
    return OnnxResult(out, parity)


def check_packages() -> None:
    """Raise UsageError where a package of the extra ``onnx`` is missing."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"ONNX export needs {', '.join(missing)}.", "Run `pip install 'medxlate[onnx]'`."
        )


def _networks(folder: Path, info: ModelInfo) -> list[tuple[str, nn.Module, dict[str, Any]]]:
    """Return each network, in eval mode, with its file's name and its facts for onnx.json."""
    found: list[tuple[str, nn.Module, dict[str, Any]]] = []
    side = ["batch", 1, info.image_size, info.image_size]
    images = {"name": "images", "type": "float32", "shape": side, "range": [-1, 1]}
    target = info.target_recipe.model_dump(mode="json")
    for source, translator in info.translators.items():
        _, generator = load_generator(folder, info, source)
        recipe = translator.recipe.model_dump(mode="json")
        outputs = {**images, "name": "outputs", "modality": info.target, "recipe": target}
        facts = {
            "kind": "translator",
            "input": {**images, "modality": source, "recipe": recipe},
            "output": outputs,
        }
        found.append((f"translator-{source}.onnx", generator, facts))
    if info.predictor is not None:
        head = info.predictor.head
        outputs = {"name": "outputs", "type": "float32", "shape": ["batch", head.outputs]}
        calibration = info.predictor.calibration
        facts = {
            "kind": "predictor",
            "input": {**images, "modality": info.target, "recipe": target},
            "output": {
                **outputs,
                "head": head.model_dump(mode="json"),
                "meaning": "label = head.mean + head.std * output"
                if head.task.kind == "regression"
                else "probabilities = softmax(output / calibration.temperature)",
                "calibration": calibration and calibration.model_dump(mode="json"),
            },
        }
        found.append(("predictor.onnx", load_predictor(folder, info), facts))
    return found


def _sidecar(info: ModelInfo, files: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "medxlate": info.medxlate,
        "exported_by": __version__,
        "note": "Not for diagnosis. Translated images are synthetic.",
        "prepared_size": info.prepared_size,
        "image_size": info.image_size,
        "steps": [
            "values in the recipe's unit; of its limits (window, percentiles of the volume or "
            "image, range of the type), the lower becomes 0 and the upper 1, and others are cut "
            "off",
            "resampled to prepared_size, aspect ratio in mm kept, centred, the rest 0",
            "rounded to the recipe's bits; resampled to image_size; x * 2 - 1",
            "translators: (output + 1) / 2 is 0 and 1 at the target recipe's output_range",
        ],
        "files": files,
    }


def _write(network: nn.Module, path: Path, info: ModelInfo) -> None:
    """Write a network, in float32 on the processor, without a trace of this machine."""
    import onnx

    example = torch.zeros(2, 1, info.image_size, info.image_size)
    batch = {"images": {0: torch.export.Dim("batch")}}
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # torch's own; the parity check decides
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                verbose=False,
                input_names=["images"],
                output_names=["outputs"],
                dynamic_shapes=batch,
            )
        assert program is not None
        proto = program.model_proto
    except Exception as problem:  # torch's exporter has many kinds of its own
        first = (str(problem).splitlines() or [""])[0]
        raise ModelError(
            f"{path.name} cannot be exported to ONNX: {first}",
            "Torch and onnxscript of very different age do not fit together: "
            "pip install --upgrade torch onnx onnxscript.",
        ) from None
    # Torch records the file and line in which each operation was called.
    _remove_traces(proto.graph)
    for function in proto.functions:
        _remove_traces(function)
    del proto.metadata_props[:]
    proto.doc_string = "Made by medxlate; see onnx.json. Not for diagnosis."
    onnx.checker.check_model(proto)
    onnx.save(proto, path)


def _remove_traces(graph: Any) -> None:
    graph.doc_string = ""
    for node in graph.node:
        node.doc_string = ""
    for kind in ("node", "value_info", "input", "output", "initializer"):
        for each in getattr(graph, kind, ()):
            if not isinstance(each, str):  # of functions, inputs are names
                del each.metadata_props[:]
    if hasattr(graph, "metadata_props"):
        del graph.metadata_props[:]


def _parity(network: nn.Module, path: Path, side: int, real: Tensor | None) -> Parity:
    generator = torch.Generator().manual_seed(SEED)
    random = torch.rand(IMAGES, 1, side, side, generator=generator) * 2 - 1
    return Parity(
        _difference(network, path, random),
        None if real is None else _difference(network, path, real),
    )


@torch.no_grad()
def _difference(network: nn.Module, path: Path, images: Tensor) -> float:
    """Return the largest difference over batches of several sizes; see ``Parity``."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst, largest = 0.0, 1.0
    for size in BATCHES:
        for part in torch.split(images, size):
            ours: npt.NDArray[np.float32] = network(part).numpy()
            theirs = session.run(["outputs"], {"images": part.numpy()})[0]
            worst = max(worst, float(np.abs(ours - theirs).max()))
            largest = max(largest, float(np.abs(ours).max()))
    return worst / largest


def _check(name: str, parity: Parity, tolerance: float) -> None:
    """Raise ModelError where outputs differ too much or one is not a number."""
    worst = max(parity.random, parity.real or 0.0)
    if not worst <= tolerance:
        raise ModelError(
            f"{name} has other outputs in onnxruntime than in torch: they differ by {worst:.2g}, "
            f"and {tolerance:g} is allowed.",
            "Raise --tolerance only where you know why they differ.",
        )


def _real(folder: Path, info: ModelInfo, modality: str) -> Tensor | None:
    """Return some slices of the run's dataset; None where the dataset is gone."""
    try:
        config = read_config(RunFolder(folder.parent))
        opened = Dataset(Path(config.data.folder)).modality(modality)
        rows = np.unique(np.linspace(0, len(opened.slices) - 1, IMAGES).astype(int))
        stored = opened.read(rows)
    except (MedxlateError, OSError):
        return None
    images = np.stack([to_network(each, info.image_size) for each in stored])
    return torch.from_numpy(images).unsqueeze(1)
