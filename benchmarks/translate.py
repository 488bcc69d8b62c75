"""The race from files to files: ``medxlate translate`` against a plain loop, in one process.

    python -m benchmarks.translate                        # 32 slices of 256 x 256, 5 rounds
    python -m benchmarks.translate --slices 1000 --rounds 1 --compile auto
    python -m benchmarks.translate --device cuda --slices 2000
    python -m benchmarks.translate --quick                # small networks and images: does it run?

The loop reads an image, gives it to the textbook's generator (``tests/reference.py``; eager,
float32) and writes the result, one image at a time. Both have the same weights (the paper's sizes,
random), the same PNG files and load the weights from disk in their time; they take turns, also with
``translate`` without its threads; medians.
What reading and writing take is measured by a network that does nothing, for the PNG files and for
a NIfTI volume of as many slices.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import PIL.Image
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from benchmarks.machine import facts, wait
from medxlate.artifacts.folder import load_generator, write_model, write_weights
from medxlate.artifacts.info import ModelInfo, PredictorInfo, TranslatorInfo, read_model
from medxlate.base.events import Event, Progress, Stage, Warned
from medxlate.dataset.labels import Task
from medxlate.images.orientation import Geometry
from medxlate.images.recipes import Recipe
from medxlate.images.volumes import write_volume
from medxlate.inference import stream, translator
from medxlate.inference import translate as module
from medxlate.method.generator import Generator
from medxlate.method.label_transform import LabelTransform
from medxlate.method.predictor import PredictorNetwork

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from reference import reference_generator

AS_IS = Recipe(kind="as-is", bits=8, output_range=(0.0, 255.0))


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=32)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--blocks", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=5, help="after one that does not count")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--compile", default="auto", choices=["auto", "on", "off"])
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--suffix", default=".nii.gz", help="of the volume")
    parser.add_argument("--quick", action="store_true", help="small; the figures mean nothing")
    parser.add_argument("--out", type=Path, help="where the figures go as JSON")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.slices, arguments.rounds = 6, 1
        arguments.side, arguments.width, arguments.blocks = 64, 8, 2
    return arguments


def main() -> None:
    """Race, measure reading and writing, print and write the figures."""
    arguments = parse()
    with tempfile.TemporaryDirectory(prefix="medxlate-bench-") as name:
        for report in race(Path(name), arguments):
            if arguments.out:
                arguments.out.parent.mkdir(parents=True, exist_ok=True)
                arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))


def race(root: Path, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the figures, more each time; everything is written below ``root``."""
    device = torch.device(arguments.device)
    images = smooth_noise(arguments.slices, arguments.side)
    (root / "png").mkdir()
    for number, image in enumerate(images):
        PIL.Image.fromarray(image).save(root / "png" / f"{number:05d}.png")
    scan = root / f"scan{arguments.suffix}"
    write_scan(scan, images)
    model = write_random_model(root, arguments)
    runs = Translations(root, model, arguments)

    report: dict[str, Any] = {
        "machine": facts(device),
        "settings": {k: v for k, v in vars(arguments).items() if k != "out"},
    }
    loop, ours, alone = [], [], []
    for number in range(arguments.rounds + 1):
        seconds = timed(lambda: plain_loop(root / "png", root / "plain", model, device), device)
        translated = runs.seconds(root / "png", f"png-{number}")
        with without_threads():
            serial = runs.seconds(root / "png", f"serial-{number}")
        if number:  # the first of each warms up
            loop.append(seconds)
            ours.append(translated)
            alone.append(serial)
            report |= summary(loop, ours, alone, arguments.slices)
            yield report
    report["largest_difference"] = largest_difference(root / "plain", root / "png-1")
    volume = runs.seconds(scan, "volume")
    report["said"] = list(runs.said)
    yield report
    with mock.patch.object(
        translator, "load_generator", return_value=("mri", nn.Identity().eval())
    ):
        files, voxels = runs.seconds(root / "png", "files"), runs.seconds(scan, "voxels")
    total = report["translate"]["median"]
    report["reading_and_writing"] = {
        "png_seconds": files["seconds"],
        "png_share": round(files["seconds"] / total, 4),
        "volume_seconds": voxels["seconds"],
        "volume_share": round(voxels["seconds"] / volume["seconds"], 4),
    }
    yield report


def summary(
    loop: list[float], ours: list[dict[str, float]], alone: list[dict[str, float]], slices: int
) -> dict[str, Any]:
    """Return the figures of the rounds so far."""
    total = statistics.median(each["seconds"] for each in ours)
    return {
        "loop": {"seconds": loop, "median": statistics.median(loop)},
        "translate": {"rounds": ours, "median": total},
        "translate_without_threads": {
            "rounds": alone,
            "median": statistics.median(each["seconds"] for each in alone),
        },
        "ratio": round(statistics.median(loop) / total, 3),
        "ratios": [round(a / b["seconds"], 3) for a, b in zip(loop, ours, strict=True)],
        "slices_per_second": round(slices / total, 3),
    }


