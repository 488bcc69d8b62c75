"""Figures of slices that exist in both modalities, and which those are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from medxlate.dataset.options import PrepareOptions
from medxlate.dataset.prepare import prepare
from medxlate.evaluation.evaluate import evaluate
from medxlate.evaluation.paired import SAME_FILE, SAME_PLACE, find_pairs, similarity
from medxlate.images.recipes import to_network
from medxlate.inference.engine import run as run_network
from medxlate.inference.translate import Translator
from medxlate.training.train import train
from tiny import debug_config


def table(rows: list[tuple[str, int, int, str]]) -> pd.DataFrame:
    found = pd.DataFrame(rows, columns=["patient", "series", "position", "file"])
    return found.assign(height=8, width=8)


def test_figures_are_those_of_scikit_image() -> None:
    torch.manual_seed(0)
    reals = torch.rand(3, 1, 48, 48) * 2 - 1
    fakes = (reals + 0.2 * torch.randn_like(reals)).clamp(-1, 1)
    found = similarity(fakes, reals)
    for row, fake, real in zip(found, fakes[:, 0].double(), reals[:, 0].double(), strict=True):
        a, b = fake.numpy(), real.numpy()
        ssim = structural_similarity(
            a, b, data_range=2.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        wanted = [peak_signal_noise_ratio(b, a, data_range=2.0), ssim, np.abs(a - b).mean()]
        assert row == pytest.approx(wanted, rel=1e-4)


def test_equal_images_have_a_finite_figure() -> None:
    same = torch.zeros(1, 1, 16, 16)
    assert similarity(same, same)[0] == pytest.approx([100.0, 1.0, 0.0])


def test_pairs_by_file() -> None:
    source = table([("p", 0, 0, "a.tif"), ("p", 1, 0, "b.tif"), ("q", 2, 0, "c.tif")])
    target = table([("p", 0, 0, "b.tif"), ("r", 1, 0, "a.tif"), ("q", 2, 1, "c.tif")])
    pairs = find_pairs(source, target)
    assert pairs is not None
    assert (pairs.source, pairs.target, pairs.rule) == ([1, 2], [0, 2], SAME_FILE)


def test_files_of_several_slices_pair_slice_by_slice() -> None:
    source = table([("p", 0, i, "a.nii") for i in range(3)])
    target = table([("p", 0, i, "a.nii") for i in (2, 1, 3)])
    pairs = find_pairs(source, target)
    assert pairs is not None
    assert sorted(zip(pairs.source, pairs.target, strict=True)) == [(1, 1), (2, 0)]


def test_pictures_of_a_volume_pair_by_file_wherever_its_first_slice_is() -> None:
    source = table([("p", 0, i, f"{i}.png") for i in range(5)])
    target = table([("p", 0, i, f"{i + 1}.png") for i in range(5)])
    pairs = find_pairs(source, target)
    assert pairs is not None
    assert (pairs.source, pairs.target, pairs.rule) == ([1, 2, 3, 4], [0, 1, 2, 3], SAME_FILE)


def test_pairs_by_place_need_one_series_of_equal_shape_each() -> None:
    t1 = [("p", 0, i, "p_t1.nii") for i in range(3)]
    t2 = [("p", 0, i, "p_t2.nii") for i in range(3)]
    pairs = find_pairs(table(t1), table(t2[::-1]))
    assert pairs is not None
    assert (pairs.source, pairs.target, pairs.rule) == ([0, 1, 2], [2, 1, 0], SAME_PLACE)
    assert find_pairs(table(t1), table([*t2, ("p", 0, 3, "p_t2.nii")])) is None
    assert find_pairs(table(t1), table([(n, i, 0, f) for i, (n, _, _, f) in enumerate(t2)])) is None
    assert find_pairs(table(t1), table(t2).assign(width=9)) is None


def test_evaluate_compares_slices_of_patients_who_have_both(tmp_path: Path) -> None:
    """The target is the source's negative: what G makes of it is compared with the truth."""
    random = np.random.default_rng(0)
    for name in ("mri", "ct"):
        (tmp_path / name).mkdir()
    lines = ["patient,age"]
    for patient in range(14):
        lines.append(f"p{patient:02d},{30 + patient}")
        pixels = np.clip(random.normal(60 + 8 * patient, 20, (32, 32)), 0, 255).astype(np.uint8)
        for name, shown in (("mri", pixels), ("ct", 255 - pixels)):
            PIL.Image.fromarray(shown).save(tmp_path / name / f"p{patient:02d}.png")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    options = PrepareOptions(
        labels=tmp_path / "labels.csv", label="age", patient=r"regex:(p\d\d)",
        patient_column="patient",
    )  # fmt: skip
    for name in ("mri", "ct"):
        prepare(tmp_path / name, modality=name, data=tmp_path / "data", options=options, size=32)
    run = train(
        debug_config(tmp_path / "data", optimizer={"epochs": 1}), runs=tmp_path / "runs"
    ).run
    result = evaluate(run, metrics=["paired_mae", "paired_psnr"], device="cpu")
    assert not result.missing
    (mae,) = [m for m in result.results.metrics if m.name == "paired_mae"]
    split = json.loads((run / "split.json").read_text())
    slices = {n: pd.read_parquet(tmp_path / "data" / n / "slices.parquet") for n in ("mri", "ct")}
    test = slices["mri"][slices["mri"]["patient"].isin(split["patients"]["test"])]
    assert mae.n == len(test)
    translator, errors = Translator.load(run), []
    shards = {n: np.load(tmp_path / "data" / n / "shards" / "00000.npy") for n in ("mri", "ct")}
    for file in test["file"]:
        y, x = (
            to_network(shards[n][int(slices[n].set_index("file").loc[file, "row"])], 32)
            for n in ("mri", "ct")
        )
        images = torch.from_numpy(y)[None, None]
        made = run_network(translator.network, [images], compute=translator.compute)
        errors.append(np.abs(made[0, 0].numpy() - x).mean())
    recipe = translator.info.target_recipe
    low, high = recipe.output_range
    assert mae.value == pytest.approx(np.mean(errors) * (high - low) / 2, rel=1e-4)
    assert mae.unit == recipe.unit
    assert SAME_FILE in mae.notes[0]
