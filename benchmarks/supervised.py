"""How near to the truth does a translator come that learns from pairs? A bound for unpaired ones.

    python -m benchmarks.supervised lgg --kaggle kaggle_3m
    python -m benchmarks.supervised phantoms

The generator of the preset `scarce`, and one that begins at its input (`model.skip=both`), learn
from the true target image of each of the source's training slices, by the mean squared error: the
best loss for PSNR. Beside it stands the best straight line from source to target values, fitted to
each held-out image by its truth: what knowing the brightness and contrast of each would give.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from benchmarks.machine import facts
from benchmarks.pairs import write_lgg_pairs, write_phantom_pairs
from medxlate.config import Skip
from medxlate.evaluation.paired import similarity
from medxlate.method.generator import Generator

STEPS, REPORTED, BATCH, RATE, SIZE = 800, 200, 8, 1e-3, 64
SKIPS: tuple[Skip, ...] = ("unet", "both")


def psnr(images: Tensor, truth: Tensor) -> float:
    """Return the mean PSNR (dB) of images [N, 1, S, S] in [-1, 1]."""
    return float(similarity(images, truth)[:, 0].mean())


def straight_lines(images: Tensor, truth: Tensor) -> Tensor:
    """Return a * image + b for the a and b that are the best of each image [N, 1, S, S]."""
    x, y = images.flatten(1), truth.flatten(1)
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    slope = (x * y).sum(1) / x.square().sum(1)
    level = truth.flatten(1).mean(1) - slope * images.flatten(1).mean(1)
    return slope.view(-1, 1, 1, 1) * images + level.view(-1, 1, 1, 1)


def learn(
    source: Tensor, truth: Tensor, held: Tensor, *, skip: Skip, seed: int
) -> Iterator[tuple[int, Tensor]]:
    """Train a generator on pairs; yield the steps so far and the held-out images' translations."""
    torch.manual_seed(seed)
    network = Generator(width=16, blocks=3, upsample="bilinear", skip=skip)
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE, betas=(0.5, 0.99))
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, 2 * (1 - step / STEPS))  # constant for half, then to 0
        rows = torch.randint(len(source), (BATCH,))
        loss = mse_loss(network(source[rows]), truth[rows])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if (step + 1) % REPORTED == 0:
            with torch.no_grad():
                yield step + 1, torch.cat([network(some) for some in held.split(64)])


def main() -> None:
    """Parse the command line, train and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["phantoms", "lgg"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kaggle", type=Path, help="LGG's folder kaggle_3m")
    parser.add_argument("--out", type=Path, default=Path("bench-out/supervised"))
    arguments = parser.parse_args()
    if (arguments.what == "lgg") != (arguments.kaggle is not None):
        parser.error("lgg, and nothing else, takes --kaggle")
    if arguments.what == "lgg":
        pairs = write_lgg_pairs(arguments.out, arguments.kaggle, seed=arguments.seed)
    else:
        pairs = write_phantom_pairs(arguments.out, seed=arguments.seed)
    source, truth = pairs.images("train", SIZE)
    held, target = pairs.images("test", SIZE)
    print(
        f"{len(source)} pairs; {len(held)} held-out images, as they are: {psnr(held, target):.1f}"
    )
    print(f"a line fitted to each by its truth: {psnr(straight_lines(held, target), target):.1f}")
    for skip in SKIPS:
        for step, images in learn(source, truth, held, skip=skip, seed=arguments.seed):
            print(f"skip={skip}, {step} steps: {psnr(images, target):.1f} dB", flush=True)
    print(json.dumps(facts(torch.device("cpu"))))


if __name__ == "__main__":
    main()
