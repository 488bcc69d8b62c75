"""`Translated` gives in MONAI and TorchIO what `translate` writes."""

from __future__ import annotations

import copy
import pickle
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel
import numpy as np
import PIL.Image
import pydicom
import pytest
import torch

import tiny
from medxlate import Translated
from medxlate.base.errors import ImageError, ModelError, UsageError
from medxlate.images.dicom.write import write_dicom
from medxlate.images.recipes import Recipe
from medxlate.inference.translate import translate

pytestmark = pytest.mark.filterwarnings("ignore")  # both libraries warn of their own dependencies
ROOT = Path(__file__).resolve().parents[2]
MR = Recipe(kind="mr", percentiles=(0.5, 99.5), plane="coronal", output_range=(0.0, 1000.0))
CT = Recipe(kind="ct", window=(40, 400), unit="HU", output_range=(-160.0, 240.0))
# Voxels run to the back, to the feet and to the right, 2, 1.5 and 3 mm apart, slightly tilted.
AXES = np.array([[0, 0, 3.0], [-2, 0, 0], [0, -1.5, 0]])
TILT = np.array([[1, 0, 0], [0, np.cos(0.1), -np.sin(0.1)], [0, np.sin(0.1), np.cos(0.1)]])


@pytest.fixture(scope="module")
def monai() -> ModuleType:
    return pytest.importorskip("monai", reason="MONAI is not installed")


@pytest.fixture(scope="module")
def torchio() -> ModuleType:
    return pytest.importorskip("torchio", reason="TorchIO is not installed")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """From MR, cut coronally, to CT in HU; treat it as read-only."""
    folder = tmp_path_factory.mktemp("model")
    return tiny.write_tiny_model(folder, source_recipe=MR, target_recipe=CT)


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A NIfTI volume of [20, 24, 16] voxels, stored in none of the orientations of a plane."""
    x, y, z = np.mgrid[0:20, 0:24, 0:16]
    values = 500 + 300 * np.sin(x / 3) * np.cos(y / 4) + 20 * z + 5 * (x > 9)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = TILT @ AXES, (-30, 20, 10)
    path = tmp_path_factory.mktemp("scan") / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(values.astype(np.int16), affine), path)
    return path


@pytest.fixture(scope="module")
def expected(model: Path, scan: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What `translate` writes: int16 HU [20, 24, 16]."""
    out = tmp_path_factory.mktemp("expected") / "out"
    translate(scan, out=out, model=model, device="cpu")
    return nibabel.load(out / scan.name)


def in_hu(image: torch.Tensor) -> np.ndarray[Any, Any]:
    """Whole HU [X, Y, Z], as files hold them."""
    assert image.dtype == torch.float32
    assert image.shape[0] == 1
    return np.rint(np.asarray(image)[0]).astype(np.int16)


# MONAI


def loading(monai: ModuleType, *more: Any) -> Any:
    first = monai.transforms.LoadImaged(keys="image", image_only=True, ensure_channel_first=True)
    return monai.transforms.Compose([first, *more])


def test_monai_gives_what_translate_writes(
    monai: ModuleType, model: Path, scan: Path, expected: Any
) -> None:
    """Bit for bit, but for the rounding to whole HU that only files have."""
    pipeline = loading(monai, Translated("image", model, device="cpu"))
    image = pipeline({"image": scan, "age": 50})["image"]
    assert np.array_equal(in_hu(image), np.asarray(expected.dataobj))
    assert np.allclose(image.affine, expected.affine, atol=1e-5)
    assert image.meta["medxlate"].startswith("SYNTHETIC ct from mri")
    assert len(np.unique(in_hu(image))) > 20  # not one grey


def test_it_leaves_what_it_was_given(monai: ModuleType, model: Path, scan: Path) -> None:
    entry = loading(monai)({"image": scan})
    before = {"pixels": entry["image"].clone(), "meta": copy.deepcopy(dict(entry["image"].meta))}
    done = Translated(["image"], model, device="cpu")(entry)
    assert done is not entry
    assert torch.equal(entry["image"], before["pixels"])
    assert set(entry["image"].meta) == set(before["meta"])
    assert set(done["image"].meta) == {*before["meta"], "medxlate"}


def test_orientation_does_not_matter(
    monai: ModuleType, model: Path, scan: Path, expected: Any
) -> None:
    """Turned before and turned back afterwards: the affine is followed, not the axes."""
    turned = monai.transforms.Orientationd(keys="image", axcodes="SAR", labels=None)
    pipeline = loading(monai, turned, Translated("image", model, device="cpu"))
    back = monai.transforms.Orientationd(keys="image", axcodes="PIR", labels=None)
    image = back(pipeline({"image": scan}))["image"]
    assert nibabel.aff2axcodes(expected.affine) == ("P", "I", "R")
    assert np.array_equal(in_hu(image), np.asarray(expected.dataobj))


