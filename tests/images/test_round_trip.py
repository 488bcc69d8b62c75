"""Volumes through ``translate`` with a model that changes nothing: what comes out is what went in.

Geometry is read back by nibabel, pydicom and, for NRRD and MetaImage, SimpleITK, none of which
know how medxlate turns a volume into slices.
"""

from __future__ import annotations

import json
from itertools import permutations, product
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from torch import nn

import tiny
from conftest import Array, save_dicom
from medxlate.images.orientation import Geometry
from medxlate.images.recipes import Recipe
from medxlate.inference import translator as module
from medxlate.inference.translate import translate

CT = Recipe(kind="ct", window=(40, 400), unit="HU", output_range=(-160.0, 240.0))
ORIENTATIONS = [
    (order, signs) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)
]
SIDE = 12  # of the network's images, pixels
SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")


@pytest.fixture
def identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder whose generator gives back what it gets, between CT and CT."""
    model = tiny.write_tiny_model(tmp_path / "model", source_recipe=CT, target_recipe=CT)
    path = model / "model.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(facts | {"prepared_size": SIDE, "image_size": SIDE}))
    monkeypatch.setattr(module, "load_generator", lambda *_: ("mri", nn.Identity()))
    return model


def grid(order: tuple[int, ...], signs: tuple[int, ...], seed: int, *, resampled: bool) -> Geometry:
    """A volume whose index axes lie along patient axes in this order and direction.

    Unless ``resampled``, its axial slices are squares of the network's size.
    """
    random = np.random.default_rng(seed)
    if resampled:
        size = [int(n) for n in random.integers(24, 40, 3)]
        spacing = [float(v) for v in random.uniform(1, 2, 3)]
    else:
        in_plane = float(random.uniform(0.3, 5))
        size, spacing = [SIDE, SIDE, 9], [in_plane, in_plane, float(random.uniform(1, 5))]
    direction = np.zeros((3, 3))
    for index, (axis, sign) in enumerate(zip(order, signs, strict=True)):
        direction[axis, index] = sign
    origin = random.uniform(-300, 300, 3)
    return Geometry(
        size=tuple(size[axis] for axis in order),
        spacing=tuple(spacing[axis] for axis in order),
        origin=tuple(float(v) for v in origin),
        direction=tuple(float(v) for v in direction.ravel()),
    )


def voxels(geometry: Geometry, seed: int) -> Array:
    """Random HU over the whole window."""
    random = np.random.default_rng(seed)
    return random.integers(-160, 241, geometry.size[::-1]).astype(np.int16)


def affine(geometry: Geometry) -> Array:
    """From (i, j, k) to RAS+ mm, as NIfTI wants it."""
    matrix = np.eye(4)
    matrix[:3, :3] = geometry.axes() * geometry.spacing
    matrix[:3, 3] = geometry.origin
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix


def write(path: Path, geometry: Geometry, values: Array) -> None:
    """Write with nibabel, or SimpleITK."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith((".nii", ".nii.gz")):
        nibabel.Nifti1Image(values.transpose(2, 1, 0), affine(geometry)).to_filename(path)
        return
    image = SimpleITK.GetImageFromArray(values)
    image.SetOrigin(geometry.origin)
    image.SetSpacing(geometry.spacing)
    image.SetDirection(geometry.direction)
    SimpleITK.WriteImage(image, path)


def read(path: Path) -> tuple[Array, Array]:
    """Return voxels [k, j, i] and affine."""
    if path.name.endswith((".nii", ".nii.gz")):
        image = nibabel.load(path)
        assert image.header["descrip"].tobytes().startswith(b"SYNTHETIC")
        return np.asarray(image.dataobj).transpose(2, 1, 0), image.affine
    volume = SimpleITK.ReadImage(path)
    geometry = Geometry(
        volume.GetSize(), volume.GetSpacing(), volume.GetOrigin(), volume.GetDirection()
    )
    return SimpleITK.GetArrayFromImage(volume), affine(geometry)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_volume_comes_back_in_all_48_orientations(tmp_path, identity, suffix):
    grids = [grid(*each, seed=n, resampled=False) for n, each in enumerate(ORIENTATIONS)]
    assert len(grids) == 48
    for n, geometry in enumerate(grids):
        write(tmp_path / "in" / f"{n:02d}{suffix}", geometry, voxels(geometry, n))
    result = translate(tmp_path / "in", out=tmp_path / "out", model=identity, device="cpu")
    assert result.failed == {}
    for n, geometry in enumerate(grids):
        values, found = read(tmp_path / "out" / f"{n:02d}{suffix}")
        assert values.dtype == np.int16
        np.testing.assert_array_equal(values, voxels(geometry, n))
        wanted = read_geometry(tmp_path / "in" / f"{n:02d}{suffix}")
        np.testing.assert_allclose(found, wanted, atol=1e-6, rtol=1e-6)


