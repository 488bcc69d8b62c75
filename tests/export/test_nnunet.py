"""nnU-Net itself checks, plans and preprocesses what `export nnunet` writes.

It needs an environment of its own, which ``.ci/nnunet`` makes; ``test_hand_over.py`` checks the
same layout without it.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import nibabel
import numpy as np
import pytest

import tiny
from medxlate import export_nnunet, translate

pytestmark = pytest.mark.nightly
COMMAND = "nnUNetv2_plan_and_preprocess"
WINDOW = {"kind": "ct", "window": (40.0, 400.0), "unit": "HU", "output_range": (-160.0, 240.0)}
CT = tiny.AS_IS_16.model_copy(update=WINDOW)


def plan(raw: Path, number: int) -> subprocess.CompletedProcess[str]:
    """Let nnU-Net check and preprocess a data set, in one process."""
    tools = os.environ.get("MEDXLATE_NNUNET")
    if tools is None:
        pytest.skip("nnU-Net is in an environment of its own: .ci/nnunet")
    folders = {name: str(raw.parent / name) for name in ("nnUNet_preprocessed", "nnUNet_results")}
    words = ["-d", str(number), "--verify_dataset_integrity", "-c", "2d", "-npfp", "1", "-np", "1"]
    return subprocess.run(
        [Path(tools) / COMMAND, *words],
        env={**os.environ, "nnUNet_raw": str(raw), **folders, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_nnunet_takes_translated_and_real_volumes(tmp_path: Path):
    affine = np.diag([-1.0, 1.0, 2.0, 1.0])
    x, y, z = np.mgrid[:64, :64, :16]
    for number in range(6):
        lesion = (np.hypot(x - 20 - 4 * number, y - 30) + abs(z - 8) < 12).astype(np.uint8)
        noise = np.random.default_rng(number).normal(80, 20, lesion.shape) + 60 * lesion
        kind = "mri" if number < 4 else "ct"
        for folder, voxels in ((kind, noise.astype(np.int16)), (f"{kind}-masks", lesion)):
            (tmp_path / folder).mkdir(exist_ok=True)
            image = nibabel.Nifti1Image(voxels, affine)
            nibabel.save(image, tmp_path / folder / f"{number}.nii.gz")
    model = tiny.write_tiny_model(tmp_path, target_recipe=CT)
    translate(tmp_path / "mri", out=tmp_path / "fake", model=model)
    out = tmp_path / "nnUNet_raw" / "Dataset501_Both"
    export_nnunet(
        [tmp_path / "fake", tmp_path / "ct"],
        out=out,
        masks=[tmp_path / "mri-masks", tmp_path / "ct-masks"],
    )
    done = plan(out.parent, 501)
    assert done.returncode == 0, done.stderr
    assert "verify_dataset_integrity Done." in done.stdout
    folder = tmp_path / "nnUNet_preprocessed" / out.name
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    assert plans["configurations"]["2d"]["normalization_schemes"] == ["CTNormalization"]
    kept = {path.stem for path in (folder / "nnUNetPlans_2d").glob("*.pkl")}
    (first, *_) = json.loads((out / "splits_final.json").read_text())
    assert {*first["train"], *first["val"]} <= kept
    mask = nibabel.load(out / "labelsTr" / "real_0001.nii.gz")
    cut = nibabel.Nifti1Image(np.asarray(mask.dataobj)[:-1], mask.affine)
    nibabel.save(cut, out / "labelsTr" / "real_0001.nii.gz")
    broken = plan(out.parent, 501)
    assert broken.returncode != 0, "nnU-Net finds nothing wrong with anything"


def test_nnunet_takes_single_pictures(tmp_path: Path):
    for number in range(5):
        tiny.save(tmp_path / "mri" / f"{number}.png", tiny.noise(64, 48, seed=number))
        mask = np.zeros((64, 48), np.uint8)
        mask[8 + number : 30, 10:25] = 255
        tiny.save(tmp_path / "masks" / f"{number}_mask.png", mask)
    model = tiny.write_tiny_model(tmp_path, target_recipe=CT)
    translate(tmp_path / "mri", out=tmp_path / "fake", model=model)
    out = tmp_path / "nnUNet_raw" / "Dataset502_Pictures"
    export_nnunet([tmp_path / "fake"], out=out, masks=[tmp_path / "masks"])
    done = plan(out.parent, 502)
    assert done.returncode == 0, done.stderr
    assert "verify_dataset_integrity Done." in done.stdout