def test_an_affine_in_lps_is_understood(
    monai: ModuleType, model: Path, scan: Path, expected: Any
) -> None:
    image = loading(monai)({"image": scan})["image"]
    image.affine = np.diag([-1.0, -1, 1, 1]) @ np.asarray(image.affine)
    image.meta["space"] = "LPS"
    found = Translated("image", model, device="cpu")({"image": image})["image"]
    assert np.array_equal(in_hu(found), np.asarray(expected.dataobj))


def test_a_dicom_series_as_well(monai: ModuleType, tmp_path: Path) -> None:
    """A folder of slices, as MONAI's own reader stacks them, against the derived series."""
    model = tiny.write_tiny_model(
        tmp_path, source_recipe=MR.model_copy(update={"plane": "axial"}), target_recipe=CT
    )
    y, x = np.mgrid[:24, :20]
    for n in range(4):
        pixels = (500 + 400 * np.sin(x / 5 + n) * np.cos(y / 7)).astype(np.uint16)
        shared = {"SeriesInstanceUID": "1.2.3.7", "PixelSpacing": [2, 1.5], "InstanceNumber": n + 1}
        place = {"ImagePositionPatient": [5, -9, -4.5 * n]}
        place["ImageOrientationPatient"] = [1, 0, 0, 0, 1, 0]
        attributes = {"PatientID": "P1", **shared, **place}
        write_dicom(tmp_path / "mr" / f"{n}.dcm", pixels, modality="MR", attributes=attributes)
    translate(tmp_path / "mr", out=tmp_path / "ct", model=model, device="cpu")
    image = loading(monai, Translated("image", model, device="cpu"))({"image": tmp_path / "mr"})
    headers = [pydicom.dcmread(path) for path in (tmp_path / "ct").glob("*.dcm")]
    up = np.sign(float(image["image"].affine[2, 2]))  # MONAI stacks by InstanceNumber, downwards
    headers.sort(key=lambda header: up * header.ImagePositionPatient[2])
    written = np.stack([header.pixel_array for header in headers]).transpose(2, 1, 0)
    assert np.array_equal(in_hu(image["image"]), written)


@pytest.mark.parametrize("workers", [0, 2])
def test_it_works_in_workers_of_a_data_loader(
    monai: ModuleType, model: Path, scan: Path, expected: Any, workers: int
) -> None:
    transform = Translated("image", model, device="cpu")
    dataset = monai.data.Dataset([{"image": scan}] * 3, loading(monai, transform))
    loader = monai.data.DataLoader(dataset, batch_size=3, num_workers=workers)
    (batch,) = list(loader)
    for image in batch["image"]:
        assert np.array_equal(in_hu(image), np.asarray(expected.dataobj))


def test_it_works_in_the_threads_of_a_caching_data_set(
    monai: ModuleType, model: Path, scan: Path, expected: Any
) -> None:
    pipeline = loading(monai, Translated("image", model, device="cpu"))
    dataset = monai.data.CacheDataset(
        [{"image": scan}] * 4, pipeline, num_workers=4, progress=False
    )
    for entry in dataset:
        assert np.array_equal(in_hu(entry["image"]), np.asarray(expected.dataobj))


def test_pending_operations_are_refused_and_compose_applies_them(
    monai: ModuleType, model: Path, scan: Path
) -> None:
    transform = Translated("image", model, device="cpu")
    spaced = monai.transforms.Spacingd(keys="image", pixdim=(2, 2, 2), lazy=True)
    pending = spaced(loading(monai)({"image": scan}))
    with pytest.raises(UsageError, match="pending"):
        transform(pending)
    whole = monai.transforms.Compose([*loading(monai).transforms, spaced, transform])
    assert whole({"image": scan})["image"].shape == (1, 20, 18, 24)


def test_pictures(monai: ModuleType, tmp_path: Path) -> None:
    """MONAI's first axis of a picture runs along its rows; a plain tensor's down its columns."""
    eight = tiny.write_tiny_model(tmp_path, target_recipe=tiny.AS_IS)
    pixels = tiny.noise(20, 30, seed=1)
    tiny.save(tmp_path / "in" / "a.png", pixels)
    translate(tmp_path / "in", out=tmp_path / "out", model=eight, device="cpu")
    written = np.asarray(PIL.Image.open(tmp_path / "out" / "a.png"))
    transform = Translated("image", eight, device="cpu")
    image = loading(monai, transform)({"image": tmp_path / "in" / "a.png"})["image"]
    # Stored integers are cut off at a half; 1e-3 covers the way to 0..255 and back.
    assert np.abs(np.asarray(image)[0].T - written).max() <= 0.5 + 1e-3
    plain = torch.from_numpy(pixels)[None]
    found = transform({"image": plain, "array": plain.numpy()})
    assert type(found["image"]) is torch.Tensor
    assert np.abs(found["image"][0].numpy() - written).max() <= 0.5 + 1e-3
    array = Translated("array", eight, device="cpu")(found)["array"]
    assert np.array_equal(array, found["image"].numpy())


# TorchIO


