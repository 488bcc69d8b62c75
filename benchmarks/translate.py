"""Which share of ``translate`` goes into reading and writing a NIfTI volume.

    python benchmarks/translate.py                # 256 x 256 x 32 voxels, .nii.gz
    python benchmarks/translate.py --slices 150 --suffix .nii

The volume is smooth noise in HU; the generator is the paper's at 256 px (9 blocks, width 64) with
random weights, on the processor. What is not the network's own time counts as reading and writing:
finding, decoding, recipe, resampling, gathering, encoding and checking.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from medxlate.dataset.labels import Task
from medxlate.images.orientation import Geometry
from medxlate.images.recipes import Recipe
from medxlate.images.volumes import write_volume
from medxlate.inference import translate as module
from medxlate.models.folder import (
    ModelInfo,
    PredictorInfo,
    TranslatorInfo,
    write_model,
    write_weights,
)
from medxlate.models.generator import Generator
from medxlate.models.head import Head
from medxlate.models.predictor import PredictorNetwork

SIDE = 256
CT = Recipe(kind="ct", window=(40, 400), unit="HU", output_range=(-160.0, 240.0))


def write_random_model(root: Path) -> Path:
    """Write a model folder of the paper's size with random weights."""
    torch.manual_seed(0)
    task = Task(kind="regression", name="age", unit="years")
    head = Head(task=task, mean=50, std=10)
    predictor = PredictorNetwork(architecture="test_resnet", outputs=head.outputs)
    weights = [
        write_weights(root, name, network.state_dict(), step=0)
        for name, network in (
            ("translator-mri.safetensors", Generator(width=64, blocks=9)),
            ("predictor.safetensors", predictor),
        )
    ]
    info = ModelInfo(
        medxlate="benchmark",
        method="joint",
        prepared_size=SIDE,
        image_size=SIDE,
        target="ct",
        target_recipe=CT,
        translators={"mri": TranslatorInfo(recipe=CT, width=64, blocks=9, weights=weights[0])},
        predictor=PredictorInfo(architecture="test_resnet", head=head, weights=weights[1]),
    )
    write_model(root / "model", info, weights_from=root, card="# Benchmark\n")
    return root / "model"


def write_scan(path: Path, slices: int) -> None:
    """Write a volume of smooth noise over the whole window."""
    noise = np.random.default_rng(0).normal(size=(slices, SIDE, SIDE)).astype(np.float32)
    smooth = gaussian_filter(noise, 2)
    hu = np.clip(40 + 100 * smooth / smooth.std(), -160, 240).astype(np.int16)
    geometry = Geometry(
        size=(SIDE, SIDE, slices),
        spacing=(1.0, 1.0, 2.0),
        origin=(0.0, 0.0, 0.0),
        direction=(1, 0, 0, 0, 1, 0, 0, 0, 1),
    )
    write_volume(path, hu, geometry, facts={})


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=32)
    parser.add_argument("--suffix", default=".nii.gz")
    arguments = parser.parse_args()
    network = 0.0
    run = module.run

    def timed(*args: object, **keywords: object) -> torch.Tensor:
        nonlocal network
        began = time.perf_counter()
        outputs = run(*args, **keywords)
        network += time.perf_counter() - began
        return outputs

    module.run = timed
    with tempfile.TemporaryDirectory(prefix="medxlate-bench-") as name:
        root = Path(name)
        scan = root / "in" / f"scan{arguments.suffix}"
        write_scan(scan, arguments.slices)
        model = write_random_model(root)
        began = time.perf_counter()
        module.translate(scan, out=root / "out", model=model, device="cpu")
        total = time.perf_counter() - began
    print(
        f"{arguments.slices} slices of {SIDE} x {SIDE}, {arguments.suffix}: {total:.1f} s, of "
        f"which the network {network:.1f} s ({network / arguments.slices:.2f} s a slice); "
        f"reading and writing {100 * (1 - network / total):.1f} %"
    )


if __name__ == "__main__":
    main()
