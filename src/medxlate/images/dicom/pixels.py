"""The pixels of one DICOM frame, in physical values."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import get_frame
from pydicom.filereader import dcmread
from pydicom.pixels.processing import apply_modality_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID, JPEG2000TransferSyntaxes, RLELossless

from medxlate.base.errors import ImageError
from medxlate.images.dicom import decoder
from medxlate.images.dicom.header import stored_range
from medxlate.images.dicom.parse import Parsed, parse
from medxlate.images.dicom.tags import tag_of
from medxlate.images.quiet import without_warnings
from medxlate.images.scan import Frame
from medxlate.images.stack import FloatArray

Stored = npt.NDArray[np.integer[Any]]

DECODED = frozenset(
    map(
        tag_of,
        (
            "SamplesPerPixel",
            "PhotometricInterpretation",
            "NumberOfFrames",
            "Rows",
            "Columns",
            "BitsAllocated",
            "BitsStored",
            "HighBit",
            "PixelRepresentation",
            "ModalityLUTSequence",
            "ExtendedOffsetTable",
            "ExtendedOffsetTableLengths",
        ),
    )
)
# ISO/IEC 10918-1 B.1.1.3 (SOF0..SOF15 without DHT, JPG, DAC) and 14495-1 C.1.1 (SOF55)
START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
CODESTREAM_2000 = b"\xff\x4f\xff\x51"  # ISO/IEC 15444-1 A.4.1, A.5.1: SOC, then SIZ


def read_frame(frame: Frame) -> FloatArray:
    """Read a frame as float32 [H, W] in physical values (see ``read_header``); NaN: padding.

    Raises:
        ImageError: Truncated, damaged, or compressed in a way that cannot be decoded.
    """
    try:
        if frame.offset >= 0:
            raw = _plain(frame)
            stored = _used_bits(raw, frame)
            return _without_padding(_physical(stored, frame), frame, raw, stored)
        with without_warnings():  # pydicom warns of what it mends by itself
            return _decoded(frame)
    except ImageError:
        raise
    except OSError as problem:
        raise ImageError(f"it cannot be read: {problem.strerror}") from None
    except Exception:  # decoders fail in many ways
        raise ImageError(decoder.DAMAGED) from None


def _plain(frame: Frame) -> Stored:
    kind = np.dtype(frame.stored)
    needed = frame.rows * frame.columns * kind.itemsize
    with open(frame.file.path, "rb", buffering=0) as file:
        file.seek(frame.offset)
        data = file.read(needed)
    if len(data) < needed:
        raise ImageError(f"it is truncated: a frame has {len(data)} of {needed} bytes")
    return np.frombuffer(data, kind).reshape(frame.rows, frame.columns)


def _used_bits(raw: Stored, frame: Frame) -> Stored:
    unused = 8 * raw.itemsize - frame.bits
    if not unused or (raw.dtype.kind == "u" and int(raw.max()) < 1 << frame.bits):
        return raw
    return (raw << unused) >> unused  # PS3.5 8.1.1


def _without_padding(pixels: FloatArray, frame: Frame, *stored: Stored) -> FloatArray:
    """Set pixels to NaN of which a stored value is padding, with or without its unused bits.

    Some files pad with a value that BitsStored cannot hold.
    """
    if frame.padding is not None:
        low, high = frame.padding
        for values in stored:
            pixels[(values >= low) & (values <= high)] = np.nan
    return pixels


def _physical(stored: Stored, frame: Frame) -> FloatArray:
    """Scale stored values."""
    if frame.slope == 1 and frame.intercept.is_integer() and stored.itemsize <= 2:
        pixels = stored.astype(np.float32)
        pixels += np.float32(frame.intercept)
    else:
        pixels = (stored * np.float64(frame.slope) + frame.intercept).astype(np.float32)
    if frame.inverted:
        ends = sum(stored_range(frame))
        return np.float32(ends * frame.slope + 2 * frame.intercept) - pixels
    return pixels


def _decoded(frame: Frame) -> FloatArray:
    parsed = parse(frame.file.path, DECODED)
    stored, header = _unpacked(frame, parsed)
    if stored.shape != (frame.rows, frame.columns):
        raise ImageError("its pixels do not have the size given in its header")
    if "ModalityLUTSequence" not in header:
        return _without_padding(_physical(stored, frame), frame, stored)
    pixels = np.asarray(apply_modality_lut(stored, header), dtype=np.float32)
    top = (1 << int(header.ModalityLUTSequence[0].LUTDescriptor[2])) - 1
    pixels = np.float32(top) - pixels if frame.inverted else pixels.copy()
    return _without_padding(pixels, frame, stored)


def _unpacked(frame: Frame, parsed: Parsed) -> tuple[Stored, Dataset]:
    """Return stored values, and a data set with the modality LUT where there is one."""
    if UID(parsed.syntax).is_encapsulated:
        stream = _codestream(frame, parsed)
        attributes = {
            "syntax": parsed.syntax,
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "Rows": frame.rows,
            "Columns": frame.columns,
            "BitsAllocated": parsed.elements.short("BitsAllocated"),
            "BitsStored": frame.bits,
            "HighBit": frame.bits - 1,
            "PixelRepresentation": int(frame.stored[1] == "i"),
        }
        in_python = parsed.syntax == RLELossless
        decode = decoder.decode_here if in_python else decoder.decode
        return decode(attributes, stream), parsed.elements.dataset
    header = dcmread(frame.file.path, force=True)
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = UID(parsed.syntax)
    return pixel_array(header, index=frame.number), header


def _codestream(frame: Frame, parsed: Parsed) -> bytes:
    values = parsed.elements
    tables = [values.dataset.get(f"ExtendedOffsetTable{end}") for end in ("", "Lengths")]
    with open(frame.file.path, "rb") as file:
        file.seek(parsed.offset)
        stream: bytes = get_frame(
            file,
            frame.number,
            number_of_frames=max(1, values.integer("NumberOfFrames") or 1),
            extended_offsets=tuple(tables) if all(tables) else None,
        )
    if parsed.syntax != RLELossless:  # its decoder checks the length of what it writes
        _check_codestream(stream, frame, jpeg2000=parsed.syntax in JPEG2000TransferSyntaxes)
    return stream


@dataclass(frozen=True)
class Codestream:
    """What a compressed frame claims for itself."""

    height: int
    width: int
    components: int
    bits: int


def _check_codestream(stream: bytes, frame: Frame, *, jpeg2000: bool) -> None:
    """Raise ImageError unless a compressed frame is what the header says.

    Decoders allocate what the frame claims, and some end the whole process at a depth that they
    do not know.
    """
    found = read_codestream(stream, jpeg2000=jpeg2000)
    if (found.height, found.width) != (frame.rows, frame.columns):
        raise ImageError(
            f"its compressed pixels are {found.width}x{found.height}, its header says "
            f"{frame.columns}x{frame.rows}"
        )
    if found.components != 1 or not 2 <= found.bits <= 8 * np.dtype(frame.stored).itemsize:
        raise ImageError(
            f"its compressed pixels have {found.components} components of {found.bits} bits, "
            "unlike its header"
        )


def read_codestream(stream: bytes, *, jpeg2000: bool) -> Codestream:
    """Return what the header of a JPEG, JPEG-LS or JPEG 2000 stream says.

    Raises:
        ImageError: It has none.
    """
    try:
        found = _read_2000(stream) if jpeg2000 else _read_jpeg(stream)
    except (struct.error, IndexError):
        found = None
    if found is None:
        raise ImageError("its compressed pixels are damaged or truncated: they have no header")
    return found


def _read_2000(stream: bytes) -> Codestream | None:
    start = stream.find(CODESTREAM_2000)
    if start < 0:
        return None
    right, bottom, left, top = struct.unpack_from(">4I", stream, start + 8)
    components, depth = struct.unpack_from(">HB", stream, start + 40)
    return Codestream(bottom - top, right - left, components, (depth & 0x7F) + 1)


def _read_jpeg(stream: bytes) -> Codestream | None:
    at = 2
    while stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
        elif marker in START_OF_FRAME:
            bits, height, width, components = struct.unpack_from(">BHHB", stream, at + 4)
            return Codestream(height, width, components, bits)
        else:
            at += 2 + int(struct.unpack_from(">H", stream, at + 2)[0])
    return None
