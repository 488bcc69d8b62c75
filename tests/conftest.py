"""The real images, and small files to make tests from."""

from __future__ import annotations

import os
import secrets
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pydicom
import pytest
import tifffile
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import PYDICOM_ROOT_UID, CTImageStorage, ExplicitVRLittleEndian

from medxlate.base.errors import ImageError
from medxlate.images.find import find_images
from medxlate.images.grouping import find_scans
from medxlate.images.open import open_stack
from medxlate.images.recipes import Recipe
from medxlate.images.scan import Scan
from medxlate.images.stack import Stack
from reporting import browser, opened, page, project  # noqa: F401  fixtures of tests/report

ROOT = Path(__file__).resolve().parents[1]
Array = np.ndarray[Any, Any]


@pytest.fixture(scope="session")
def real_data(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give a function from an archive's name to the folder it was unpacked into, once a session."""
    folder = Path(os.environ.get("MEDXLATE_REAL_DATA", ROOT.parent / "shared" / "data"))
    unpacked: dict[str, Path] = {}

    def get(name: str) -> Path:
        archive = folder / f"{name}.tar.xz"
        if not archive.is_file():
            pytest.skip(f"{archive} is absent; set MEDXLATE_REAL_DATA to the real images")
        if name not in unpacked:
            target = tmp_path_factory.mktemp("real")
            with tarfile.open(archive) as tar:
                # Python before 3.11.4 knows no filters; these archives are the project's own.
                checked = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
                tar.extractall(target, **checked)
            unpacked[name] = target / name
        return unpacked[name]

    return get


def noise(*shape: int, seed: int = 0, dtype: Any = np.uint8) -> Array:
    """Return random integers over the whole range of the type."""
    info = np.iinfo(dtype)
    random = np.random.default_rng(seed)
    return random.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)


def save_raster(path: Path, pixels: Array, format_: str | None = None) -> Path:
    """Write with pillow; ``format_`` decides where the suffix is to lie."""
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(path, format=format_)
    return path


def save_tiff(path: Path, pixels: Array, **options: Any) -> Path:
    """Write with tifffile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, pixels, **options)
    return path


def new_uid() -> str:
    """Return a UID; all are of 64 characters, so that files of equal pixels are of equal length."""
    return f"{PYDICOM_ROOT_UID}{10**37 + secrets.randbelow(9 * 10**37)}"


def save_dicom(path: Path, stored: Array, **attributes: Any) -> Path:
    """Write a grey CT image of [H, W], or frames [N, H, W], with pydicom alone."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = new_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header = Dataset()
    header.file_meta = meta
    header.SOPClassUID = CTImageStorage
    header.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    header.Modality = "CT"
    header.PatientID = "P1"
    header.PatientAge = "060Y"
    header.Rows, header.Columns = stored.shape[-2:]
    if stored.ndim == 3:
        header.NumberOfFrames = len(stored)
    header.SamplesPerPixel = 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.BitsAllocated = header.BitsStored = 8 * stored.itemsize
    header.HighBit = header.BitsStored - 1
    header.PixelRepresentation = int(stored.dtype.kind == "i")
    header.RescaleSlope, header.RescaleIntercept = "1", "-1024"
    for keyword, value in attributes.items():
        if value is None:
            delattr(header, keyword)
        else:
            setattr(header, keyword, value)
    header.PixelData = stored.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, header, enforce_file_format=True)
    return path


def as_is(**values: Any) -> Recipe:
    """Return the recipe that keeps stored values."""
    return Recipe(kind="as-is", **values)


def open_file(
    path: Path, recipe: Recipe | None = None, *, tags: Iterable[str] = ()
) -> tuple[Scan, Stack]:
    """Open the one scan that a file holds; raise ImageError with the reason where there is none."""
    found = find_scans(find_images(path), tags=tags)
    if not found.scans:
        reasons = {**found.skipped, **found.left_out}
        raise ImageError("; ".join(map(str, reasons.values() if found.skipped else reasons)))
    (scan,) = found.scans
    return scan, open_stack(scan, recipe or as_is())


def read_pixels(path: Path, *, channel: int | None = None) -> Array:
    """Return the pixels of a file with one image."""
    return open_file(path, as_is(channel=channel))[1].read(0)


def truncate(path: Path, share: float = 0.6) -> Path:
    """Cut the end of a file off."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def tree(folder: Path) -> dict[str, bytes]:
    """Return everything below a folder, hidden files too; folders end in a slash."""
    return {
        path.relative_to(folder).as_posix() + "/" * path.is_dir(): path.read_bytes()
        if path.is_file()
        else b""
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture(scope="session", autouse=True)
def _quick_judge() -> Iterator[None]:
    """Let the judge of an evaluation take a second; its own tests give it more steps."""
    from medxlate.evaluation import judge  # torch is loaded by those who need it

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge, "ARCHITECTURE", "test_resnet")
        patch.setattr(judge, "STEPS", (6, 6))
        yield
