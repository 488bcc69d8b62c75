"""Words that options take: the shell completes them, and the help lists them.

They load no torch and never fail: at worst there are none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from medxlate.base.plugins import Kind

# Fixed sets of words. A test holds each against its home in the library, which the command line
# loads only when a command runs.
COMPILING = ("auto", "on", "off")
PHI = ("keep", "pseudonymise", "remove")
PLANES = ("axial", "coronal", "sagittal")
POLICIES = ("patient", "image")
PRECISIONS = ("auto", "fp32", "bf16")
PRESETS = ("paper", "scarce", "small", "debug")
PRETRAINED = ("inception", "resnet50")
TASKS = ("regression", "classification")
TRACKERS = ("tensorboard", "wandb", "mlflow")
METRICS = (
    *("mse", "mae", "bias", "r2", "pearson", "slope", "skill"),
    *("accuracy", "balanced_accuracy", "auroc", "f1", "ece"),
    *("fid", "kid", "is", "precision", "recall"),
    *("paired_psnr", "paired_ssim", "paired_mae", "tstr"),
)
# What is built in of sets that are open: to other devices, files and plug-ins.
DEVICES = ("auto", "cpu", "cuda", "cuda:0", "mps")
DICOM_MODALITIES = ("CT", "MR", "PT", "CR", "DX")
LAYOUTS = ("lgg-mri", "ct-ich", "head-neck-pet-ct", "bids")
RECIPES = ("ct", "mr", "pet", "xray", "as-is")
WINDOWS = ("brain", "subdural", "bone", "lung", "soft-tissue", "wide")
_AUGMENTATIONS = ("simple-augment", "autoaugment", "random-erasing")
_MIXED = ("joint", "cyclegan", "raw-mix", "histogram", "duplicate-real", "oracle")
PLAIN_METHODS = (
    *("joint", "target-only", "cyclegan", "raw-mix", "histogram", "duplicate-real", "oracle"),
    *("transfer", "multitask", "dann", *_AUGMENTATIONS, "constant"),
)
METHODS = (
    *PLAIN_METHODS,
    *(f"{mixed}+{augmentation}" for mixed in _MIXED for augmentation in _AUGMENTATIONS),
)


def run_names(ctx: click.Context, incomplete: str) -> list[str]:
    """Return the names of runs in ``--runs``, or ``./runs``."""
    return [name for name in _runs(_folder(ctx)) if name.startswith(incomplete)]


def run_paths(ctx: click.Context, incomplete: str) -> list[str]:
    """Return the paths of runs, as ``--run`` and ``--model`` take them."""
    folder = _folder(ctx)
    paths = [f"{folder.as_posix()}/{name}" for name in _runs(folder)]
    return [path for path in paths if path.startswith(incomplete)]


def config_words(ctx: click.Context, incomplete: str) -> list[str]:
    """Return the keys and sections of the configuration, and the paths of runs."""
    from medxlate.config import keys

    names = dict.fromkeys(name for key in keys() for name in (key.partition(".")[0], key))
    found = [name for name in names if name.startswith(incomplete)]
    return [*found, *run_paths(ctx, incomplete)]


def modalities(ctx: click.Context, incomplete: str) -> list[str]:
    """Return the modalities in ``dataset.json`` of ``--data``, or ``./data``."""
    found: list[str] = []
    with suppress(OSError, ValueError, AttributeError, TypeError):
        data = Path(ctx.params.get("data") or "data")
        held = json.loads((data / "dataset.json").read_text(encoding="utf-8"))
        found = sorted(held["modalities"])
    return [name for name in found if name.startswith(incomplete)]


def of(values: Sequence[str]) -> Callable[[str], list[str]]:
    """Return a completion from a fixed list; behind a comma the list begins again."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [before + comma + value for value in values if value.startswith(last)]

    return complete


def and_plugins(values: Sequence[str], kind: Kind) -> Callable[[str], list[str]]:
    """Return a completion from a fixed list and the names that plug-ins add; none is imported."""

    def complete(incomplete: str) -> list[str]:
        added: list[str] = []
        with suppress(Exception):  # whatever the metadata of an installed package holds
            from medxlate.base.plugins import names

            added = names(kind)
        return of((*values, *added))(incomplete)

    return complete


def _folder(ctx: click.Context) -> Path:
    return Path(ctx.params.get("runs") or ctx.params.get("folder") or "runs")


def _runs(folder: Path) -> list[str]:
    with suppress(OSError):
        names = sorted(p.name for p in folder.iterdir() if (p / "config.json").is_file())
        return [*names, "latest"] if (folder / "latest").is_file() else names
    return []
