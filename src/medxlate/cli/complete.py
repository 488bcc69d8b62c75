"""Values that the shell completes. They load no torch and never fail: at worst there are none."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from medxlate.base.plugins import Kind

DEVICES = ("auto", "cpu", "cuda", "cuda:0", "mps")
PRETRAINED = ("inception", "resnet50")
# A test holds these against evaluation, which needs torch.
METRICS = (
    *("mse", "mae", "bias", "r2", "pearson", "slope", "skill"),
    *("accuracy", "balanced_accuracy", "auroc", "f1", "ece"),
    *("fid", "kid", "is", "precision", "recall"),
    *("paired_psnr", "paired_ssim", "paired_mae", "tstr"),
)
# A test holds these against method.registry, which needs torch.
_AUGMENTATIONS = ("simple-augment", "autoaugment", "random-erasing")
_MIXED = ("joint", "cyclegan", "raw-mix", "histogram", "duplicate-real", "oracle")
METHODS = (
    *("constant", "target-only", "duplicate-real", "raw-mix", "histogram", "cyclegan", "joint"),
    *("oracle", "transfer", "multitask", "dann", *_AUGMENTATIONS),
    *(f"{mixed}+{augmentation}" for mixed in _MIXED for augmentation in _AUGMENTATIONS),
)


# A test holds these against images.recipes and dataset.layouts, which need numpy and pandas.
RECIPES = ("auto", "ct", "mr", "pet", "xray", "as-is")
LAYOUTS = ("lgg-mri", "ct-ich", "head-neck-pet-ct", "bids")


def run_names(ctx: click.Context, incomplete: str) -> list[str]:
    """Return the names of runs in ``--runs``, or ``./runs``."""
    return [name for name in _runs(_folder(ctx)) if name.startswith(incomplete)]


def run_paths(ctx: click.Context, incomplete: str) -> list[str]:
    """Return the paths of runs, as ``--run`` and ``--model`` take them."""
    folder = _folder(ctx)
    paths = [f"{folder.as_posix()}/{name}" for name in _runs(folder)]
    return [path for path in paths if path.startswith(incomplete)]


def modalities(ctx: click.Context, incomplete: str) -> list[str]:
    """Return the modalities in ``dataset.json`` of ``--data``, or ``./data``."""
    found: list[str] = []
    with suppress(OSError, ValueError, AttributeError, TypeError):
        data = Path(ctx.params.get("data") or "data")
        held = json.loads((data / "dataset.json").read_text(encoding="utf-8"))
        found = sorted(held["modalities"])
    return [name for name in found if name.startswith(incomplete)]


def presets(incomplete: str) -> list[str]:
    """Return the presets of ``train`` and ``compare``."""
    from medxlate.config import PRESETS

    return [name for name in PRESETS if name.startswith(incomplete)]


def of(values: tuple[str, ...]) -> Callable[[str], list[str]]:
    """Return a completion from a fixed list; behind a comma the list begins again."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [before + comma + value for value in values if value.startswith(last)]

    return complete


def and_plugins(values: tuple[str, ...], kind: Kind) -> Callable[[str], list[str]]:
    """Return a completion from a fixed list and the names that plug-ins add; none is imported."""

    def complete(incomplete: str) -> list[str]:
        added: list[str] = []
        with suppress(Exception):  # whatever the metadata of an installed package holds
            from medxlate.base.plugins import names

            added = names(kind)
        return of((*values, *added))(incomplete)

    return complete


devices = of(DEVICES)
metrics = of(METRICS)
methods = and_plugins(METHODS, "methods")
recipes = and_plugins(RECIPES, "recipes")
layouts = and_plugins(LAYOUTS, "layouts")
pretrained = of(PRETRAINED)


def _folder(ctx: click.Context) -> Path:
    return Path(ctx.params.get("runs") or ctx.params.get("folder") or "runs")


def _runs(folder: Path) -> list[str]:
    with suppress(OSError):
        names = sorted(p.name for p in folder.iterdir() if (p / "config.json").is_file())
        return [*names, "latest"] if (folder / "latest").is_file() else names
    return []