def test_torchio_gives_what_translate_writes(
    torchio: ModuleType, model: Path, scan: Path, expected: Any
) -> None:
    subject = torchio.Subject(mri=torchio.ScalarImage(scan), age=50)
    pipeline = torchio.Compose([Translated("mri", model, device="cpu"), torchio.CropOrPad(12)])
    found = Translated("mri", model, device="cpu")(subject)
    assert isinstance(found, torchio.Subject)
    assert np.array_equal(in_hu(found.mri.data), np.asarray(expected.dataobj))
    assert np.allclose(found.mri.affine, expected.affine, atol=1e-5)
    assert found["mri"]["medxlate"].startswith("SYNTHETIC ct from mri")
    assert found.age == 50
    assert subject.mri.data.max() > 500  # as it was
    assert pipeline(subject).mri.shape == (1, 12, 12, 12)


def test_torchio_in_workers(torchio: ModuleType, model: Path, scan: Path, expected: Any) -> None:
    subjects = [torchio.Subject(mri=torchio.ScalarImage(scan)) for _ in range(2)]
    pipeline = torchio.Compose([Translated("mri", model, device="cpu")])
    dataset = torchio.SubjectsDataset(subjects, transform=pipeline)
    (batch,) = list(torchio.SubjectsLoader(dataset, batch_size=2, num_workers=2))
    for image in batch["mri"]["data"]:
        assert np.array_equal(in_hu(image), np.asarray(expected.dataobj))


def test_label_maps_are_not_translated(torchio: ModuleType, model: Path, scan: Path) -> None:
    subject = torchio.Subject(mask=torchio.LabelMap(scan))
    with pytest.raises(UsageError, match=r"'mask'.*label"):
        Translated("mask", model, device="cpu")(subject)


@pytest.mark.parametrize("block", [0, 1])
def test_the_page_runs(
    monai: ModuleType,
    torchio: ModuleType,
    model: Path,
    scan: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    block: int,
) -> None:
    page = (ROOT / "docs" / "how-to" / "monai.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    shutil.copytree(model, tmp_path / "runs" / "latest")
    (tmp_path / "mr").mkdir()
    shutil.copy(scan, tmp_path / "mr" / "p01.nii.gz")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"Translated": Translated}
    exec(blocks[block], names)
    if block == 0:
        (batch,) = names["loader"]
        assert batch["image"].shape == (1, 1, 20, 24, 16)
        assert 0 <= batch["image"].min() < batch["image"].max() <= 1
    else:
        assert names["subject"].mri.shape == (1, 64, 64, 64)


# Whatever the library


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Note which models are loaded."""
    from medxlate.inference import transform

    noted: list[Any] = []
    kind = transform.Translator

    def noting(*args: Any, **kwargs: Any) -> Any:
        noted.append(args)
        return kind(*args, **kwargs)

    monkeypatch.setattr(transform, "Translator", noting)
    return noted


def test_a_pickle_holds_no_weights(model: Path, loads: list[Any]) -> None:
    transform = Translated("image", model, device="cpu")
    before = pickle.dumps(transform)
    entry = {"image": torch.rand(1, 16, 16) * 1000}
    first = transform(entry)["image"]
    assert pickle.dumps(transform) == before
    assert len(before) < 1000
    again = pickle.loads(before)
    assert torch.equal(again(entry)["image"], first)
    again(entry)
    assert len(loads) == 2


def test_wrong_entries_are_named(model: Path) -> None:
    transform = Translated(["image"], model, device="cpu")
    for wrong, said in (
        (torch.rand(3, 16, 16), "one channel"),
        (torch.rand(1, 16, 16, 16), "does not say how it lies"),
        ("scan.nii.gz", "a str is not an image"),
    ):
        with pytest.raises(UsageError, match=f"'image'.*{said}"):
            transform({"image": wrong})
    with pytest.raises(ImageError, match=r"'image'.*empty"):
        transform({"image": torch.zeros(1, 16, 16)})
    with pytest.raises(UsageError, match=r"'image'.*Did you mean 'images'"):
        transform({"images": torch.rand(1, 16, 16)})
    passed = Translated("image", model, allow_missing_keys=True)({"other": 1})
    assert passed == {"other": 1}
    with pytest.raises(ModelError, match="nothing"):
        Translated("image", "nothing")({"image": torch.rand(1, 16, 16)})


@pytest.mark.parametrize(
    ("affine", "said"),
    [
        (np.diag([1.0, 0, 1, 1]), "finite"),
        (np.array([[1, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "sheared"),
        (np.eye(3), "shape"),
    ],
)
def test_an_affine_that_is_no_grid_is_refused(affine: Any, said: str) -> None:
    from medxlate.inference.affine import translate_grid

    with pytest.raises(ImageError, match=said):
        translate_grid(np.zeros((4, 5, 6)), affine, "axial", lambda slices, _: slices)


def test_the_library_is_not_needed() -> None:
    """Neither MONAI nor TorchIO is imported by medxlate."""
    import subprocess
    import sys

    code = "import sys, medxlate; medxlate.Translated; print({'monai','torchio'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
