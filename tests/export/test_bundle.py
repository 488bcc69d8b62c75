"""A bundle passes MONAI's own checks, and MONAI translates with it as `translate` does."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import tiny
from medxlate import Translator, export_bundle
from medxlate.artifacts.info import read_model
from medxlate.base.errors import ImageError, ModelError, OutputError, UsageError
from medxlate.base.files import write_json
from medxlate.cli.app import app
from medxlate.export.bundle import INFERENCE, METADATA, MONAI, PACKAGES
from medxlate.images.recipes import Recipe
from medxlate.inference.bundle import Inferer, images, network
from medxlate.inference.translate import translate

pytestmark = pytest.mark.filterwarnings("ignore")  # MONAI warns of its own dependencies
ROOT = Path(__file__).resolve().parents[2]
MR = Recipe(kind="mr", percentiles=(0.5, 99.5), output_range=(0.0, 1000.0))
CT = Recipe(kind="ct", window=(40, 400), unit="HU", output_range=(-160.0, 240.0))
# What MONAI's bundle specification demands of metadata.json, in the words of JSON schema; the
# published schema, which verify_metadata would download, demands the same.
TEXT, OBJECT = {"type": "string"}, {"type": "object"}
TENSOR = {
    "type": "object",
    "properties": {
        **dict.fromkeys(("type", "format", "dtype"), TEXT),
        "num_channels": {"type": "integer"},
        "spatial_shape": {"type": "array", "items": {"type": ["string", "integer"]}},
        "value_range": {"type": "array", "items": {"type": "number"}},
        "is_patch_data": {"type": "boolean"},
        "channel_def": OBJECT,
    },
    "required": ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range"],
}
TENSORS = {"type": "object", "additionalProperties": TENSOR, "minProperties": 1}
TEXTS = ("schema", "version", "monai_version", "pytorch_version", "numpy_version")
TEXTS = (*TEXTS, "task", "description", "authors", "copyright")
FORMAT = {
    "type": "object",
    "properties": dict.fromkeys(("inputs", "outputs", "post_processed_outputs"), TENSORS),
    "required": ["inputs", "outputs"],
}
SCHEMA = {
    "type": "object",
    "properties": {
        **dict.fromkeys(TEXTS, TEXT),
        **dict.fromkeys(("required_packages_version", "changelog"), OBJECT),
        "network_data_format": FORMAT,
    },
    "required": [*TEXTS, "required_packages_version", "network_data_format"],
}


@pytest.fixture(scope="module")
def monai() -> ModuleType:
    pytest.importorskip("ignite", reason="pytorch-ignite is not installed")
    pytest.importorskip("fire", reason="fire is not installed")
    pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    pytest.importorskip("monai", reason="MONAI is not installed")
    import monai.bundle

    return monai


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return tiny.write_tiny_model(folder, source_recipe=MR, target_recipe=CT)


@pytest.fixture(scope="module")
def bundle(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundle") / "mri-to-ct"
    export_bundle(model, out=out, license_="apache-2.0", authors="The lab")
    return out


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two volumes, one in a folder below, stored differently."""
    folder = tmp_path_factory.mktemp("scans")
    (folder / "more").mkdir()
    for number, name in enumerate(("a.nii.gz", "more/b.nii")):
        values = np.random.default_rng(number).integers(0, 900, (20, 24, 8 + number))
        affine = np.diag([(-1) ** number * 2.0, 1.5, 3, 1])
        nibabel.save(nibabel.Nifti1Image(values.astype(np.int16), affine), folder / name)
    return folder


