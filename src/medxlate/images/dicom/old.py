"""Single-frame DICOM images. The only module that knows pydicom."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.processing import apply_modality_lut
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from medxlate.errors import ImageError, UsageError
from medxlate.images.image import Image

SOP_CLASSES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "PT": "1.2.840.10008.5.1.4.1.1.128",
}


def read_dicom(path: Path, *, tags: Iterable[str] = ()) -> Image:
    """Read a single-frame grey DICOM image.

    Stored values become physical ones by the modality LUT or rescale slope and intercept
    (PS3.3 C.11.1); MONOCHROME1 is turned, so that a large value is always bright, but for
    Hounsfield units, whose meaning does not depend on how they are shown.

    Args:
        path: The file.
        tags: Keywords of attributes to bring along, for instance ``PatientAge``.

    Raises:
        ImageError: Damaged, compressed in a way that cannot be decoded, multi-frame or colour.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of values that break the standard's form
        header = _read(path)
        try:
            return _image(header, path, tags)
        except ImageError:
            raise
        except Exception as problem:  # values that break the standard's form fail where used
            raise ImageError(f"{path} is a damaged DICOM file: {problem}.") from None


def _image(header: Dataset, path: Path, tags: Iterable[str]) -> Image:
    stored = _pixels(header, path)
    pixels = np.asarray(apply_modality_lut(stored, header), dtype=np.float32)
    found = {key: text for key in tags if (text := _text(header, key))}
    low, high = _full_range(header)
    is_ct = header.get("Modality") == "CT" and "RescaleSlope" in header
    is_hu = is_ct and str(header.get("RescaleType", "HU")) in ("HU", "US", "")
    if header.get("PhotometricInterpretation") == "MONOCHROME1" and not is_hu:
        pixels = (low + high) - pixels
    return Image(pixels, "HU" if is_hu else "", (low, high), found)


def check_keyword(keyword: str) -> None:
    """Raise UsageError unless ``keyword`` is a DICOM attribute's keyword."""
    if tag_for_keyword(keyword) is None:
        raise UsageError(
            f"'{keyword}' is no DICOM attribute.",
            "Use a keyword of the DICOM dictionary, such as PatientAge or PatientID; "
            "a column of a table needs --labels TABLE.",
        )


def new_uid(*entropy: str) -> str:
    """Return a DICOM UID: the same for the same strings, a random one for none."""
    return str(generate_uid(entropy_srcs=list(entropy) or None))


def write_dicom(
    path: Path, stored: np.ndarray[Any, Any], *, modality: str, attributes: Mapping[str, Any]
) -> None:
    """Write a grey single-frame image as explicit little endian DICOM.

    Args:
        path: The file to write.
        stored: int16 or uint16 [H, W], the values as stored.
        modality: CT, MR or PT.
        attributes: Further attributes by keyword (RescaleSlope, PatientAge...).
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(SOP_CLASSES[modality])
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header = Dataset()
    header.file_meta = meta
    header.SOPClassUID = meta.MediaStorageSOPClassUID
    header.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    header.Modality = modality
    header.Rows, header.Columns = stored.shape
    header.SamplesPerPixel = 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.BitsAllocated = header.BitsStored = 16
    header.HighBit = 15
    header.PixelRepresentation = int(stored.dtype == np.int16)
    for keyword, value in attributes.items():
        setattr(header, keyword, value)
    header.PixelData = stored.astype(stored.dtype.newbyteorder("<")).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    header.save_as(path, enforce_file_format=True)


def _read(path: Path) -> Dataset:
    try:
        return pydicom.dcmread(path)
    except Exception as problem:  # a damaged file can break pydicom's parser in many ways
        raise ImageError(f"{path} is a damaged DICOM file: {problem}.") from None


def _pixels(header: Dataset, path: Path) -> np.ndarray[Any, Any]:
    if "PixelData" not in header:
        raise ImageError(f"{path} holds no image (DICOM without pixel data).")
    if int(header.get("NumberOfFrames", 1) or 1) > 1:
        frames = header.NumberOfFrames
        raise ImageError(f"{path} holds {frames} frames; only single frames are read.")
    palette = header.get("PhotometricInterpretation") == "PALETTE COLOR"
    if palette or int(header.get("SamplesPerPixel", 1)) != 1:
        raise ImageError(f"{path} is a colour image; DICOM images must be grey.")
    try:
        return header.pixel_array
    except Exception as problem:  # missing decoders, short pixel data, contradicting attributes
        syntax = header.file_meta.get("TransferSyntaxUID")
        name = getattr(syntax, "name", syntax)
        raise ImageError(
            f"{path}: the pixels ({name}) cannot be decoded: {problem}".rstrip(".") + ".",
            "Where the compression is the cause, install python-gdcm beside medxlate.",
        ) from None


def _full_range(header: Dataset) -> tuple[float, float]:
    bits = int(header.get("BitsStored", 16))
    signed = bool(header.get("PixelRepresentation", 0))
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    slope = float(header.get("RescaleSlope", 1) or 1)
    intercept = float(header.get("RescaleIntercept", 0) or 0)
    ends = sorted((low * slope + intercept, high * slope + intercept))
    return ends[0], ends[1]


def _text(header: Dataset, keyword: str) -> str:
    value = header.get(keyword)
    return "" if value is None else str(value).strip()
