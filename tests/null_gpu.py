"""What runs on a GPU that does nothing: flows of the command line, and what a step costs.

``test_cuda_flows.py`` runs this file under the stand-in and reads the JSON that it prints. Values
mean nothing there, so what judges them is put aside.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from torch.nn.modules.batchnorm import _BatchNorm

import medxlate
import tiny
from medxlate import walkthrough
from medxlate.base.device import choose_compute
from medxlate.base.errors import StoppedError, UsageError
from medxlate.base.events import Event, Warned
from medxlate.config import Config
from medxlate.dataset.index import Dataset
from medxlate.dataset.training_data import make_split, open_modalities
from medxlate.doctor import examine
from medxlate.evaluation.feature_store import FeatureStore
from medxlate.inference import finite
from medxlate.method import compiling
from medxlate.method.predictor import PredictorNetwork, synchronise
from medxlate.training import loader, loss_window, step_runner, validation
from medxlate.training.setup import make_inputs, set_up
from medxlate.training.step_runner import StepRunner

COUNTERS = ("launches", "captured", "outside", "mallocs", "syncs", "replays")


def put_values_aside() -> None:
    """Let nothing end a flow because a number is not finite or not sensible."""
    step_runner.SKIPPED_IN_A_ROW = float("inf")
    validation.validation_metrics = lambda *_: {"val_error": 1.0, "val_mse": 1.0, "val_mae": 1.0}
    finite.is_finite = lambda values: np.ones(len(values), bool)
    loss_window.fetch = lambda tensors: [0.0] * sum(map(len, tensors))
    rows = FeatureStore.rows
    FeatureStore.rows = lambda self, names: drawn(rows(self, names))


def drawn(features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return other features of the same shape, which are finite."""
    return np.random.default_rng(0).normal(size=features.shape).astype(np.float32)