@pytest.fixture(scope="module")
def expected(model: Path, scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("expected") / "out"
    translate(scans, out=out, model=model, device="cpu")
    return out


def check_same(found: Path, expected: Path) -> None:
    one, two = nibabel.load(found), nibabel.load(expected)
    assert one.get_data_dtype() == two.get_data_dtype() == np.int16
    assert np.array_equal(np.asarray(one.dataobj), np.asarray(two.dataobj))
    assert np.allclose(one.affine, two.affine, atol=1e-5)
    assert one.header["descrip"] == two.header["descrip"]
    assert bytes(one.header["descrip"]).startswith(b"SYNTHETIC ct from mri")
    assert one.header["sform_code"] == two.header["sform_code"]


def test_the_command_in_its_readme_translates_as_medxlate_does(
    monai: ModuleType, bundle: Path, scans: Path, expected: Path, tmp_path: Path
) -> None:
    readme = (bundle / "docs" / "README.md").read_text().replace("\\\n", "")
    (line,) = re.findall(r"^python (-m monai\.bundle run .*)$", readme, re.MULTILINE)
    words = shlex.split(line.replace("IMAGES", str(scans)).replace("OUT", str(tmp_path / "out")))
    path = {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *words], cwd=bundle, env=path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    check_same(tmp_path / "out" / "a.nii.gz", expected / "a.nii.gz")
    check_same(tmp_path / "out" / "more" / "b.nii.gz", expected / "more" / "b.nii")


def test_the_command_line_writes_it_and_monai_verifies_it(
    monai: ModuleType, model: Path, tmp_path: Path
) -> None:
    """By its metadata, by the network's shapes, and by what a workflow must offer."""
    out = tmp_path / "bundle"
    words = ["export", "bundle", str(model), "--out", str(out), "--license", "mit", "--json"]
    done = CliRunner().invoke(app, [*words, "--authors", "The lab"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["source"] == "mri"
    write_json(tmp_path / "schema.json", SCHEMA)
    given = {"meta_file": str(out / METADATA), "config_file": str(out / INFERENCE)}
    verify, schema = monai.bundle.verify_metadata, str(tmp_path / "schema.json")
    verify(meta_file=given["meta_file"], filepath=schema)
    metadata = json.loads((out / METADATA).read_text())
    assert metadata["copyright"] == "Copyright (c) The lab"
    del metadata["network_data_format"]["inputs"]["image"]["dtype"]
    write_json(tmp_path / "wrong.json", metadata)
    with pytest.raises(ValueError, match="Failed validating"):
        verify(meta_file=str(tmp_path / "wrong.json"), filepath=schema)
    monai.bundle.verify_net_in_out("network_def", **given, device="cpu", bundle_root=str(out))
    (tmp_path / "images").mkdir()
    nibabel.save(nibabel.Nifti1Image(np.ones((4, 4, 4)), np.eye(4)), tmp_path / "images" / "a.nii")
    workflow = monai.bundle.create_workflow(
        **given, workflow_type="infer", bundle_root=str(out), dataset_dir=str(tmp_path / "images")
    )
    workflow.initialize()
    assert workflow.check_properties() == []


def test_images_of_a_batch_have_their_own_geometry(
    monai: ModuleType, bundle: Path, scans: Path, expected: Path
) -> None:
    """The two volumes of one batch, the second turned; padded alike, for a batch has one shape."""
    load = monai.transforms.LoadImaged("image", image_only=True, ensure_channel_first=True)
    one = load({"image": scans / "a.nii.gz"})["image"]
    two = monai.transforms.Orientation("LPS", labels=None)(one)
    batch = monai.data.utils.list_data_collate([{"image": one}, {"image": two}])["image"]
    found = Inferer(bundle / "models")(batch, network(bundle / "models"))
    truth = np.asarray(nibabel.load(expected / "a.nii.gz").dataobj)
    assert np.array_equal(np.asarray(found[0, 0]), truth)
    turned = monai.transforms.Orientation("RAS", labels=None)(found[1])
    assert np.array_equal(np.asarray(turned[0]), truth)
    assert batch.max() > 500  # as it was


def test_the_inferer_computes_with_the_network_that_it_is_given(
    monai: ModuleType, bundle: Path
) -> None:
    volume = monai.data.MetaTensor(torch.rand(1, 1, 20, 24, 4), affine=torch.eye(4)[None])
    black = torch.nn.Hardtanh(-1, -1 + 1e-9)
    assert (Inferer(bundle / "models")(volume, black) == CT.output_range[0]).all()


# Whether MONAI is there or not


def test_it_holds_no_pickle_and_medxlate_opens_it(bundle: Path, model: Path) -> None:
    files = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert files == {
        "LICENSE", "configs/inference.json", "configs/metadata.json", "docs/README.md",
        "models/model.json", "models/model.safetensors",
    }  # fmt: skip
    info = read_model(bundle / "models")
    assert info.predictor is None
    volume = np.random.default_rng(0).random((3, 20, 24)) * 900
    again, before = Translator.load(bundle / "models"), Translator.load(model)
    assert np.array_equal(again(volume), before(volume))
    assert (bundle / "LICENSE").read_text() == "SPDX-License-Identifier: apache-2.0\n"
    assert "**Not for diagnosis**" in (bundle / "docs" / "README.md").read_text()


def test_the_versions_are_those_that_are_tested() -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    named = {"monai": MONAI, **PACKAGES}
    assert {name: pins[name] for name in named} == named


def test_what_cannot_be_a_bundle_is_refused(tmp_path: Path, bundle: Path) -> None:
    def export(model: Path, **options: Any) -> None:
        export_bundle(model, out=tmp_path / "out", **{"license_": "mit", **options})

    several = tiny.write_tiny_model(tmp_path, sources=("mri", "pet"))
    with pytest.raises(ModelError, match="--source"):
        export(several)
    with pytest.raises(UsageError, match="license"):
        export(several, source="pet", license_="My own")
    export(several, source="pet")
    assert list(read_model(tmp_path / "out" / "models").translators) == ["pet"]
    with pytest.raises(OutputError, match="not empty"):
        export(several, source="mri")
    export(several, source="mri", overwrite=True)
    (several / "translator-mri.safetensors").write_bytes(b"damaged")
    with pytest.raises(ModelError, match="damaged"):
        export(several, source="mri", overwrite=True)
    with pytest.raises(ImageError, match="--dataset_dir"):
        images(bundle)
    refused = CliRunner().invoke(app, ["export", "bundle", str(several), "--out", "out"])
    assert (refused.exit_code, "--license" in refused.output) == (2, True)
