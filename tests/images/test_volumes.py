"""Volume files: against nibabel, SimpleITK, and headers made by hand."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import struct
import sys
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from nibabel.testing import data_path
from packaging.version import Version
from scipy.spatial.transform import Rotation

from medxlate.base.errors import ImageError, OutputError
from medxlate.images.orientation import Geometry
from medxlate.images.texts import identifying_texts, is_identifying, read_sidecar
from medxlate.images.volumes import (
    data_file,
    read_volume,
    read_volume_header,
    sniff_volume,
    write_volume,
)

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
PLAIN = Geometry((10, 9, 8), (1.0, 2.0, 3.0), (-5.0, 6.0, 7.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
CODES = {  # of the NIfTI-1 standard
    "uint8": 2, "int8": 256, "int16": 4, "uint16": 512, "int32": 8, "uint32": 768,
    "int64": 1024, "uint64": 1280, "float32": 16, "float64": 64,
}  # fmt: skip
OTHER_CODES = {"binary": 1, "complex64": 32, "unknown": 99, "RGB": 128, "float128": 1536}
Array = np.ndarray[Any, Any]


def voxels(*shape: int, dtype: Any = np.int16, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 100, shape or (8, 9, 10)).astype(dtype)


def nifti(
    path: Path,
    body: bytes,
    *,
    dim: tuple[int, ...] = (3, 10, 9, 8),
    dtype: str = "int16",
    offset: float = 352,
    codes: tuple[int, int] = (0, 1),
    sform: Any = ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0)),
    scale: tuple[float, float] = (1, 0),
    pixdim: tuple[float, ...] = (1, 1, 1, 1),
    magic: bytes = b"n+1\0",
) -> Path:
    """Write a NIfTI-1 file field by field."""
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into(f"<{len(dim)}h", header, 40, *dim)
    struct.pack_into("<h", header, 70, (CODES | OTHER_CODES)[dtype])
    struct.pack_into(f"<{len(pixdim)}f", header, 76, *pixdim)
    struct.pack_into("<3f", header, 108, offset, *scale)
    struct.pack_into("<2h", header, 252, *codes)
    struct.pack_into("<12f", header, 280, *np.ravel(sform))
    header[344:348] = magic
    data = bytes(header) + body
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def mha(path: Path, body: bytes, **fields: str) -> Path:
    known = {
        "ObjectType": "Image", "NDims": "3", "DimSize": "10 9 8", "ElementSpacing": "1 2 3",
        "Offset": "0 0 0", "TransformMatrix": "1 0 0 0 1 0 0 0 1", "BinaryData": "True",
        "ElementType": "MET_SHORT",
    }  # fmt: skip
    known |= fields
    last = known.pop("ElementDataFile", "LOCAL")
    text = "".join(f"{key} = {value}\n" for key, value in known.items())
    path.write_bytes(f"{text}ElementDataFile = {last}\n".encode() + body)
    return path


def nrrd(path: Path, body: bytes, **fields: str | None) -> Path:
    known: dict[str, str | None] = {
        "type": "int16", "dimension": "3", "sizes": "10 9 8", "encoding": "raw",
        "endian": "little", "space": "left-posterior-superior",
        "space directions": "(1,0,0) (0,2,0) (0,0,3)", "space origin": "(1,2,3)",
    }  # fmt: skip
    known |= {key.replace("_", " "): value for key, value in fields.items()}
    lines = [f"{key}: {value}\n" for key, value in known.items() if value is not None]
    path.write_bytes(("NRRD0004\n# made by hand\n" + "".join(lines) + "\n").encode() + body)
    return path


def test_every_file_of_nibabel_is_read_as_nibabel_does_or_refused(
    capfd: pytest.CaptureFixture[str],
) -> None:
    read, refused = 0, {}
    for path in sorted(path for path in Path(data_path).rglob("*") if path.is_file()):
        if sniff_volume(path, path.read_bytes()[:512]) is None:
            continue
        try:
            try:
                found, volume = read_volume(path), None
            except ImageError as problem:
                if "4-D" not in str(problem):
                    raise
                found, volume = read_volume(path, 1), 1
        except ImageError as problem:
            refused[path.name] = str(problem)
            continue
        image = nibabel.load(path)
        wanted = np.asarray(image.dataobj)  # type: ignore[attr-defined]
        wanted = wanted if volume is None else wanted[..., volume]
        np.testing.assert_allclose(found, wanted.T, rtol=1e-6, err_msg=path.name)
        geometry = read_volume_header(path, volume).geometry
        affine = LPS @ image.affine  # type: ignore[attr-defined]
        np.testing.assert_allclose(geometry.axes() * geometry.spacing, affine[:3, :3], atol=1e-5)
        np.testing.assert_allclose(geometry.origin, affine[:3, 3], atol=1e-5)
        read += 1
    assert read == 6
    assert len(refused) == 5
    assert not any(str(data_path) in reason for reason in refused.values())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_written_volumes_are_read_by_others_with_the_same_values_and_geometry(
    tmp_path: Path, suffix: str
) -> None:
    random = np.random.default_rng(1)
    orders = itertools.product(
        itertools.permutations(range(3)), itertools.product((1, -1), (1, -1), (1, -1))
    )
    axes = [np.eye(3)[list(order)] * signs for order, signs in orders]
    axes += [Rotation.random(random_state=seed).as_matrix() for seed in range(12)]
    path = tmp_path / f"v{suffix}"
    for number, direction in enumerate(axes):
        size = tuple(int(side) for side in random.integers(8, 12, 3))
        geometry = Geometry(
            size,  # type: ignore[arg-type]
            tuple(random.uniform(0.3, 6, 3)),  # type: ignore[arg-type]
            tuple(random.uniform(-500, 500, 3)),  # type: ignore[arg-type]
            tuple(direction.ravel()),
        )
        values = voxels(*size[::-1], dtype=("int16", "uint16", "float32")[number % 3])
        write_volume(path, values, geometry, facts={})
        image = sitk.ReadImage(str(path))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), values)
        np.testing.assert_array_equal(read_volume(path), values)
        by_itk = Geometry(
            image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()
        )
        for again in (read_volume_header(path).geometry, by_itk):
            assert again.size == size
            np.testing.assert_allclose(again.spacing, geometry.spacing, rtol=1e-6)
            np.testing.assert_allclose(again.origin, geometry.origin, rtol=1e-6)
            np.testing.assert_allclose(again.axes(), direction, atol=1e-6)
        if ".nii" in suffix:
            loaded = nibabel.load(path)
            affine = LPS @ loaded.affine  # type: ignore[attr-defined]
            np.testing.assert_allclose(affine[:3, :3], direction * geometry.spacing, atol=6e-6)
            np.testing.assert_allclose(affine[:3, 3], geometry.origin, rtol=1e-6)
            np.testing.assert_array_equal(np.asarray(loaded.dataobj).T, values)  # type: ignore[attr-defined]


def test_a_nifti_written_from_a_nifti_has_the_very_same_sform_and_code(tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.random(random_state=3).as_matrix() * [0.7, 1.1, 2.3]
    affine[:3, 3] = [-91.37, 126.21, -72.9]
    image = nibabel.Nifti1Image(voxels().T, affine)
    image.set_sform(affine, code=4)
    image.set_qform(affine, code=1)
    nibabel.save(image, tmp_path / "a.nii")
    header = read_volume_header(tmp_path / "a.nii")
    write_volume(
        tmp_path / "b.nii.gz",
        read_volume(tmp_path / "a.nii"),
        header.geometry,
        facts={"description": "SYNTHETIC ct from mri, medxlate 1.0"},
        xform=header.xform,
    )
    again = nibabel.load(tmp_path / "b.nii.gz").header
    np.testing.assert_allclose(again.get_sform(), image.header.get_sform(), rtol=2e-7, atol=1e-7)
    assert (int(again["sform_code"]), int(again["qform_code"])) == (4, 4)
    assert bytes(again["descrip"]).startswith(b"SYNTHETIC ct from mri, medxlate 1.0")
    assert again.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(again.get_qform(), again.get_sform(), atol=1e-5)


def test_the_qform_counts_where_there_is_no_sform(tmp_path: Path) -> None:
    for seed in range(20):
        affine = np.eye(4)
        turn = Rotation.random(random_state=seed).as_matrix()
        if seed % 4 == 0:
            turn = Rotation.from_rotvec([0, np.pi, 0]).as_matrix()  # a = 0 in the quaternion
        affine[:3, :3] = turn * [1, 2, -3 if seed % 2 else 3]
        affine[:3, 3] = [10, 20, 30]
        image = nibabel.Nifti1Image(voxels().T, None)
        image.header.set_qform(affine, code=1)
        nibabel.save(image, tmp_path / "q.nii")
        loaded = nibabel.load(tmp_path / "q.nii")
        assert int(loaded.header["sform_code"]) == 0
        geometry = read_volume_header(tmp_path / "q.nii").geometry
        found = geometry.axes() * geometry.spacing
        np.testing.assert_allclose(found, (LPS @ loaded.affine)[:3, :3], atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        {"pixdim": [0, 1, 2, 3, 1, 1, 1, 1]},  # qfac 0 counts as 1
        {"pixdim": [1, 1, -2, 3, 1, 1, 1, 1]},
        {"quatern_c": np.float32(1.00001)},  # of half a turn, rounded
    ],
)
def test_qforms_that_nibabel_refuses_are_read_as_they_are_meant(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    image = nibabel.Nifti1Image(voxels().T, None)
    turn = Rotation.from_rotvec([0, np.pi, 0]).as_matrix()
    image.header.set_qform(nibabel.affines.from_matvec(turn * [1, 2, 3], [10, 20, 30]), code=1)
    nibabel.save(image, tmp_path / "sound.nii")
    header = nibabel.load(tmp_path / "sound.nii").header.copy()
    for key, value in change.items():
        header[key] = value
    content = header.binaryblock + (tmp_path / "sound.nii").read_bytes()[348:]
    (tmp_path / "odd.nii").write_bytes(content)
    sound, odd = (read_volume_header(tmp_path / name).geometry for name in ("sound.nii", "odd.nii"))
    np.testing.assert_allclose(odd.direction, sound.direction, atol=1e-4)
    np.testing.assert_allclose(odd.spacing, sound.spacing, rtol=1e-4)
    np.testing.assert_allclose(odd.origin, sound.origin, rtol=1e-4)


def test_the_sform_goes_before_another_qform(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(voxels().T, None)
    image.header.set_qform(np.diag([1, 1, 1, 1]), code=1)
    image.header.set_sform(np.diag([-2, 2, 3, 1]), code=2)
    nibabel.save(image, tmp_path / "s.nii")
    header = read_volume_header(tmp_path / "s.nii")
    found = header.geometry.axes() * header.geometry.spacing
    np.testing.assert_array_equal(found, np.diag([2.0, -2.0, 3.0]))
    np.testing.assert_array_equal(found, (LPS @ nibabel.load(tmp_path / "s.nii").affine)[:3, :3])
    assert header.xform == 2


def test_a_nifti_without_codes_keeps_them_and_reads_as_in_nibabel(tmp_path: Path) -> None:
    path = nifti(tmp_path / "z.nii", bytes(1440), codes=(0, 0), pixdim=(1, 2, 3, 4))
    header = read_volume_header(path)
    affine = LPS @ nibabel.load(path).affine
    np.testing.assert_allclose(header.geometry.axes() * header.geometry.spacing, affine[:3, :3])
    np.testing.assert_allclose(header.geometry.origin, affine[:3, 3])
    assert header.xform == 0
    write_volume(tmp_path / "o.nii", voxels(), header.geometry, facts={}, xform=0)
    np.testing.assert_allclose(
        nibabel.load(tmp_path / "o.nii").affine, nibabel.load(path).affine, atol=1e-6
    )


def test_nifti_types_byte_orders_and_scaling_agree_with_nibabel(tmp_path: Path) -> None:
    for dtype, endian, scale in itertools.product(CODES, "<>", ((1, 0), (2.5, -1024), (0, 7))):
        kind = nibabel.Nifti1Header if dtype != "int64" else nibabel.Nifti2Header
        header = kind(endianness=endian)
        header.set_data_dtype(dtype)
        header.set_data_shape((10, 9, 8))
        header["scl_slope"], header["scl_inter"] = scale
        header["vox_offset"] = 544
        header["magic"] = b"n+2\0\r\n\x1a\n" if dtype == "int64" else b"n+1"
        header.set_sform(np.eye(4), code=1)
        values = voxels(dtype=np.dtype(dtype).newbyteorder(endian))
        start = header.binaryblock.ljust(544, b"\0")
        (tmp_path / "t.nii").write_bytes(start + values.tobytes())
        wanted = np.asarray(nibabel.load(tmp_path / "t.nii").dataobj).T
        found = read_volume(tmp_path / "t.nii")
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
        assert found.dtype.isnative
        assert read_volume_header(tmp_path / "t.nii").dtype == found.dtype.name
    assert read_volume_header(
        nifti(tmp_path / "r.nii", bytes(1440), scale=(2, -1024))
    ).full_range == (
        -66560.0,
        64510.0,
    )


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_one_volume_of_a_4d_file(tmp_path: Path, suffix: str) -> None:
    values = voxels(3, 8, 9, 10)
    path = tmp_path / f"v{suffix}"
    image = sitk.JoinSeries([sitk.GetImageFromArray(part) for part in values])
    sitk.WriteImage(image, str(path), useCompression=suffix == ".mha")
    for number in range(3):
        np.testing.assert_array_equal(read_volume(path, number), values[number])
    with pytest.raises(ImageError, match=r"4-D with 3 volumes.*--volume K, counted from 0"):
        read_volume(path)
    for wrong in (3, -1):
        with pytest.raises(ImageError, match=f"no volume {wrong}"):
            read_volume_header(path, wrong)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_number_of_a_volume_means_nothing_for_a_3d_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"v{suffix}"
    write_volume(path, voxels(), PLAIN, facts={})
    for number in (0, 1, 7):
        assert read_volume_header(path, number).volumes == 1
        np.testing.assert_array_equal(read_volume(path, number), voxels())


def test_the_file_that_holds_the_voxels(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        path = tmp_path / f"v{suffix}"
        write_volume(path, voxels(), PLAIN, facts={})
        names = {".nhdr": "v.raw.gz", ".mhd": "v.zraw"}
        assert data_file(path) == tmp_path / names.get(suffix, path.name)
        assert data_file(path).is_file()
    nibabel.save(nibabel.Nifti1Pair(voxels().T, np.eye(4)), tmp_path / "p.hdr")
    assert data_file(tmp_path / "p.hdr") == tmp_path / "p.img"
    (tmp_path / "p.img").unlink()
    (tmp_path / "v.gz").write_bytes(b"\x1f\x8b\x08 damaged")
    mha(tmp_path / "up.mhd", b"", ElementDataFile="../up.raw")
    mha(tmp_path / "odd.mhd", b"", NDims="inf", ElementDataFile="v.zraw")
    for name in ("p.hdr", "v.gz", "up.mhd", "odd.mhd", "absent.nii"):
        assert data_file(tmp_path / name) == tmp_path / name


def test_pairs_and_detached_headers(tmp_path: Path) -> None:
    values = voxels()
    nibabel.save(nibabel.Nifti1Pair(values.T, np.eye(4)), tmp_path / "p.hdr")
    np.testing.assert_array_equal(read_volume(tmp_path / "p.hdr"), values)
    (tmp_path / "p.img").unlink()
    with pytest.raises(ImageError, match=r"img file .* missing"):
        read_volume(tmp_path / "p.hdr")
    (tmp_path / "d.raw").write_bytes(b"\0" * 7 + values.tobytes())
    for start in ("7", "-1"):
        path = mha(tmp_path / "d.mhd", b"", ElementDataFile="d.raw", HeaderSize=start)
        np.testing.assert_array_equal(read_volume(path), values)
        path = nrrd(tmp_path / "d.nhdr", b"", data_file="d.raw", byte_skip=start)
        np.testing.assert_array_equal(read_volume(path), values)


@pytest.mark.parametrize(
    "name",
    [
        "../secret.raw",
        "/etc/passwd",
        "sub/../../secret.raw",
        "LIST",
        "s%03d.raw 1 8 1",
        "..\\s",
        "",
    ],
)
def test_data_files_outside_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.raw").write_bytes(bytes(1440))
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    for path in (
        mha(folder / "a.mhd", b"", ElementDataFile=name),
        *([nrrd(folder / "a.nhdr", b"", data_file=name)] if name else []),
    ):
        with pytest.raises(ImageError, match=r"outside its own folder|several data files"):
            read_volume(path)


HUGE = (3, 32767, 32767, 20)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"dim": HUGE}, "at most"),
        ({"dim": (3, 3000, 3000, 3000)}, "50.3 GiB"),
        ({"dim": (3, 700, 700, 700), "scale": (2, 0)}, "1.3 GiB"),
        ({"dim": (3, 10, -9, 8)}, "impossible dimensions"),
        ({"dim": (9, 10, 9, 8)}, "impossible dimensions"),
        ({"dim": (1, 10)}, "one-dimensional"),
        ({"dim": (5, 10, 9, 8, 1, 3)}, "vectors"),
        ({"dim": (3, 10, 9, 9)}, "truncated"),
        *(({"dtype": name}, "colour") for name in OTHER_CODES),
        ({"offset": 1e30}, "impossible offset"),
        ({"offset": -8}, "impossible offset"),
        ({"offset": float("nan")}, "impossible offset"),
        ({"offset": 100}, "impossible offset"),
        ({"offset": 400}, "truncated"),
        ({"sform": ((1, 0.2, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0))}, "sheared"),
        ({"sform": ((1, 0, 0, float("nan")), (0, 1, 0, 0), (0, 0, 1, 0))}, "not finite"),
        ({"sform": ((0, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0))}, "not positive"),
        ({"codes": (1, 0), "pixdim": (1, 0, 1, 1)}, "not positive"),
        ({"codes": (1, 0), "pixdim": (1, 1, float("inf"), 1)}, "not finite"),
        ({"scale": (1, float("nan"))}, "scl_inter"),
    ],
)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_headers_that_are_refused(
    tmp_path: Path, fields: dict[str, Any], reason: str, suffix: str
) -> None:
    path = nifti(tmp_path / f"b{suffix}", voxels().tobytes(), **fields)
    with pytest.raises(ImageError, match=reason):
        read_volume(path)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"DimSize": "100000 100000 1"}, "100000x100000"),
        ({"DimSize": "5000 5000 640"}, "29.8 GiB"),
        ({"DimSize": "10 -9 8"}, "10x-9x8"),
        ({"DimSize": "10 9 1e400"}, "invalid number"),
        ({"DimSize": "10 9"}, "field of its header is missing"),
        ({"NDims": "2", "DimSize": "10 9"}, "2 dimensions"),
        ({"ElementNumberOfChannels": "3"}, "vectors"),
        ({"ElementType": "MET_FLOAT_ARRAY"}, "vectors"),
        ({"ElementSpacing": "1 nan 1"}, "not finite"),
        ({"ElementSpacing": "1 0 1"}, "not positive"),
        ({"Offset": "0 inf 0"}, "not finite"),
        ({"TransformMatrix": "1 0.3 0 0 1 0 0 0 1"}, "sheared"),
        ({"BinaryData": "False"}, "as text"),
        ({"ElementToIntensityFunctionSlope": "2"}, "rescales the stored values"),
        ({"DimSize": "10 9 9"}, "truncated"),
        ({"CompressedData": "True"}, "damaged"),
        ({"ElementDataFile": "absent.raw"}, "named in its header is missing"),
    ],
)
def test_metaimage_headers_that_are_refused(
    tmp_path: Path, fields: dict[str, str], reason: str
) -> None:
    with pytest.raises(ImageError, match=reason):
        read_volume(mha(tmp_path / "b.mha", voxels().tobytes(), **fields))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"sizes": "100000 100000 1"}, "100000x100000"),
        ({"sizes": "5000 5000 640"}, "29.8 GiB"),
        ({"sizes": "10 9 -8"}, "10x9x-8"),
        ({"dimension": "2", "sizes": "10 9"}, "2 dimensions"),
        ({"type": "block"}, "vectors"),
        ({"kinds": "vector domain domain"}, "vectors"),
        ({"space_directions": "none (1,0,0) (0,1,0)"}, "vectors"),
        ({"space_directions": "(1,0.2,0) (0,1,0) (0,0,1)"}, "sheared"),
        ({"space_directions": "(nan,0,0) (0,1,0) (0,0,1)"}, "not finite"),
        ({"space_directions": "(0,0,0) (0,1,0) (0,0,1)"}, "not positive"),
        ({"space_origin": "(0,inf,0)"}, "not finite"),
        ({"encoding": "hex"}, "encoding"),
        ({"endian": None}, "byte order"),
        ({"sizes": "10 9 9"}, "truncated"),
        ({"encoding": "gzip"}, "damaged"),
        ({"space": "left-posterior-superior-time"}, "invalid"),
        ({"space": "toroidal"}, "known axes"),
        ({"space_units": '"mm" "mm" "cm"'}, "in cm, not in mm"),
    ],
)
def test_nrrd_headers_that_are_refused(
    tmp_path: Path, fields: dict[str, str | None], reason: str
) -> None:
    with pytest.raises(ImageError, match=reason):
        read_volume(nrrd(tmp_path / "b.nrrd", voxels().tobytes(), **fields))


def test_nrrd_spaces_and_metaimage_axes_agree_with_itk(tmp_path: Path) -> None:
    turn = Rotation.random(random_state=5).as_matrix()
    body = voxels().tobytes()
    directions = " ".join(
        "(" + ",".join(map(repr, column.tolist())) + ")" for column in (turn * 2).T
    )
    spaces = ["RAS", "LAS", "left-posterior-superior", "right-anterior-superior", "scanner-xyz"]
    if Version(sitk.Version.VersionString()) < Version("2.5.6"):
        spaces.remove("LAS")  # which older versions of ITK take for another one
    paths = [
        nrrd(tmp_path / f"{number}.nrrd", body, space=space, space_directions=directions)
        for number, space in enumerate(spaces)
    ]
    paths.append(
        nrrd(
            tmp_path / "s.nrrd", body, space=None, space_directions=None, space_origin=None,
            spacings="1 2 3", axis_mins="4 5 6",
        )
    )  # fmt: skip
    paths.append(
        mha(tmp_path / "m.mha", body, TransformMatrix=" ".join(map(repr, turn.ravel().tolist())))
    )
    for path in paths:
        image, found = sitk.ReadImage(str(path)), read_volume_header(path).geometry
        np.testing.assert_allclose(
            found.direction, image.GetDirection(), atol=1e-12, err_msg=path.name
        )
        np.testing.assert_allclose(found.spacing, image.GetSpacing(), rtol=1e-12)
        np.testing.assert_allclose(found.origin, image.GetOrigin(), atol=1e-12)
        np.testing.assert_array_equal(read_volume(path), sitk.GetArrayFromImage(image))


def test_packed_files_that_end_early_or_are_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(0).integers(-999, 999, (40, 64, 64)).astype(np.int16)
    whole = nifti(tmp_path / "g.nii.gz", values.tobytes(), dim=(3, 64, 64, 40))
    np.testing.assert_array_equal(read_volume(whole), values)
    content = whole.read_bytes()
    for length in range(len(content) - 20, 30, -len(content) // 9 or -1):
        whole.write_bytes(content[:length])
        with pytest.raises(ImageError, match=r"truncated|damaged"):
            read_volume(whole)
    for place in range(1000, len(content), len(content) // 9):
        bad = bytearray(content)
        bad[place] ^= 0x55
        whole.write_bytes(bad)
        with pytest.raises(ImageError):
            read_volume(whole)
    whole.write_bytes(content[:-8] + b"\0\0\0\0" + content[-4:])  # the checksum
    for chunk in (1 << 20, len(content) - 8):  # the second ends before the checksum
        monkeypatch.setattr("medxlate.images.volumes.CHUNK", chunk)
        with pytest.raises(ImageError, match="damaged"):
            read_volume(whole)
    whole.write_bytes(
        gzip.compress(gzip.decompress(content)[:5000])
        + gzip.compress(gzip.decompress(content)[5000:])
    )
    np.testing.assert_array_equal(read_volume(whole), values)  # several members, as bgzip writes


def test_a_gzip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.nii.gz"
    head = gzip.decompress(nifti(tmp_path / "x.nii.gz", b"").read_bytes())
    packer = zlib.compressobj(9, wbits=31)
    zeros = bytes(1 << 20)
    with path.open("wb") as stream:
        stream.write(packer.compress(head))
        for _ in range(300):
            stream.write(packer.compress(zeros))
        stream.write(packer.flush())
    assert path.stat().st_size < 400_000
    assert not read_volume(path).any()  # what the header claims, and no more
    claims = nifti(tmp_path / "claims.nii.gz", b"", dim=(3, 800, 800, 800))
    with pytest.raises(ImageError, match="truncated"):
        read_volume_header(claims)


def test_nan_and_inf_stay(tmp_path: Path) -> None:
    values = voxels(dtype=np.float32)
    values[1, 2, 3], values[4, 5, 6] = np.nan, np.inf
    write_volume(tmp_path / "n.nrrd", values, PLAIN, facts={})
    np.testing.assert_array_equal(read_volume(tmp_path / "n.nrrd"), values)


def test_names_do_not_matter(tmp_path: Path) -> None:
    write_volume(tmp_path / "v.nii.gz", voxels(), PLAIN, facts={})
    write_volume(tmp_path / "v.nrrd", voxels(), PLAIN, facts={})
    for source, name in (("v.nii.gz", "A.NII.GZ"), ("v.nii.gz", "lies.mha"), ("v.nrrd", "B.NRRD")):
        path = (tmp_path / source).rename(tmp_path / name)
        np.testing.assert_array_equal(read_volume(path), voxels())
        path.rename(tmp_path / source)
    if sys.platform == "linux":
        path = (tmp_path / "v.nii.gz").rename(os.fsdecode(bytes(tmp_path) + b"/caf\xe9.nii.gz"))
        np.testing.assert_array_equal(read_volume(path), voxels())
        with pytest.raises(OutputError, match="not UTF-8"):
            write_volume(path, voxels(), PLAIN, facts={})


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_same_volume_gives_the_same_bytes_and_leaves_nothing_else(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = {"description": "SYNTHETIC ct from mri", "medxlate version": "1\n.0"}
    for folder, now in (("a", 1e9), ("b", 1.7e9)):
        monkeypatch.setattr("time.time", lambda now=now: now)
        write_volume(tmp_path / folder / f"v{suffix}", voxels(), PLAIN, facts=facts)
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()} for folder in "ab"
    )
    assert first == second
    assert len(first) == (2 if suffix in (".nhdr", ".mhd") else 1)
    if "nii" not in suffix:
        image = sitk.ReadImage(str(tmp_path / "a" / f"v{suffix}"))
        assert image.GetMetaData("description") == "SYNTHETIC ct from mri"
        assert image.GetMetaData("medxlate_version") == "1 .0"


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on file sizes")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_is_named(tmp_path: Path, suffix: str) -> None:
    import resource
    import signal

    path = tmp_path / f"v{suffix}"
    values = np.random.default_rng(0).integers(-(2**15), 2**15, (60, 64, 64)).astype(np.int16)
    geometry = Geometry((64, 64, 60), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), PLAIN.direction)
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, usual[1]))
    try:
        with pytest.raises((OutputError, OSError)):
            write_volume(path, values, geometry, facts={})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


def test_damaged_headers_are_refused_and_nothing_is_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    for suffix in SUFFIXES:
        path = tmp_path / f"v{suffix}"
        write_volume(path, voxels(), PLAIN, facts={})
        content = path.read_bytes()
        for _ in range(60):
            damaged = bytearray(content)
            for place in random.integers(0, min(len(content), 500), 4):
                damaged[place] = random.integers(0, 256)
            path.write_bytes(damaged)
            with suppress(ImageError):
                read_volume(path)
        path.write_bytes(content)
    assert capfd.readouterr() == ("", "")


def test_sniffing(tmp_path: Path) -> None:
    kinds = ("nifti", "nifti", "nrrd", "nrrd", "meta", "meta")
    for suffix, kind in zip(SUFFIXES, kinds, strict=True):
        path = tmp_path / f"v{suffix}"
        write_volume(path, voxels(), PLAIN, facts={})
        assert sniff_volume(path, path.read_bytes()[:512]) == kind
    for other in (b"", b"II*\0" + bytes(600), b"\x1f\x8b" + bytes(300), b"a,b\nNDims,3\n"):
        assert sniff_volume(tmp_path / "other", other[:512]) is None
    assert sniff_volume(tmp_path / "notes.gz", gzip.compress(b"notes")[:512]) is None


def test_sidecars(tmp_path: Path) -> None:
    path = tmp_path / "sub-01_T1w.nii.gz"
    assert read_sidecar(path) == {}
    beside = tmp_path / "sub-01_T1w.json"
    beside.write_text(json.dumps({"EchoTime": 0.003, "Modality": "MR", "List": [1], "None": None}))
    assert read_sidecar(path) == {"EchoTime": "0.003", "Modality": "MR"}
    for broken in ("{", "[1]", "[" * 100_000):
        beside.write_text(broken)
        assert read_sidecar(path) == {}


# ---- identifying texts

WHOM = {"DICOM_patientName": "Doe^Jane", "PatientID": "ID-77", "0008|0080": "Nordstadt Clinic"}
HARMLESS = {"PatientSex": "FEMALE", "ProtocolName": "T1_MPRAGE", "0008|0060": "MAGNETOM"}
WHAT_IS_FOUND = {"Doe^Jane", "Jane", "ID-77", "Nordstadt Clinic"}


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd"])
def test_fields_that_name_somebody(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"v{suffix}"
    image = sitk.GetImageFromArray(voxels())
    for key, value in (WHOM | HARMLESS).items():
        image.SetMetaData(key, value)
    sitk.WriteImage(image, str(path))
    assert identifying_texts(path) == WHAT_IS_FOUND


def test_comments_and_contents_of_nrrd(tmp_path: Path) -> None:
    path = nrrd(tmp_path / "c.nrrd", b"\n# Roe^Rick\n", content="seen 2011-12-13 by Poe^Ann")
    found = {"made by hand", "seen 2011-12-13 by Poe^Ann", "2011-12-13", "20111213", "Poe^Ann"}
    assert identifying_texts(path) == found


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_texts_of_nifti(tmp_path: Path, kind: Any, suffix: str) -> None:
    image = kind(voxels().T, np.eye(4))
    image.header["descrip"] = b"of Doe^Jane; 20111213 TE=3"
    image.header["aux_file"] = b"case-12.txt"
    image.header["intent_name"] = b"ID-77"
    expected = {
        *("of Doe^Jane; 20111213 TE=3", "Doe^Jane", "Jane", "20111213", "2011-12-13"),
        *("case-12.txt", "ID-77"),
    }
    if kind is nibabel.Nifti1Image:
        image.header["db_name"] = b"WARD3"
        expected.add("WARD3")
    nibabel.save(image, tmp_path / f"v{suffix}")
    assert identifying_texts(tmp_path / f"v{suffix}") == expected


def test_sidecars_that_name_somebody(tmp_path: Path) -> None:
    path = tmp_path / "v.nii.gz"
    write_volume(path, voxels(), PLAIN, facts={"description": "SYNTHETIC ct from mri"})
    assert identifying_texts(path) == frozenset()
    uid = "1.3.12.2.1107.5.2.1"
    values = HARMLESS | {
        "PatientName": {"Alphabetic": "Doe^Jane"},
        "PatientID": 770077,
        "PatientWeight": 81.25,
        "AcquisitionDateTime": "2011-12-13T14:15:16.5",
        "AcquisitionTime": "14:15:16.5",
        "DeviceSerialNumber": "SN-4711",
        "EchoTime": 0.003,
        "ImageOrientationPatientDICOM": [1, 0, 0, 0, 1, 0],
        "global": {"const": {"StudyInstanceUID": uid, "InstitutionName": "Nordstadt"}},
        "00100030": {"vr": "DA", "Value": ["19431107"]},
    }
    found = {
        *("Doe^Jane", "Jane", "770077", "2011-12-13T14:15:16.5", "2011-12-13", "20111213"),
        *("SN-4711", uid, "Nordstadt", "DA", "19431107", "1943-11-07"),
    }
    (tmp_path / "v.json").write_text(json.dumps(values))
    assert identifying_texts(path) == found
    damaged = json.dumps({"PatientID": "ID-77", "EchoTime": 3, "StudyID": 4711})[:-1]
    (tmp_path / "v.json").write_text(damaged)
    assert identifying_texts(path) == {"ID-77", "4711"}
    (tmp_path / "v.json").write_text('{"PatientID": "ID-77", "Curve": [' + "1, " * 10**6)
    assert identifying_texts(path) == {"ID-77"}
    (tmp_path / "v.json").write_text("[" * 100_000)
    assert identifying_texts(tmp_path / "v.png") == frozenset()


@pytest.mark.parametrize(
    ("key", "identifies"),
    [
        *((key, True) for key in ("patient_name", "MRN", "subject id", "ID", "StationName")),
        *((key, True) for key in ("StudyInstanceUID", "AcquisitionDate", "DICOM_0010_0010")),
        *((key, True) for key in ("OperatorsName", "ImageComments", "0008|0050", "Comment")),
        *((key, False) for key in ("ElementDataFile", "NDims", "FluidAttenuation", "TaskName")),
        *((key, False) for key in ("SequenceName", "SOPClassUID", "PatientPosition", "EchoTime")),
        *((key, False) for key in ("0010|0040", "0018|0050", "ManufacturersModelName", "Width")),
    ],
)
def test_names_of_fields_that_identify(key: str, identifies: bool) -> None:
    assert is_identifying(key) is identifies