class Translations:
    """Runs ``medxlate.translate`` and tells how long it took.

    Args:
        root: Where the outputs go.
        model: The model folder.
        arguments: Of the command line.

    Attributes:
        said: What it chose and warned of.
    """

    def __init__(self, root: Path, model: Path, arguments: argparse.Namespace) -> None:
        self.said: list[str] = []
        self._root, self._model, self._arguments = root, model, arguments

    def seconds(self, inputs: Path, name: str) -> dict[str, float]:
        """Return the seconds in all, and those until the first slice (loading, compiling)."""
        began = time.perf_counter()
        first: list[float] = []

        def listen(event: Event) -> None:
            if isinstance(event, Progress) and not first:
                first.append(time.perf_counter() - began)
            if isinstance(event, (Stage, Warned)) and event.text not in self.said:
                self.said.append(event.text)

        module.translate(
            inputs,
            out=self._root / name,
            model=self._model,
            device=self._arguments.device,
            precision=self._arguments.precision,
            compiling=self._arguments.compile,
            batch_size=self._arguments.batch_size,
            listener=listen,
        )
        return {"seconds": time.perf_counter() - began, "before_the_first_slice": first[0]}


@contextmanager
def without_threads() -> Iterator[None]:
    """Let translate read, compute and write one after the other, to see what threads gain."""

    @contextmanager
    def here(given: Any) -> Iterator[Any]:
        yield given

    with mock.patch.multiple(stream, ahead=here, behind=here):
        yield


def plain_loop(inputs: Path, out: Path, model: Path, device: torch.device) -> None:
    """Translate PNG files one after the other, as a script of a few lines does."""
    network = textbook_generator(model).to(device).eval()
    out.mkdir(exist_ok=True)
    for path in sorted(inputs.iterdir()):
        pixels = np.asarray(PIL.Image.open(path), dtype=np.float32) / 127.5 - 1
        with torch.no_grad():
            fake = network(torch.from_numpy(pixels)[None, None].to(device))
        grey = (fake[0, 0].cpu().numpy() + 1) * 127.5
        PIL.Image.fromarray(np.rint(grey).astype(np.uint8)).save(out / path.name)


def textbook_generator(model: Path) -> nn.Module:
    """Return the textbook's generator with the weights of a model folder."""
    info = read_model(model)
    _, trained = load_generator(model, info, None)
    sizes = info.translators["mri"]
    network = reference_generator(1, 1, sizes.width, sizes.blocks)
    with torch.no_grad():
        for own, given in zip(network.parameters(), trained.parameters(), strict=True):
            own.copy_(given)
    return network


def timed(run: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of a call."""
    began = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - began


def largest_difference(one: Path, other: Path) -> int:
    """Return by how many of 255 grey values the two ways' images differ at most."""
    return max(int(np.abs(_grey(path) - _grey(other / path.name)).max()) for path in one.iterdir())


def _grey(path: Path) -> npt.NDArray[np.int64]:
    with PIL.Image.open(path) as image:
        return np.asarray(image).astype(np.int64)


def smooth_noise(slices: int, side: int) -> npt.NDArray[np.uint8]:
    """Return slices [N, side, side] that span all grey values, as recipe as-is leaves them."""
    noise = np.random.default_rng(0).normal(size=(slices, side, side)).astype(np.float32)
    smooth = gaussian_filter(noise, (0, 2, 2))
    grey = 128 + 50 * smooth / smooth.std()
    grey[:, 0, :2] = 0, 255
    return np.clip(grey, 0, 255).astype(np.uint8)


def write_scan(path: Path, voxels: npt.NDArray[np.uint8]) -> None:
    """Write slices as a volume of 1 x 1 x 2 mm."""
    slices, height, width = voxels.shape
    geometry = Geometry(
        size=(width, height, slices),
        spacing=(1.0, 1.0, 2.0),
        origin=(0.0, 0.0, 0.0),
        direction=(1, 0, 0, 0, 1, 0, 0, 0, 1),
    )
    write_volume(path, voxels, geometry, facts={})


def write_random_model(root: Path, arguments: argparse.Namespace) -> Path:
    """Write a model folder with random weights, as a run in bf16 leaves it."""
    torch.manual_seed(0)
    head = LabelTransform(task=Task(kind="regression", name="age", unit="years"), mean=50, std=10)
    generator = Generator(width=arguments.width, blocks=arguments.blocks)
    predictor = PredictorNetwork(architecture="test_resnet", outputs=head.outputs)
    weights = [
        write_weights(root, name, network.state_dict(), step=0)
        for name, network in (
            ("translator-mri.safetensors", generator),
            ("predictor.safetensors", predictor),
        )
    ]
    translator = TranslatorInfo(
        recipe=AS_IS, width=arguments.width, blocks=arguments.blocks, weights=weights[0]
    )
    info = ModelInfo(
        medxlate="benchmark",
        method="joint",
        prepared_size=arguments.side,
        image_size=arguments.side,
        target="ct",
        target_recipe=AS_IS,
        translators={"mri": translator},
        predictor=PredictorInfo(architecture="test_resnet", head=head, weights=weights[1]),
        precision="bf16",
    )
    write_model(root / "model", info, weights_from=root, card="# Benchmark\n")
    return root / "model"


if __name__ == "__main__":
    main()
