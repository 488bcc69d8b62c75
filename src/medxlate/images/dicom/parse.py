"""The elements of a DICOM file before its pixel data, read once and converted only when asked for.

pydicom splits the file into elements; their values stay bytes. Converting every element to
pydicom's types would cost more than reading the file.
"""

from __future__ import annotations

import io
import math
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom.charset import convert_encodings, decode_bytes
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.filereader import data_element_generator, read_partial
from pydicom.tag import BaseTag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from medxlate.base.errors import ImageError
from medxlate.images.dicom.tags import tag_of

HEAD = 1 << 16  # bytes read at first; most headers are shorter
MAX_INFLATED = 1 << 28  # of a deflated data set, bytes
FIRST_PIXEL_TAG, PIXEL_DATA, LAST_PIXEL_TAG = 0x7FE00008, 0x7FE00010, 0x7FE00010
UNDEFINED_LENGTH = 0xFFFFFFFF
CHARACTER_SET, TRANSFER_SYNTAX = 0x00080005, 0x00020010
UNUSUAL = frozenset({str(DeflatedExplicitVRLittleEndian), str(ExplicitVRBigEndian)})
PRIVATE_BLOCKS = range(0x10, 0x14)  # of the standard's 0x10 to 0xFF (PS3.5 7.8.1)
PADDING = " \0\t\r\n"
DELIMITERS = set(b"\\^=")  # after which the first character set holds again (PS3.5 6.1.2.5.3)
Element = RawDataElement | DataElement


class Elements:
    """The attributes of a data set or of an item of a sequence.

    A value that breaks the standard's form counts as absent.
    """

    def __init__(self, found: Mapping[int, Element], dataset: Dataset | None = None) -> None:
        self.found = found
        self._dataset = dataset

    @classmethod
    def of(cls, dataset: Dataset) -> Elements:
        """Return the elements of a data set of pydicom, converted or not."""
        tags = tuple(dataset.keys())
        return cls({int(tag): dataset.get_item(tag) for tag in tags}, dataset)

    @property
    def dataset(self) -> Dataset:
        """The same as a data set of pydicom, made when first asked for."""
        if self._dataset is None:
            self._dataset = Dataset({BaseTag(tag): item for tag, item in self.found.items()})
        return self._dataset

    def __contains__(self, keyword: str) -> bool:
        return tag_of(keyword) in self.found

    def text(self, keyword: str) -> str:
        """Return a value as text without padding; "" where it is absent."""
        return self.text_at(tag_of(keyword))

    def text_at(self, tag: int) -> str:
        """Return the value at a tag as text; several values are divided by backslashes."""
        value = self._value(tag)
        if value is None:
            return ""
        if isinstance(value, bytes):
            return self._decode(value).strip(PADDING)
        if isinstance(value, (list, tuple)) or type(value).__name__ == "MultiValue":
            return "\\".join(str(part) for part in value)
        return str(value).strip(PADDING)

    def values(self, keyword: str) -> list[str]:
        """Return the values of a text attribute, each without padding."""
        text = self.text(keyword)
        return [part.strip(PADDING) for part in text.split("\\")] if text else []

    def numbers(self, keyword: str, count: int) -> tuple[float, ...] | None:
        """Return exactly ``count`` finite numbers of a decimal string, or None."""
        return _numbers(self.values(keyword), count)

    def number(self, keyword: str) -> float | None:
        """Return one finite number, or None."""
        found = self.numbers(keyword, 1)
        return None if found is None else found[0]

    def integer(self, keyword: str) -> int | None:
        """Return an integer stored as text (IS), or None."""
        return _integer(self.text(keyword))

    def short(self, keyword: str) -> int | None:
        """Return an integer stored in binary (US, SS without sign), or None."""
        element = self.found.get(tag_of(keyword))
        value = None if element is None else element.value
        if not isinstance(value, bytes):
            return None if value is None else _integer(str(value))
        little = getattr(element, "is_little_endian", True)
        return int.from_bytes(value, "little" if little else "big") if len(value) == 2 else None

    def items(self, keyword: str) -> list[Elements]:
        """Return the items of a sequence."""
        if keyword not in self:
            return []
        sequence = self.dataset[BaseTag(tag_of(keyword))].value
        return [Elements.of(item) for item in sequence or () if isinstance(item, Dataset)]

    def private(self, group: int, creator: str, element: int) -> str:
        """Return a private value as text, from the block that its creator has reserved."""
        for block in PRIVATE_BLOCKS:
            if self.text_at(group << 16 | block) == creator:
                return self.text_at(group << 16 | block << 8 | element)
        return ""

    def _value(self, tag: int) -> Any:
        element = self.found.get(tag)
        return None if element is None else element.value

    def _decode(self, value: bytes) -> str:
        if value.isascii() and b"\x1b" not in value:
            return value.decode("ascii")
        declared = self._value(CHARACTER_SET)
        if isinstance(declared, bytes):
            declared = declared.decode("latin-1").strip(PADDING).split("\\")
        try:
            return str(decode_bytes(value, convert_encodings(declared), DELIMITERS))
        except (LookupError, ValueError):
            return value.decode("latin-1")


