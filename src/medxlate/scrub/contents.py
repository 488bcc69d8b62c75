"""What a file holds, as pieces of text: archives are unpacked, each kind is read by its format."""

from __future__ import annotations

import base64
import binascii
import bz2
import gzip
import lzma
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Literal, cast

from medxlate.scrub import formats, texts
from medxlate.scrub.pieces import DAMAGED, DEEPEST, Allowance, Piece, Source, TooMuchError, Unseen

NOT_UNPACKED = {  # what they begin with, by what they are called
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"\x04\x22\x4d\x18": "LZ4",
    b"Rar!": "RAR",
    b"\x1f\x9d": "compress",
    b"MSCF": "a cabinet file",
    b"%PDF": "PDF",
    b"\xd0\xcf\x11\xe0": "an OLE file (older Office formats)",
    b"\x89HDF": "HDF5",
}
_PACKED: dict[bytes, Callable[[IO[bytes], Literal["rb"]], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"\xfd7zXZ\x00": lzma.open,
    b"BZh": bz2.open,
}
_DETACHED = {".raw": (".mhd", ".nhdr"), ".zraw": (".mhd",), ".img": (".hdr",)}


def contents(path: Path, readings: tuple[str, ...]) -> Iterator[Piece | Unseen]:
    """Yield what is in a file, and what of it is not looked into.

    Args:
        path: The file.
        readings: The encodings in which bytes are read that are no text.
    """
    headers = (path.with_suffix(suffix) for suffix in _DETACHED.get(path.suffix, ()))
    detached = any(header.is_file() for header in headers)
    yield from _look(
        Source(lambda: path.open("rb"), path.name, readings, Allowance(), is_pixels=detached)
    )


def _look(source: Source) -> Iterator[Piece | Unseen]:
    """Yield what a source holds; what fails in it leaves the rest of the file to be looked into."""
    where = source.where or "content"
    if source.depth > DEEPEST:
        yield Unseen(where, f"nested in more than {DEEPEST} archives")
        return
    try:
        yield from _by_kind(source)
    except TooMuchError as problem:
        yield Unseen(where, str(problem))
    except DAMAGED:
        yield Unseen(where, "damaged, encrypted or in an unknown format")
    finally:
        source.close()


def _by_kind(source: Source) -> Iterator[Piece | Unseen]:
    start = source.start
    for beginning, name in NOT_UNPACKED.items():
        if start.startswith(beginning):
            yield Unseen(source.where or "content", f"packed as {name}")
            return
    for beginning, unpack in _PACKED.items():
        if start.startswith(beginning):
            yield from _stream_of(source, unpack)
            return
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        yield from _zip(source)
    elif start[257:262] == b"ustar":
        yield from _tar(source)
    elif source.name.endswith(".safetensors") or start.startswith(formats.NEVER_TEXT):
        yield from formats.binary(source)
    elif encoding := texts.encoding_of(start):
        yield from _text(source, encoding)
    else:
        yield from formats.binary(source)


def _stream_of(source: Source, unpack: Callable[..., Any]) -> Iterator[Piece | Unseen]:
    start = source.start
    if start.startswith(b"\x1f\x8b") and start[3] & 8:  # RFC 1952: the name is in the header
        name = start[10:].split(b"\0")[0].decode("latin-1")
        yield Piece(source.place("name of the packed file"), name, is_name=True)
    inside = source.name.rsplit(".", 1)[0]
    yield from _look(
        source.inner(lambda: unpack(source.seekable(), "rb"), source.where, name=inside)
    )


def _zip(source: Source) -> Iterator[Piece | Unseen]:
    with zipfile.ZipFile(source.seekable()) as archive:
        yield Piece(source.place("comment"), archive.comment.decode("latin-1"))
        for member in archive.infolist():
            yield Piece(source.place("name of an archive member"), member.filename, is_name=True)
            yield Piece(source.place("comment"), member.comment.decode("latin-1"))
            inside = source.member(_opener(archive, member), member.filename)
            if member.flag_bits & 1:
                yield Unseen(inside.where, "encrypted")
            elif not member.is_dir():
                yield from _look(inside)


def _opener(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Callable[[], IO[bytes]]:
    return lambda: archive.open(member)


def _tar(source: Source) -> Iterator[Piece | Unseen]:
    with tarfile.open(fileobj=cast("Any", source.stream()), mode="r|") as archive:
        for member in archive:
            words = [member.name, member.linkname, member.uname, member.gname]
            words += [f"{key}={value}" for key, value in member.pax_headers.items()]
            yield Piece(source.place("name of an archive member"), "\n".join(words), is_name=True)
            content = archive.extractfile(member) if member.isfile() else None
            if content is not None:
                yield from _look(source.member(_given(content), member.name))


def _given(content: IO[bytes]) -> Callable[[], IO[bytes]]:
    return lambda: content


def _text(source: Source, encoding: str) -> Iterator[Piece | Unseen]:
    """Yield a text with its lines, and what stands in it as base64."""
    for block, line, is_cut in texts.blocks(source.stream(), encoding):
        if texts.has_control(block):
            yield Unseen(source.place("content"), "text followed by bytes that are not text")
        for found in texts.encoded(block):
            where = source.place(found.where)
            if is_cut and found.at_end:
                yield Unseen(where, "too long to be searched")
                continue
            try:
                raw = base64.b64decode(found.text + "=" * (-len(found.text) % 4))
            except binascii.Error:
                raw = b""
            inside = source.inner(_given(BytesIO(raw)), where)
            if found.is_declared or _is_known(raw):
                yield from _look(inside)
            elif found.is_long:
                yield Unseen(where, "of an unknown kind")
        blank = texts.without_encoded(block)
        for start, part in texts.parts(blank):
            yield Piece(source.place("content"), part, line=line + blank.count("\n", 0, start))


def _is_known(raw: bytes) -> bool:
    """Whether a block that does not say what it is holds a text or a file of a known kind."""
    beginnings = (*NOT_UNPACKED, *_PACKED, b"PK\x03\x04")
    return raw.startswith(beginnings) or texts.is_plain(raw) or formats.is_known(raw[: 2**13])