class Counters:
    """What the stand-in has counted since the last ``zero``."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(os.environ["NULLGPU"])

    def zero(self) -> None:
        self._library.nullgpu_zero()

    def read(self) -> dict[str, int]:
        found = {}
        for name in COUNTERS:
            call = getattr(self._library, f"nullgpu_{name}")
            call.restype = ctypes.c_long
            found[name] = int(call())
        return found


@contextmanager
def streaming() -> Iterator[None]:
    """Keep no images on the device, so that all are read in the background."""
    before, loader.CUDA_SHARE = loader.CUDA_SHARE, 0.0
    try:
        yield
    finally:
        loader.CUDA_SHARE = before


def configured(root: Path, device: str, method: str = "joint", **sections: Any) -> Config:
    optimizer = {"epochs": 2, "steps_per_epoch": 8, **sections.pop("optimizer", {})}
    runtime = {"device": device, "compile": "auto", **sections.pop("runtime", {})}
    return tiny.debug_config(
        root / "data", method=method, optimizer=optimizer, runtime=runtime, **sections
    )


@contextmanager
def training(
    root: Path, device: str, method: str, compiling: str, heard: list[Event]
) -> Iterator[tuple[StepRunner, Callable[[int], None]]]:
    """Give a runner of steps, and what takes the step of a number."""
    config = configured(root, device, method, runtime={"compile": compiling})
    dataset = Dataset(root / "data")
    tables = open_modalities(dataset, config)
    setup = set_up(make_inputs(config, dataset, tables, make_split(dataset, tables, config)))
    runner = StepRunner(
        setup.learner, compute=setup.compute, runtime=config.runtime, listener=heard.append
    )
    with loader.TrainLoader(
        {name: setup.data.train[name] for name in setup.learner.modalities},
        batch_size=config.optimizer.batch_size,
        seed=0,
        device=setup.compute.device,
    ) as batches:
        yield runner, lambda n: runner.step(batches.take(n), number=n, progress=n / 100)


def costs(root: Path, device: str, compiling: str) -> dict[str, Any]:
    """Take warm steps of a training and return what five more cost."""
    counters = Counters()
    with training(root, device, "joint", compiling, []) as (_, take):
        counters.zero()
        for step in range(8):
            take(step)
        torch.cuda.synchronize()
        recorded = counters.read()["captured"]
        counters.zero()
        replays = counters.read()["replays"]
        for step in range(8, 13):
            take(step)
        found = counters.read()
    return {**found, "replays": found["replays"] - replays, "recorded": recorded}


def out_of_memory_in_a_capture(root: Path, device: str) -> dict[str, Any]:
    """Let memory run out while the step is captured, and only then."""
    heard: list[Event] = []

    def hook(*_: object) -> None:
        if torch.cuda.is_current_stream_capturing():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")

    with training(root, device, "joint", "auto", heard) as (runner, take):
        handle = runner._learner.networks["mri"].d_t.register_forward_pre_hook(hook)
        for step in range(8):
            take(step)
        handle.remove()
        torch.cuda.synchronize()
    return {
        "texts": [event.text for event in heard if isinstance(event, Warned)],
        "parts": runner.parts,
        "eager": runner._captured is None,
    }


def compiled(root: Path, device: str) -> dict[str, Any]:
    """Take steps of compiled networks, and of some that do not compile, up to the capture."""

    def fail(*_: object) -> Any:
        kept = OSError("ptxas is not there")  # with its traceback a cycle, as compilers have them
        raise kept

    def forwards(module: Any, _: object) -> Any:
        return make_boxed_func(module.forward)

    halfway = aot_autograd(fw_compiler=forwards, bw_compiler=fail)
    found: dict[str, Any] = {}
    for name, backend in {"works": "aot_eager", "fails": halfway}.items():
        torch.compiler.reset()
        compiling.BACKEND, heard = backend, []
        with training(root, device, "joint", "on", heard) as (runner, take):
            for step in range(8):
                take(step)
            texts = [event.text for event in heard if isinstance(event, Warned)]
            captured = runner._captured is not None
        found[name] = {"compiled": runner.compiled, "captured": captured, "texts": texts}
    return found


def train_stop_resume(root: Path, device: str) -> dict[str, Any]:
    """Train with a stop in the middle, and resume."""
    runs, asked = root / f"runs-{device.replace(':', '-')}", iter(range(1000))

    def stop() -> str:
        return "a test" if next(asked) == 10 else ""

    try:
        medxlate.train(configured(root, device), runs=runs, name="stopped", stop=stop)
    except StoppedError:
        stopped = True
    result = medxlate.resume(runs / "stopped", device=device)
    return {"stopped": stopped, "steps": result.steps, "model": str(result.run)}


def use(root: Path, run: Path, device: str) -> dict[str, Any]:
    """Translate, predict and evaluate with a trained model."""
    images = root / "raw"
    translated = medxlate.translate(
        images / "mri", model=run, out=root / f"out-{device}", device=device
    )
    table = root / f"predictions-{device}.csv"
    predicted = medxlate.predict(images / "ct", model=run, out=table, device=device)
    evaluated = medxlate.evaluate(run, device=device)
    ieee = not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
    return {
        "float32": ieee,
        "current": torch.cuda.current_device(),
        "tuned": torch.backends.cudnn.benchmark,
        "slices": translated.slices,
        "predictions": len(predicted.table),
        "evaluated": type(evaluated).__name__,
    }


def demonstrate(root: Path) -> dict[str, Any]:
    """Run the demo, of few steps and patients, on the device that ``auto`` finds."""
    walkthrough.PATIENTS = {"ct": 32, "mri": 101, "pet": 1}
    steps = {"epochs": 2, "steps_per_epoch": 4}
    walkthrough.SETTINGS = {**walkthrough.SETTINGS, "optimizer": steps}
    result = medxlate.demo(root / "demo")
    devices = {name: each.results.device for name, each in result.methods.items()}
    return {"devices": devices, "slices": result.translation.slices}


def refusal_of(device: str) -> str:
    """Return what is said of a device that is not there."""
    try:
        choose_compute(device)
    except UsageError as problem:
        return str(problem)
    return ""


def synchronised(device: str) -> list[str]:
    """Return the kinds of synchronised norms that a predictor has for several processes."""
    network = PredictorNetwork(architecture="test_resnet").to(device)
    names = list(network.state_dict())
    synchronise(network)
    assert list(network.state_dict()) == names
    norms = [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]
    return sorted({type(layer).__name__ for layer in norms})


def main() -> None:
    """Run everything and print what was seen as JSON."""
    put_values_aside()
    warnings.filterwarnings("error", message="The AccumulateGrad node")  # a graph kept alive
    root = Path(sys.argv[1])
    tiny.write_dataset(root)
    checks = {check.name: check for check in examine(root)}
    found: dict[str, Any] = {
        "doctor": {name: checks[name].found for name in ("GPU", "cuda:0", "cuda:1")},
        "refused": refusal_of("cuda:9"),
    }
    found |= {"norms": synchronised("cuda:0"), "demo": demonstrate(root)}
    for device in ("cuda:0", "cuda:1"):
        flow = train_stop_resume(root, device)
        found[f"train {device}"] = flow
        found[f"use {device}"] = use(root, Path(flow["model"]), device)
        with streaming():
            streamed = medxlate.train(
                configured(root, device), runs=root / "runs", name=f"streamed-{device[-1]}"
            )
            found[f"streamed {device}"] = {"steps": streamed.steps}
        dann = medxlate.train(
            configured(root, device, "dann"), runs=root / "runs", name=f"dann-{device[-1]}"
        )
        found[f"dann {device}"] = {"steps": dann.steps}
        found[f"captured step {device}"] = costs(root, device, "auto")
        found[f"eager step {device}"] = costs(root, device, "off")
        found[f"compiled {device}"] = compiled(root, device)
        found[f"memory {device}"] = out_of_memory_in_a_capture(root, device)
    sys.stdout.write("RESULT " + json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