@dataclass(frozen=True, slots=True)
class Parsed:
    """A file's header and where its pixel data lies.

    Attributes:
        elements: What was asked for.
        syntax: Transfer syntax UID; guessed where the file does not say.
        pixel_tag: Tag of the pixel data; 0 where there is none.
        offset: Where the value of the pixel data begins; meaningless where deflated.
        length: Its declared length, bytes.
        size: Of the file, bytes.
    """

    elements: Elements
    syntax: str
    pixel_tag: int
    offset: int
    length: int
    size: int

    @property
    def deflated(self) -> bool:
        """Whether everything but the file meta information is deflated."""
        return self.syntax == DeflatedExplicitVRLittleEndian


def parse(path: Path, wanted: frozenset[int]) -> Parsed:
    """Read the wanted elements of a DICOM file up to its pixel data.

    A file without preamble or file meta information is read, too.

    Raises:
        ImageError: It is damaged, or deflated and larger than is read.
    """
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(HEAD)
    stop = _Stop(io.BytesIO(head))
    if syntax := _quick(stop, wanted):
        return _parsed(stop, syntax, size)
    with _Guarded(io.FileIO(path)) as stream:
        stop = _Stop(stream)
        try:
            dataset = read_partial(stream, stop, force=True, specific_tags=list(wanted))
        except ImageError:
            raise
        except Exception:  # a damaged file can break pydicom's parser in many ways
            raise ImageError("it is a damaged DICOM file") from None
    stop.found = Elements.of(dataset).found
    return _parsed(stop, _syntax(dataset), size)


def _parsed(stop: _Stop, syntax: str, size: int) -> Parsed:
    return Parsed(Elements(stop.found), syntax, stop.tag, stop.offset, stop.length, size)


def _quick(stop: _Stop, wanted: frozenset[int]) -> str:
    """Split the first bytes of a file in its usual form; return its syntax.

    Returns "" where they do not reach up to the pixel data, or the file has another form: without
    preamble, deflated, big endian...
    """
    stream = stop.stream
    if stream.read(132)[128:] != b"DICM":
        return ""
    try:
        meta = data_element_generator(stream, False, True, _beyond_meta)
        values = {int(element.tag): element.value for element in meta}
        syntax = (values.get(TRANSFER_SYNTAX) or b"").decode("ascii").strip(PADDING)
        if not syntax or syntax in UNUSUAL or not UID(syntax).is_transfer_syntax:
            return ""
        implicit = syntax == ImplicitVRLittleEndian
        tags = list(wanted)
        found = data_element_generator(stream, implicit, True, stop, specific_tags=tags)
        stop.found = {int(element.tag): element for element in found}
    except Exception:  # the first bytes may end anywhere; what is damaged fails again later
        return ""
    return syntax if stop.tag else ""


def _beyond_meta(tag: int, vr: str | None, length: int) -> bool:
    return tag >> 16 != 2


def _syntax(dataset: FileDataset) -> str:
    element = dataset.file_meta.get("TransferSyntaxUID")
    if element:
        return str(element)
    implicit, little = dataset.original_encoding
    if not little:
        return str(ExplicitVRBigEndian)
    return str(ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian)


class _Stop:
    """Halts pydicom's parser at the pixel data, and remembers where that begins."""

    def __init__(self, stream: io.BytesIO | io.BufferedReader) -> None:
        self.stream = stream
        self.tag = self.offset = self.length = 0
        self.found: Mapping[int, Element] = {}

    def __call__(self, tag: int, vr: str | None, length: int) -> bool:
        number = int.__int__(tag)
        if FIRST_PIXEL_TAG <= number <= LAST_PIXEL_TAG:
            self.tag, self.offset, self.length = number, self.stream.tell(), length
            return True
        return False


class _Guarded(io.BufferedReader):
    """A file of which pydicom reads the rest in one go only in order to inflate it."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size >= 0:
            return super().read(size)
        here = self.tell()
        check_inflated(self._pieces())
        self.seek(here)
        return super().read()

    def _pieces(self) -> Iterator[bytes]:
        while piece := super().read(1 << 16):
            yield piece


def check_inflated(pieces: Iterator[bytes]) -> None:
    """Raise ImageError where a deflated stream (RFC 1951) would grow beyond MAX_INFLATED bytes."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    total = 0
    for piece in pieces:
        while piece:
            total += len(inflater.decompress(piece, 1 << 20))
            piece = inflater.unconsumed_tail
            if total > MAX_INFLATED:
                raise ImageError(
                    f"it is deflated and expands to more than {MAX_INFLATED >> 20} MiB, the most "
                    "that is read"
                )
        if inflater.eof:
            return


def _numbers(texts: list[str], count: int) -> tuple[float, ...] | None:
    try:
        found = tuple(float(text) for text in texts)
    except ValueError:
        return None
    return found if len(found) == count and all(map(math.isfinite, found)) else None


def _integer(text: str) -> int | None:
    try:
        return int(float(text.strip(PADDING)))
    except (ValueError, OverflowError):
        return None