def read_geometry(path: Path) -> Array:
    """Return the affine of an input, which bears no mark."""
    if path.name.endswith((".nii", ".nii.gz")):
        return nibabel.load(path).affine
    volume = SimpleITK.ReadImage(path)
    geometry = Geometry(
        volume.GetSize(), volume.GetSpacing(), volume.GetOrigin(), volume.GetDirection()
    )
    return affine(geometry)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_size_and_geometry_come_back_where_slices_are_resampled(tmp_path, identity, suffix):
    grids = [grid(*each, seed=n, resampled=True) for n, each in enumerate(ORIENTATIONS[::5])]
    for n, geometry in enumerate(grids):
        ramp = np.linspace(-160, 240, geometry.size[2])[:, None, None]
        smooth = np.broadcast_to(ramp, geometry.size[::-1]).astype(np.int16)
        write(tmp_path / "in" / f"{n:02d}{suffix}", geometry, smooth)
    result = translate(tmp_path / "in", out=tmp_path / "out", model=identity, device="cpu")
    assert result.failed == {}
    for n, geometry in enumerate(grids):
        values, found = read(tmp_path / "out" / f"{n:02d}{suffix}")
        wanted = read_geometry(tmp_path / "in" / f"{n:02d}{suffix}")
        np.testing.assert_allclose(found, wanted, atol=1e-6, rtol=1e-6)
        assert values.shape == geometry.size[::-1]
        profile = values.mean(axis=(1, 2))
        assert np.corrcoef(profile, np.arange(len(profile)))[0, 1] > 0.9
        assert profile[-1] - profile[0] > 150


def write_series(folder: Path, geometry: Geometry, values: Array) -> None:
    """Write a series whose slices are numbered along k, as unsigned HU + 1024."""
    axes = geometry.axes()
    series, study, space = (pydicom.uid.generate_uid() for _ in range(3))
    for k, pixels in enumerate(values):
        save_dicom(
            folder / f"{k:02d}.dcm",
            (pixels + 1024).astype(np.uint16),
            RescaleType="HU",
            SeriesInstanceUID=series,
            StudyInstanceUID=study,
            FrameOfReferenceUID=space,
            InstanceNumber=k + 1,
            ImageOrientationPatient=[*axes[:, 0], *axes[:, 1]],
            ImagePositionPatient=[
                round(float(v), 6)
                for v in np.array(geometry.origin) + axes[:, 2] * geometry.spacing[2] * k
            ],
            PixelSpacing=[round(geometry.spacing[1], 6), round(geometry.spacing[0], 6)],
            SliceThickness=round(geometry.spacing[2], 6),
        )


def test_a_dicom_series_comes_back_in_all_48_orientations(tmp_path, identity):
    grids = [grid(*each, seed=n, resampled=False) for n, each in enumerate(ORIENTATIONS)]
    for n, geometry in enumerate(grids):
        write_series(tmp_path / "in" / f"{n:02d}", geometry, voxels(geometry, n))
    result = translate(
        tmp_path / "in", out=tmp_path / "out", model=identity, device="cpu", force=True
    )
    assert result.failed == {}
    for n, geometry in enumerate(grids):
        values = voxels(geometry, n)
        series = set()
        for k in range(len(values)):
            before = pydicom.dcmread(tmp_path / "in" / f"{n:02d}" / f"{k:02d}.dcm")
            after = pydicom.dcmread(tmp_path / "out" / f"{n:02d}" / f"{k:02d}.dcm")
            hu = after.pixel_array * float(after.RescaleSlope) + float(after.RescaleIntercept)
            np.testing.assert_array_equal(hu, values[k])
            for keyword in ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing"):
                np.testing.assert_allclose(
                    [float(v) for v in after[keyword].value],
                    [float(v) for v in before[keyword].value],
                    atol=1e-6,
                )
            assert after.FrameOfReferenceUID == before.FrameOfReferenceUID
            assert after.SOPInstanceUID != before.SOPInstanceUID
            series.add(after.SeriesInstanceUID)
        assert len(series) == 1
