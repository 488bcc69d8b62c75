"""How long a model folder takes to load, and how much memory, against torch's usual way.

    python -m benchmarks.loading

The usual way builds a network with initial weights and copies the file's over them.
Each way runs in a process of its own, in turns: peak memory cannot be taken back. What importing
takes is told apart, and the SHA-256 of the weights is checked in both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from benchmarks.machine import facts
from medxlate.artifacts.folder import load_generator, load_predictor, write_model, write_weights
from medxlate.artifacts.info import ModelInfo, PredictorInfo, TranslatorInfo, read_model
from medxlate.base.files import sha256
from medxlate.dataset.labels import Task
from medxlate.images.recipes import Recipe
from medxlate.method.generator import Generator
from medxlate.method.label_transform import LabelTransform
from medxlate.method.predictor import PredictorNetwork

WAYS = ("usual", "medxlate")
MIB = 2**20
AS_IS = Recipe(kind="as-is", bits=8, output_range=(0.0, 255.0))


def main() -> None:
    """Write a model folder, load it in turns, print and write the figures."""
    arguments = parse()
    if arguments.way:
        print(json.dumps(load(arguments.model, arguments.way)))
        return
    with tempfile.TemporaryDirectory(prefix="medxlate-bench-") as name:
        report = race(Path(name), arguments)
    print(json.dumps(report, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--blocks", type=int, default=9)
    parser.add_argument("--predictor", default="resnet50")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a small model, two rounds")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.width, arguments.blocks, arguments.rounds = 8, 1, 2
        arguments.predictor = "test_resnet"
    return arguments


def race(root: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of both ways."""
    model = write_random_model(root, arguments)
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(arguments.rounds):
        for way in WAYS:
            command = [sys.executable, "-m", "benchmarks.loading", "--way", way]
            command += ["--model", str(model)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[way].append(json.loads(done.stdout))
    size = sum(path.stat().st_size for path in model.glob("*.safetensors"))
    medians = {
        way: {key: round(statistics.median(r[key] for r in rounds), 4) for key in rounds[0]}
        for way, rounds in found.items()
    }
    return {
        "machine": facts(torch.device("cpu")),
        "weights_mib": round(size / MIB, 1),
        "rounds": arguments.rounds,
        **medians,
        "ratio": round(medians["usual"]["seconds"] / medians["medxlate"]["seconds"], 2),
    }


def load(model: Path, way: str) -> dict[str, float]:
    """Load generator and predictor; return seconds and how far memory rose, in MiB."""
    info = read_model(model)
    before, began = peak(), time.perf_counter()
    if way == "usual":
        networks = usual_way(model, info)
    else:
        networks = [load_generator(model, info, None)[1], load_predictor(model, info)]
    seconds, loaded = time.perf_counter() - began, peak()
    assert all(network.training is False for network in networks)
    return {"seconds": seconds, "mib": loaded - before}


def usual_way(model: Path, info: ModelInfo) -> list[torch.nn.Module]:
    """Load both networks as torch's documentation shows it, with the hash checked before."""
    assert info.predictor is not None
    translator = info.translators["mri"]
    pairs: list[tuple[torch.nn.Module, Any]] = [
        (Generator(width=translator.width, blocks=translator.blocks), translator.weights),
        (
            PredictorNetwork(
                architecture=info.predictor.architecture, outputs=info.predictor.head.outputs
            ),
            info.predictor.weights,
        ),
    ]
    for network, weights in pairs:
        assert sha256(model / weights.file) == weights.sha256
        network.load_state_dict(load_file(model / weights.file))
        network.eval()
    return [network for network, _ in pairs]


def peak() -> float:
    """Return the most memory that the process has held, MiB; that of getrusage is its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def write_random_model(root: Path, arguments: argparse.Namespace) -> Path:
    """Write a model folder with initial weights."""
    head = LabelTransform(task=Task(kind="regression", name="age", unit="years"), mean=50, std=10)
    generator = Generator(width=arguments.width, blocks=arguments.blocks)
    predictor = PredictorNetwork(architecture=arguments.predictor, outputs=head.outputs)
    weights = [
        write_weights(root, name, network.state_dict(), step=0)
        for name, network in (
            ("translator-mri.safetensors", generator),
            ("predictor.safetensors", predictor),
        )
    ]
    info = ModelInfo(
        medxlate="benchmark",
        method="joint",
        prepared_size=256,
        image_size=256,
        target="ct",
        target_recipe=AS_IS,
        translators={
            "mri": TranslatorInfo(
                recipe=AS_IS, width=arguments.width, blocks=arguments.blocks, weights=weights[0]
            )
        },
        predictor=PredictorInfo(architecture=arguments.predictor, head=head, weights=weights[1]),
    )
    write_model(root / "model", info, weights_from=root, card="# Benchmark\n")
    return root / "model"


if __name__ == "__main__":
    main()
