"""A tiny generated data set and a tiny model folder for the tests.

Two modalities, ``mri`` and ``ct``, of 12 patients each, of whom two have both; two slices a
patient; a bright disc grows with the age. Patients carry a name that must never leave the dataset.
Whoever imports this computes on one thread: at this size more threads only wait for each other,
for seconds a step where other processes are busy.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import torch

from medxlate.artifacts.folder import write_model, write_weights
from medxlate.artifacts.info import ModelInfo, PredictorInfo, TranslatorInfo
from medxlate.config import Config, Skip, Upsample, resolve
from medxlate.dataset.labels import Task, TaskKind
from medxlate.dataset.options import PrepareOptions
from medxlate.dataset.prepare import prepare
from medxlate.images.recipes import Recipe
from medxlate.method.generator import Generator
from medxlate.method.label_transform import LabelTransform
from medxlate.method.predictor import PredictorNetwork

torch.set_num_threads(1)

SIZE = 32
PREFIX = "Zebrowski"  # begins every patient's name
PATIENTS: Mapping[str, range] = {"mri": range(0, 12), "ct": range(10, 22)}  # 10 and 11 have both
BOTH = (10, 11)
KEY = "5a" * 32  # of the pseudonyms, and so of the split
AGE = Task(kind="regression", name="age", unit="years")
GROUP = Task(kind="classification", name="group", classes=("middle", "old", "young"))
AS_IS = Recipe(kind="as-is", bits=8, output_range=(0.0, 255.0))
AS_IS_16 = Recipe(kind="as-is", bits=16, output_range=(0.0, 65535.0))


def patient_name(number: int) -> str:
    return f"{PREFIX}{number:02d}"


def age_of(number: int) -> float:
    return 20.5 + 3 * number


def group_of(number: int) -> str:
    return GROUP.classes[number % 3]


def write_raw(root: Path) -> None:
    """Write ``root/<modality>/<patient>-<slice>.png`` and ``root/labels.csv``."""
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    for which, (modality, numbers) in enumerate(PATIENTS.items()):
        (root / modality).mkdir(parents=True)
        for number in numbers:
            for cut in range(2):
                random = np.random.default_rng([which, number, cut])
                disc = np.hypot(x - 0.1 * cut, y) < 0.3 + age_of(number) / 200
                pixels = 60 + 120 * (disc if modality == "mri" else ~disc)
                pixels = pixels + random.normal(0, 12, pixels.shape)
                image = PIL.Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
                image.save(root / modality / f"{patient_name(number)}-{cut}.png")
    everyone = sorted({number for numbers in PATIENTS.values() for number in numbers})
    lines = [f"{patient_name(n)},{age_of(n)},{group_of(n)}" for n in everyone]
    (root / "labels.csv").write_text("\n".join(["patient,age,group", *lines]) + "\n")


def write_dataset(root: Path, kind: TaskKind = "regression") -> Path:
    """Write ``root/raw`` and prepare it; return the dataset folder ``root/data``."""
    write_raw(root / "raw")
    data = root / "data"
    data.mkdir()
    (data / "pseudonym.key").write_text(KEY)
    options = PrepareOptions(
        labels=root / "raw" / "labels.csv",
        label="age" if kind == "regression" else "group",
        patient=rf"regex:({PREFIX}\d\d)",
        patient_column="patient",
        task=kind,
    )
    for modality in PATIENTS:
        prepare(root / "raw" / modality, modality=modality, data=data, options=options, size=SIZE)
    return data


def debug_config(data: Path, /, **sections: Any) -> Config:
    """Return preset debug on the CPU, mri to ct, with some keys changed.

    Sources are divided like the target: of so few patients, both sides get some to look at.
    """
    values: dict[str, Any] = {
        "data": {"folder": str(data), "sources": ["mri"], "target": "ct"},
        "split": {"seed": 0, "sources": "divided"},
        "runtime": {"device": "cpu"},
    }
    for name, section in sections.items():
        if isinstance(section, Mapping):
            values[name] = {**values.get(name, {}), **section}
        else:
            values[name] = section
    return resolve(preset="debug", overrides=values)


def write_tiny_model(
    root: Path,
    *,
    task: Task = AGE,
    source_recipe: Recipe = AS_IS,
    target_recipe: Recipe = AS_IS_16,
    sources: tuple[str, ...] = ("mri",),
    upsample: Upsample = "transposed",
    skip: Skip = "none",
) -> Path:
    """Write a model folder with random weights; return ``root/model``."""
    torch.manual_seed(11)
    root.mkdir(parents=True, exist_ok=True)
    head = LabelTransform(task=task)
    if task.kind == "regression":
        head = LabelTransform(task=task, mean=50.0, std=12.0, span=(age_of(0), age_of(21)))
    network = PredictorNetwork(architecture="test_resnet", outputs=head.outputs)
    predictor = PredictorInfo(
        architecture="test_resnet",
        head=head,
        weights=write_weights(root, "predictor.safetensors", network.state_dict(), step=5),
    )
    translators = {}
    for source in sources:
        state = Generator(width=8, blocks=2, upsample=upsample, skip=skip).state_dict()
        state = {name: value * 5 for name, value in state.items()}  # visibly not grey
        translators[source] = TranslatorInfo(
            recipe=source_recipe,
            width=8,
            blocks=2,
            upsample=upsample,
            skip=skip,
            weights=write_weights(root, f"translator-{source}.safetensors", state, step=7),
        )
    info = ModelInfo(
        medxlate="0",
        method="joint",
        prepared_size=SIZE,
        image_size=SIZE,
        target="ct",
        target_recipe=target_recipe,
        translators=translators,
        predictor=predictor,
    )
    write_model(root / "model", info, weights_from=root, card="# Tiny\n")
    return root / "model"


def noise(height: int, width: int, *, seed: int, bits: int = 8) -> npt.NDArray[Any]:
    """Return random pixels that reach both ends of the range."""
    top = 2**bits - 1
    pixels = np.random.default_rng(seed).integers(0, top + 1, (height, width))
    pixels[0, 0], pixels[0, 1] = 0, top
    return pixels.astype(np.uint8 if bits == 8 else np.uint16)


def save(path: Path, pixels: npt.NDArray[Any]) -> Path:
    """Write an image file, by its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(path)
    return path
