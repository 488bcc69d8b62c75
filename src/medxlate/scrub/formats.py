"""The words in files that are neither text nor archive: headers, metadata, tables."""

from __future__ import annotations

import json
import re
import sqlite3
import struct
from collections.abc import Iterable, Iterator
from itertools import islice
from math import prod
from typing import Any

import numpy as np
import pandas as pd
import PIL.Image
import PIL.ImageSequence
import pyarrow.parquet

from medxlate.scrub.pieces import BEGINNING, Piece, Source, Unseen, inflated

CHUNK = 4 * 2**20
OVERLAP = 2**13
PNG = b"\x89PNG"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PICTURES = (PNG, *TIFF, b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM")
NUMPY = b"\x93NUMPY"
PARQUET = b"PAR1"
SQLITE = b"SQLite format 3\0"
NEVER_TEXT = (NUMPY, PARQUET, SQLITE)
NIFTI = {b"\x5c\x01\0\0": "<", b"\0\0\x01\x5c": ">", b"\x1c\x02\0\0": "<", b"\0\0\x02\x1c": ">"}
DEFLATED = b"1.2.840.10008.1.2.1.99"  # the transfer syntax (PS3.5, A.5)
_LONG = frozenset(  # representations whose lengths have 4 bytes (PS3.5, 7.1.2)
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)
PIXELS = b"\xe0\x7f\x10\x00"
UNKNOWN = "of an unknown kind: searched only for values of 8 characters or more"
_REPRESENTATION = re.compile(  # PS3.5, 7.1.2: between a tag and a length, and no name
    r"(?<=[\0\x10])(?:A[EST]|CS|D[AST]|F[LD]|IS|L[OT]|O[BDFLVW]|PN|S[HLQSTV]|TM|U[CILNRSTV])"
    r"(?=[\0-\xff]\0)"
)
_NETWORKS = (".onnx", ".safetensors")
_EXIF_PARTS = (0x8769, 0x8825, 0xA005, 1)  # Exif, GPS, interoperability, thumbnail


def is_known(start: bytes) -> bool:
    """Whether bytes that begin like this are of a kind whose words are known to be found."""
    return (
        start.startswith((*PICTURES, NUMPY, PARQUET, SQLITE, b"NRRD", *NIFTI))
        or start[128:132] == b"DICM"
        or b"ElementDataFile" in start
    )


def binary(source: Source) -> Iterator[Piece | Unseen]:
    """Yield what a source holds that is not text: its words by its kind, then all of its bytes."""
    start, suffix = source.start, source.name[source.name.rfind(".") :].lower()
    content = source.place("content")
    if suffix == ".safetensors":
        yield from _safetensors(source)
        return
    if start.startswith(NUMPY):
        yield from _numpy(source)
    elif start.startswith(PARQUET):
        yield from _parquet(source)
    elif start.startswith(SQLITE):
        yield from _sqlite(source)
    elif start.startswith(PICTURES):
        yield from _picture(source)
    elif start[128:132] == b"DICM":
        yield from _dicom(source)
    elif not (
        is_known(start) or source.is_pixels or suffix in _NETWORKS or "tfevents" in source.name
    ):
        yield Unseen(content, UNKNOWN)
    yield from _bytes(source)


def _bytes(source: Source) -> Iterator[Piece]:
    """Yield the header, by the format, and then all bytes, in parts that overlap."""
    carried, first = b"", True
    stream = source.stream()
    while chunk := stream.read(CHUNK):
        block = carried + chunk
        for each in source.readings:
            if first:
                header = block[: _header_end(block)].decode(each, "replace")
                header = _REPRESENTATION.sub("  ", header) if block[128:132] == b"DICM" else header
                yield Piece(source.place("header"), header)
            yield Piece(source.place("content"), block.decode(each, "replace"), long_only=True)
        carried, first = block[-OVERLAP:], False


def _header_end(block: bytes) -> int:
    """Return where the part ends that holds words and not pixels, by the format."""
    if block[128:132] == b"DICM":
        meta = _meta_end(block)
        if DEFLATED in block[132:meta]:  # what follows is compressed
            return meta
        pixels = block.rfind(PIXELS)
        return pixels if pixels > 0 else len(block)
    if order := NIFTI.get(block[:4]):
        is_second = block[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c")
        code, place, least = ("q", 168, 544) if is_second else ("f", 108, 352)
        (offset,) = struct.unpack_from(order + code, block, place)
        return int(min(max(offset, least), len(block))) if offset == offset else least
    if block.startswith(b"\xff\xd8"):
        return _scan_start(block)
    if block.startswith(b"NRRD"):
        return block.find(b"\n\n") + 1
    data = block.find(b"ElementDataFile")
    return data if data >= 0 else 0


def _meta_end(block: bytes) -> int:
    """Return where the meta group of a DICOM file ends (PS3.10, 7.1).

    As pydicom does, this goes by the elements: the length that the group states may be absent or
    wrong, and some writers leave out the representations.
    """
    place = 132
    while block[place : place + 2] == b"\x02\0":
        representation = block[place + 4 : place + 6]
        if representation in _LONG:
            length = slice(place + 8, place + 12)
        elif b"AA" <= representation <= b"ZZ":
            length = slice(place + 6, place + 8)
        else:
            length = slice(place + 4, place + 8)
        place = length.stop + int.from_bytes(block[length], "little")
    return place


def _scan_start(block: bytes) -> int:
    """Return where the first scan of a JPEG begins (ITU-T T.81, annex B), not its thumbnail's."""
    place = 2
    while block[place : place + 1] == b"\xff" and block[place + 1] != 0xDA:
        place += 2 + int.from_bytes(block[place + 2 : place + 4], "big")
    return min(place, len(block))


def _safetensors(source: Source) -> Iterator[Piece]:
    stream = source.stream()
    (length,) = struct.unpack("<Q", stream.read(8))
    header = json.loads(stream.read(min(length, 2**27)))
    metadata = header.get("__metadata__", {})
    yield Piece(source.place("header"), json.dumps([*header, *metadata.values(), *metadata]))


def _numpy(source: Source) -> Iterator[Piece | Unseen]:
    """Yield the words of an array of texts; pickled objects are not looked into."""
    stream = source.seekable()
    stream.seek(0)
    version = np.lib.format.read_magic(stream)
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, _, kind = read(stream)
    if kind.hasobject:
        yield Unseen(source.place("content"), "an array of pickled objects")
    elif kind.kind in "USV":
        size = prod(shape) * kind.itemsize
        if size > len(source.whole()):
            raise ValueError("the array is truncated")
        stream.seek(0)
        words = np.lib.format.read_array(stream, allow_pickle=False).ravel().tolist()
        for some in _batched(words, 2**14):
            yield Piece(source.place("a value"), "\n".join(map(_words, some)))
    for name in kind.names or ():
        yield Piece(source.place("name of a field"), name)


def _batched(values: Iterable[Any], count: int) -> Iterator[list[Any]]:
    rest = iter(values)
    while some := list(islice(rest, count)):
        yield some


def _words(value: object) -> str:
    """Return a value as words: bytes in all encodings that metadata come in."""
    if isinstance(value, bytes):
        plain = value.removeprefix(b"UNICODE\0").removeprefix(b"ASCII\0\0\0")
        readings = {plain.decode(each, "replace") for each in ("latin-1", "utf-8")}
        if b"\0" in plain:
            readings |= {plain.decode(each, "replace") for each in ("utf-16-le", "utf-16-be")}
        return "\n".join(sorted(readings))
    if isinstance(value, tuple | list):
        return "\n".join(map(_words, value))
    return str(value)


def _parquet(source: Source) -> Iterator[Piece]:
    stream = source.seekable()
    metadata = pyarrow.parquet.read_metadata(stream).metadata or {}
    yield Piece(
        source.place("metadata"), _words([each for pair in metadata.items() for each in pair])
    )
    stream.seek(0)
    frame = pd.read_parquet(stream)
    for name in frame.columns:
        values = frame[name].drop_duplicates() if frame[name].dtype != object else frame[name]
        text = "\n".join(map(_words, values))
        for start in range(0, max(len(text), 1), CHUNK):
            part = f"{name}\n{text[start : start + CHUNK + OVERLAP]}"
            yield Piece(source.place(f"column {name}"), part)


def _sqlite(source: Source) -> Iterator[Piece]:
    with sqlite3.connect(":memory:") as base:
        base.deserialize(source.whole())
        for some in _batched(base.iterdump(), 256):
            yield Piece(source.place("a row"), "\n".join(some))
    base.close()


def _dicom(source: Source) -> Iterator[Piece | Unseen]:
    """Yield the header of a DICOM file that is deflated, explicit VR little endian (PS3.5, A.5)."""
    meta = _meta_end(source.start)
    # Of a longer file, the next element may be of this group too.
    if meta + (2 if len(source.start) == BEGINNING else 0) > len(source.start):
        yield Unseen(source.place("content"), "the file meta group is too long")
    if DEFLATED not in source.start[132:meta]:
        return
    words = inflated(source.whole()[meta:], source.allowance, raw=True)
    pixels = words.rfind(PIXELS)
    for each in source.readings:
        header = words[: pixels if pixels > 0 else len(words)]
        text = _REPRESENTATION.sub("  ", header.decode(each, "replace"))
        yield Piece(source.place("header"), text)


def _exif_part(exif: PIL.Image.Exif, part: int) -> list[Any]:
    """Return the values of a part of EXIF, none where there is no such part."""
    try:
        return list(exif.get_ifd(part).values())
    except KeyError:  # of pillow before 13, where another part is missing
        return []


def _picture(source: Source) -> Iterator[Piece | Unseen]:
    """Yield what stands in the metadata of a picture."""
    if source.start.startswith(PNG):
        yield from _png(source)
    try:
        with PIL.Image.open(source.seekable()) as image:
            exif = image.getexif()
            fields = [*exif.values(), *(v for p in _EXIF_PARTS for v in _exif_part(exif, p))]
            fields += [v for v in image.info.values() if isinstance(v, str | bytes)]
            yield Piece(source.place("metadata of the picture"), _words_of(fields))
            if source.start.startswith(TIFF):
                for page in PIL.ImageSequence.Iterator(image):
                    tags = dict(getattr(page, "tag_v2", {}))
                    yield Piece(source.place("a TIFF field"), _words_of(tags.values()))
    except PIL.UnidentifiedImageError:  # of a kind that pillow does not read
        if source.start.startswith(TIFF):
            yield Piece(source.place("content"), source.whole().decode("latin-1"))
        else:
            yield Unseen(source.place("content"), UNKNOWN)


def _words_of(fields: Iterable[Any]) -> str:
    """Return the words among fields; the others are numbers."""
    flat = [each for v in fields for each in (v if isinstance(v, tuple | list) else (v,))]
    return "\n".join(_words(each) for each in flat if isinstance(each, str | bytes))


def _png(source: Source) -> Iterator[Piece]:
    """Yield the text chunks of a PNG (ISO/IEC 15948, section 11.3)."""
    raw, place = source.whole(), 8
    while place + 12 <= len(raw):
        (length,) = struct.unpack(">I", raw[place : place + 4])
        name, body = raw[place + 4 : place + 8], raw[place + 8 : place + 8 + length]
        place += 12 + length
        key, _, rest = body.partition(b"\0")
        if name in (b"zTXt", b"iCCP"):
            rest = inflated(rest[1:], source.allowance)
        elif name == b"iTXt":
            is_packed, tail = rest[:1] == b"\1", rest[2:].split(b"\0", 2)
            content = inflated(tail[-1], source.allowance) if is_packed else tail[-1]
            rest = b"\n".join([*tail[:-1], content])
        elif name not in (b"tEXt", b"eXIf"):
            continue
        yield Piece(source.place("a text chunk"), _words(key + b"\n" + rest))
