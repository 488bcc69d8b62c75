"""The pieces of a file that are searched, and how much of it may be unpacked."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from io import BytesIO
from lzma import LZMAError
from typing import IO, cast

import PIL.Image

LARGEST = 2**28  # bytes of a packed file that must be held in memory to be looked into
MOST_UNPACKED = 2**32  # bytes out of one file, whatever is nested in it
DEEPEST = 5  # archives inside archives
BEGINNING = 2**13
DAMAGED = (
    *(OSError, ValueError, EOFError, RuntimeError, AttributeError, LookupError, TypeError),
    *(struct.error, zlib.error, LZMAError, zipfile.BadZipFile, SyntaxError, OverflowError),
    *(MemoryError, PIL.Image.DecompressionBombError),
)


@dataclass(frozen=True)
class Piece:
    """Text out of a file.

    Attributes:
        where: Where it stands.
        text: What is searched.
        long_only: Whether bytes are random, so that short values would turn up by chance.
        line: The number of its first line; None without lines.
        is_name: Whether it is the name of a file.
    """

    where: str
    text: str
    long_only: bool = False
    line: int | None = None
    is_name: bool = False


@dataclass(frozen=True)
class Unseen:
    """A part that is not searched, or not completely."""

    where: str
    why: str


class TooMuchError(Exception):
    """More is packed in a file than is unpacked."""


@dataclass
class Allowance:
    """How many bytes may still be unpacked out of one file."""

    left: int = field(default_factory=lambda: MOST_UNPACKED)

    def take(self, count: int) -> None:
        """Count bytes that were unpacked.

        Raises:
            TooMuchError: No more may be unpacked.
        """
        self.left -= count
        if self.left < 0:
            raise TooMuchError(f"more than {MOST_UNPACKED // 2**20} MiB when unpacked")


@dataclass(frozen=True)
class Source:
    """Bytes that are looked into: a file, a member of an archive, a block of base64.

    Attributes:
        open: Opens them from the beginning; what it returns is closed by the reader.
        name: Its name, for the kinds that are known by their suffix.
        where: Where it lies inside the file; "" for the file itself.
        depth: Inside how many archives.
        allowance: How much may still be unpacked.
        is_pixels: Whether a header beside it says that these bytes are pixels.
        readings: The encodings in which bytes are read.
    """

    open: Callable[[], IO[bytes]]
    name: str
    readings: tuple[str, ...]
    allowance: Allowance
    where: str = ""
    depth: int = 0
    is_pixels: bool = False

    @cached_property
    def _stream(self) -> IO[bytes]:
        return self.open()

    @cached_property
    def start(self) -> bytes:
        """The first bytes."""
        return self._read(BEGINNING)

    def stream(self) -> IO[bytes]:
        """Return the bytes from the beginning; of packed ones, once, unless they are held."""
        if not self.depth:
            self._stream.seek(0)
            return self._stream
        if "_held" in self.__dict__:
            return BytesIO(self._held)
        return cast("IO[bytes]", _Continued(self.start, self._read))

    def seekable(self) -> IO[bytes]:
        """Return the bytes, to be read in any order; what is packed is held in memory.

        Raises:
            TooMuchError: It is larger than may be held.
        """
        return BytesIO(self._held) if self.depth else self.stream()

    def whole(self) -> bytes:
        """Return all bytes.

        Raises:
            TooMuchError: There are more than may be held.
        """
        return self._held if self.depth else _all(self.stream())

    @cached_property
    def _held(self) -> bytes:
        return _all(self.stream())

    def place(self, where: str) -> str:
        """Return where something is, inside the file."""
        return f"{self.where}, {where}" if self.where else where

    def inner(self, opened: Callable[[], IO[bytes]], where: str, *, name: str = "") -> Source:
        """Return what is packed in this source."""
        return replace(
            self, open=opened, name=name, where=where, depth=self.depth + 1, is_pixels=False
        )

    def member(self, opened: Callable[[], IO[bytes]], name: str) -> Source:
        """Return a member of this archive."""
        outer = f"{self.where}/" if self.where else "member "
        return self.inner(opened, f"{outer}{name}", name=name)

    def close(self) -> None:
        """Close what was opened."""
        if "_stream" in self.__dict__:
            self._stream.close()

    def _read(self, size: int) -> bytes:
        found = self._stream.read(size)
        if self.depth:
            self.allowance.take(len(found))
        return found


def _all(stream: IO[bytes]) -> bytes:
    found = stream.read(LARGEST + 1)
    if len(found) > LARGEST:
        raise TooMuchError(f"larger than {LARGEST // 2**20} MiB")
    return found


class _Continued:
    """A stream with a beginning that was read before."""

    def __init__(self, start: bytes, read: Callable[[int], bytes]) -> None:
        self._start = start
        self._read = read

    def read(self, size: int) -> bytes:
        """Return up to as many bytes; fewer only at the end, or where the beginning ends."""
        if self._start:
            found, self._start = self._start[:size], self._start[size:]
            return found if len(found) == size else found + self._read(size - len(found))
        return self._read(size)


def inflated(packed: bytes, allowance: Allowance, *, raw: bool = False) -> bytes:
    """Return deflated bytes as they were, and after them what follows their stream.

    Args:
        packed: A zlib stream (RFC 1950), or one of DEFLATE alone (RFC 1951).
        allowance: What may be unpacked.
        raw: Whether it is DEFLATE alone.

    Raises:
        TooMuchError: They are larger than may be held.
        zlib.error: They are damaged or cut off.
    """
    machine = zlib.decompressobj(-zlib.MAX_WBITS if raw else zlib.MAX_WBITS)
    found = machine.decompress(packed, min(LARGEST, max(allowance.left, 1)))
    allowance.take(len(found))
    if machine.unconsumed_tail:
        raise TooMuchError("too large to be unpacked")
    if not machine.eof:
        raise zlib.error("the stream is truncated")
    return found + machine.unused_data
