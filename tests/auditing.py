"""Phantom patients in two modalities, and translators of known truth written as functions.

The sound translator scans the same anatomy again in the target modality, with noise of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import gaussian_filter

from medxlate.dataset.labels import Task
from medxlate.evaluation.audits.domain import domain_gap, prevalence
from medxlate.evaluation.audits.intensity import identity, inversion
from medxlate.evaluation.audits.jitter import jitter
from medxlate.evaluation.audits.label import Answers, label_preservation, probe_source, table
from medxlate.evaluation.audits.memorisation import Neighbours, memorisation
from medxlate.evaluation.audits.sample import Sample, look
from medxlate.evaluation.audits.tissue import tissue
from medxlate.evaluation.results import Audit
from medxlate.images.recipes import Recipe
from medxlate.phantoms.anatomy import Anatomy, draw_anatomy, render

Array = npt.NDArray[Any]
SIZE = 48
SLICES = 5
LOW, HIGH = -300.0, 700.0  # HU
CT = Recipe(kind="ct", window=(200, 1000), unit="HU", output_range=(LOW, HIGH))
AGE = Task(kind="regression", name="age", unit="years")
PEOPLE = {"train": 60, "val": 16, "test": 30}


@dataclass(frozen=True)
class Images:
    """float32 [N, S, S] in [-1, 1] of some anatomies, slice by slice."""

    pixels: Array
    anatomies: list[Anatomy]
    names: str

    def sample(self) -> Sample:
        count = len(self.anatomies)
        who = np.repeat(np.arange(count), SLICES)
        return look(
            [torch.from_numpy(self.pixels).unsqueeze(1)],
            patients=[f"{self.names}{k}" for k in who],
            labels=np.array([self.anatomies[k].age for k in who], dtype=np.float32),
            series=[f"s{k}" for k in who],
            positions=np.tile(np.arange(SLICES), count).tolist(),
        )


def scan(people: list[Anatomy], modality: str, names: str, seed: int) -> Images:
    random = np.random.default_rng(seed)
    made = []
    for each in people:
        for position in np.linspace(0.2, 0.8, SLICES):
            raw = render(each, modality, float(position), size=SIZE, rng=random)
            low, high = (LOW, HIGH) if modality == "ct" else (0.0, 2000.0)
            made.append(np.clip((raw - low) / (high - low), 0, 1) * 2 - 1)
    return Images(np.stack(made).astype(np.float32), people, names)


@dataclass(frozen=True)
class World:
    """Both modalities' patients by part, and the sound translation of the source's test images."""

    source: dict[str, Images]
    target: dict[str, Images]
    sound: Images
    seed: int


def make_world(seed: int, *, source_ages: tuple[float, float] = (20, 88)) -> World:
    random = np.random.default_rng([7, seed])

    def draw(count: int, ages: tuple[float, float]) -> list[Anatomy]:
        return [draw_anatomy(random, age=float(random.uniform(*ages))) for _ in range(count)]

    source, target = {}, {}
    for k, (part, count) in enumerate(PEOPLE.items()):
        ages = source_ages if part == "train" else (20, 88)
        source[part] = scan(draw(count, ages), "mri", f"y{part}", seed * 10 + k)
        target[part] = scan(draw(count, (20, 88)), "ct", f"x{part}", seed * 10 + k + 4)
    sound = scan(source["test"].anatomies, "ct", "ytest", seed * 10 + 9)
    return World(source, target, sound, seed)


def _identity(world: World) -> Array:
    return world.source["test"].pixels


def _within(world: World) -> Array:
    pixels = world.sound.pixels
    return np.where(pixels > -0.9, -pixels, pixels)


def _memorised(world: World) -> Array:
    """For each source patient some training patient, with a little noise."""
    random = np.random.default_rng(world.seed)
    train = world.target["train"].pixels.reshape(-1, SLICES, SIZE, SIZE)
    some = train[random.integers(len(train), size=PEOPLE["test"])].reshape(-1, SIZE, SIZE)
    return np.clip(some + random.normal(0, 0.02, some.shape), -1, 1).astype(np.float32)


def _shuffled(world: World) -> Array:
    """The sound translation of another patient: no image is amiss, every label is."""
    order = np.random.default_rng(world.seed).permutation(PEOPLE["test"])
    return world.sound.pixels.reshape(-1, SLICES, SIZE, SIZE)[order].reshape(-1, SIZE, SIZE)


def _hu_shift(world: World) -> Array:
    return np.clip(world.sound.pixels + 2 * 60 / (HIGH - LOW), -1, 1)  # 60 HU


def _jittery(world: World) -> Array:
    random = np.random.default_rng(world.seed)
    pixels = world.sound.pixels
    slopes = random.normal(0, 0.35, (len(pixels), 1, 1)).astype(np.float32)
    return np.clip((pixels + 1) * (1 + slopes) - 1, -1, 1)


def _checkered(world: World) -> Array:
    """The pattern that transposed convolutions leave."""
    y, x = np.mgrid[:SIZE, :SIZE]
    return np.clip(world.sound.pixels + 0.1 * ((x + y) % 2 * 2 - 1), -1, 1).astype(np.float32)


BROKEN: dict[str, tuple[str, Callable[[World], Array]]] = {  # name: (the audit that must fire, G)
    "identity": ("identity", _identity),
    "inverted": ("inversion", lambda world: -world.sound.pixels),
    "inverted within": ("inversion", _within),
    "memorised": ("memorisation", _memorised),
    "label-shuffled": ("label-preservation", _shuffled),
    "HU shift": ("tissue", _hu_shift),
    "jittery": ("jitter", _jittery),
    "checkerboard": ("domain-gap", _checkered),
}
SOUND: dict[str, Callable[[World], Array]] = {
    "sound": lambda world: world.sound.pixels,
    "sound, smooth": lambda world: np.stack(
        [gaussian_filter(each, 0.3) for each in world.sound.pixels]
    ),
}


def audit(world: World, pixels: Array) -> dict[str, Audit]:
    """Run every audit of a translator that made ``pixels`` of the source's test images."""
    y = {part: images.sample() for part, images in world.source.items()}
    x = {part: images.sample() for part, images in world.target.items()}
    made = replace(world.source["test"], pixels=pixels.astype(np.float32)).sample()
    held, mean = x["test"], x["test"].small.mean(axis=0)
    near, of_held = Neighbours(mean, made.small), Neighbours(mean, held.small)
    for each in (near, of_held):
        each.see(x["train"].small, np.arange(len(x["train"])))
    label = table(y["test"].labels, AGE)
    translated = Answers(
        label,
        probe_source(x["train"], x["val"], made, AGE),  # P: what reads the target's labels
        probe_source(y["train"], y["val"], y["test"], AGE),
        y["test"].patients,
    )
    known = table(held.labels, AGE)
    said = probe_source(x["train"], x["val"], held, AGE)
    real = Answers(known, said, known[:0], held.patients)
    labels = (y["train"].labels, x["train"].labels)
    patients = (y["train"].patients, x["train"].patients)
    found = (
        label_preservation("mri", translated, real, AGE),
        memorisation("mri", made, near.distance, held, of_held.distance),
        prevalence("mri", "ct", labels, patients, AGE),
        domain_gap("mri", y["test"], made, held),
        identity("mri", y["test"], made, held),
        inversion("mri", y["test"], made, held),
        tissue("mri", made, held, CT),
        jitter("mri", y["test"], made, held),
    )
    return {each.kind: each for each in found}
