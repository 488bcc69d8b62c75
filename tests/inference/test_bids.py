"""A BIDS data set becomes a BIDS derivative data set, which BIDS's own validator takes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

import tiny
from medxlate.base.errors import DataError, UsageError
from medxlate.cli.app import app
from medxlate.images.recipes import Recipe
from medxlate.inference.bids import BIDS_VERSION, bids_layout
from medxlate.inference.translate import translate

CT = tiny.AS_IS_16.model_copy(
    update={"kind": "ct", "window": (40.0, 400.0), "unit": "HU", "output_range": (-160.0, 240.0)}
)
IMAGES = [f"sub-0{number}/ses-{session}" for number in (1, 2) for session in "12"]
SECRET = {"AcquisitionDateTime": "1999-01-02T03:04:05", "DeviceSerialNumber": "777123"}


def write_bids(root: Path, *suffixes: str, **about: Any) -> Path:
    """Two subjects, two sessions: an image of each suffix."""
    root.mkdir(parents=True)
    description = {"Name": "Two subjects", "BIDSVersion": "1.9.0", "DatasetType": "raw"}
    (root / "dataset_description.json").write_text(json.dumps(description | about))
    (root / "README").write_text("Generated images.\n" * 20)
    (root / "participants.tsv").write_text("participant_id\tage\nsub-01\t41\nsub-02\t42\n")
    for seed, place in enumerate(IMAGES):
        for suffix in suffixes:
            name = f"{place.replace('/', '_')}_acq-mprage_{suffix}"
            path = root / place / "anat" / f"{name}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            voxels = np.random.default_rng(seed).integers(0, 255, (32, 36, 3)).astype(np.int16)
            image = nibabel.Nifti1Image(voxels, np.diag([1, 1.1, 3, 1]))
            image.header.set_xyzt_units("mm")
            nibabel.save(image, path)
            path.with_name(f"{name}.json").write_text(json.dumps({"SkullStripped": True, **SECRET}))
    return root


def write_model(root: Path, target: str, recipe: Recipe = CT, source: str = "t1") -> Path:
    model = tiny.write_tiny_model(
        root / target, target_recipe=recipe, source_recipe=tiny.AS_IS_16, sources=(source,)
    )
    info = json.loads((model / "model.json").read_text()) | {"target": target}
    (model / "model.json").write_text(json.dumps(info))
    return model


def files(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bids(tmp_path_factory.mktemp("bids") / "ds", "T1w", "T2w")


@pytest.fixture(scope="module")
def out(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = write_model(tmp_path_factory.mktemp("model"), "ct")
    return translate(data, out=data / "derivatives" / "synthetic-ct", model=model).out


def test_images_of_the_source_are_named_as_derivatives(out: Path):
    names = [f"{place}/ct/{place.replace('/', '_')}_acq-mprage" for place in IMAGES]
    expected = [f"{name}_desc-synthetic_ct{end}" for name in names for end in (".json", ".nii.gz")]
    about = [".bidsignore", "README.md", "dataset_description.json", "translation.json"]
    assert files(out) == sorted(expected + about)


def test_the_data_set_says_where_it_comes_from(out: Path):
    about = json.loads((out / "dataset_description.json").read_text())
    assert (about["DatasetType"], about["BIDSVersion"]) == ("derivative", BIDS_VERSION)
    assert about["GeneratedBy"][0]["Name"] == "medxlate"
    assert (out / about["DatasetLinks"]["source"]).resolve() == out.parents[1].resolve()
    assert "synthetic" in (out / "README.md").read_text()


def test_sidecars_hold_provenance_and_nothing_of_the_source(out: Path, data: Path):
    for path in out.rglob("sub-*.json"):
        sidecar = json.loads(path.read_text())
        link, relative = sidecar["Sources"][0].removeprefix("bids:").split(":")
        assert link in json.loads((out / "dataset_description.json").read_text())["DatasetLinks"]
        source, image = data / relative, path.with_suffix(".nii.gz")
        assert sidecar["SpatialReference"] == sidecar["Sources"][0]
        np.testing.assert_array_equal(nibabel.load(image).affine, nibabel.load(source).affine)
        assert path.name.split("_ses-")[0] == source.name.split("_ses-")[0]
        assert sidecar["Synthetic"] is sidecar["SkullStripped"] is True
        assert len(sidecar["GeneratorSHA256"]) == 64
        assert "Synthetic ct" in sidecar["Description"]
        assert sidecar["Units"] == "HU"
    everything = b"".join(path.read_bytes() for path in out.rglob("*.json"))
    for secret in SECRET.values():
        assert secret.encode() not in everything


def test_a_second_translation_does_not_translate_the_first(out: Path, data: Path, tmp_path: Path):
    model = write_model(tmp_path, "flair", tiny.AS_IS_16)
    other = translate(data, out=data / "derivatives" / "other", model=model)
    assert other.files == len(IMAGES)
    assert all("/anat/" in name for name in files(other.out) if name.startswith("sub-"))
    with pytest.raises(UsageError, match="overlap"):
        translate(data, out=data / "other", model=model)
    with pytest.raises(UsageError, match="overlap"):
        translate(data, out=data / "derivatives" / "x", model=model, bids=False)


@pytest.mark.parametrize("target", ["ct", "flair", "pet"])
def test_the_validator_of_bids_takes_it(target: str, data: Path, tmp_path: Path):
    beside = Path(sys.executable).with_name("bids-validator-deno")
    validator = shutil.which(beside) or shutil.which("bids-validator-deno")
    if validator is None:
        pytest.skip("bids-validator-deno is not installed")
    recipe = CT if target == "ct" else tiny.AS_IS_16
    made = translate(data, out=tmp_path / "out", model=write_model(tmp_path, target, recipe))
    done = subprocess.run(
        [validator, "--format", "json", made.out], capture_output=True, text=True, check=False
    )
    issues = json.loads(done.stdout)["issues"]["issues"]
    assert [each for each in issues if each["severity"] == "error"] == []
    assert {each["code"] for each in issues} <= {"TOO_FEW_AUTHORS"}
    assert done.returncode == 0
    (made.out / "sub-01" / "ses-1" / "wrong.txt").touch()
    again = subprocess.run([validator, made.out], capture_output=True, check=False)
    assert again.returncode != 0, "the validator finds nothing wrong with anything"


def test_what_pet_has_no_name_for_is_left_out_and_must_not_collide(data: Path, tmp_path: Path):
    layout = bids_layout(data, source="t1", target="pet")
    model = write_model(tmp_path, "pet", tiny.AS_IS_16)
    made = translate(data, out=tmp_path / "out", model=model)
    assert "sub-01/ses-1/pet/sub-01_ses-1_desc-synthetic_pet.nii.gz" in files(made.out)
    copy = tmp_path / "ds"
    shutil.copytree(data, copy)
    first = copy / "sub-01/ses-1/anat/sub-01_ses-1_acq-mprage_T1w.nii.gz"
    shutil.copy(first, first.with_name("sub-01_ses-1_acq-other_T1w.nii.gz"))
    with pytest.raises(UsageError, match="would both become sub-01/ses-1/pet/"):
        translate(copy, out=tmp_path / "again", model=model)
    assert layout.folder == "pet"


def test_which_images_are_the_source(tmp_path: Path):
    one = write_bids(tmp_path / "one", "T2w")
    assert bids_layout(one, source="mri", target="ct").include == (
        "sub-*/**/*_T2w.nii",
        "sub-*/**/*_T2w.nii.gz",
    )
    two = write_bids(tmp_path / "two", "T1w", "T2w")
    with pytest.raises(UsageError, match="are mri: it holds T1w, T2w"):
        bids_layout(two, source="mri", target="ct")
    wanted = bids_layout(two, source="mri", target="ct", include=["*_T1w.nii.gz"])
    assert wanted.include == ("*_T1w.nii.gz",)


def test_what_the_target_is_called(data: Path):
    assert bids_layout(data, source="t1", target="T2-w").suffix == "T2w"
    with pytest.raises(UsageError, match="--bids-suffix"):
        bids_layout(data, source="t1", target="mri")
    assert bids_layout(data, source="t1", target="mri", suffix="FLAIR").suffix == "FLAIR"


def test_a_doi_is_the_source_where_there_is_one(tmp_path: Path):
    root = write_bids(tmp_path / "ds", "T1w", DatasetDOI="doi:10.1234/x")
    made = translate(root, out=tmp_path / "out", model=write_model(tmp_path, "ct"))
    about = json.loads((made.out / "dataset_description.json").read_text())
    assert about["SourceDatasets"] == [{"DOI": "doi:10.1234/x"}]
    assert about["DatasetLinks"] == {"source": "https://doi.org/10.1234/x"}


def test_the_command_chooses_and_no_bids_leaves_the_tree(data: Path, tmp_path: Path):
    def call(*words: object) -> Any:
        return CliRunner().invoke(app, [str(word) for word in words])

    model = write_model(tmp_path, "ct")
    words = ["translate", data, "--model", model]
    done = call(*words, "-o", tmp_path / "same", "--no-bids", "--include", "*_T1w.nii.gz")
    assert done.exit_code == 0, done.output
    assert len([name for name in files(tmp_path / "same") if "_T1w.nii.gz" in name]) >= len(IMAGES)
    assert not (tmp_path / "same" / "dataset_description.json").exists()
    done = call(*words, "-o", tmp_path / "as-t2", "--bids-suffix", "T2w")
    assert "sub-01/ses-1/anat/sub-01_ses-1_acq-mprage_desc-synthetic_T2w.json" in files(
        tmp_path / "as-t2"
    )
    (tmp_path / "plain").mkdir()
    refused = call(
        "translate", tmp_path / "plain", "--bids", "-o", tmp_path / "x", "--model", model
    )
    assert (refused.exit_code, "--no-bids" in refused.stderr) == (1, True)
    with pytest.raises(DataError, match="dataset_description"):
        bids_layout(tmp_path / "plain", source="t1", target="ct")
