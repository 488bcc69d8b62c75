"""Whether anything that identifies a patient is in a folder that is to be handed on.

Every value of the raw data that ``prepare`` kept in the dataset's ``identifiers.json`` is looked
for in every name, text, header and metadata below a folder. What is found is told by file, place
and kind, never by the value, so that the report can be handed on too.
"""

from __future__ import annotations

import base64
import codecs
import gzip
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import pandas as pd
import PIL.Image
import PIL.ImageSequence

from medxlate.dataset.identifiers import Identifiers, Needles
from medxlate.dataset.index import KEY_FILE, MODALITY_FILE
from medxlate.errors import DataError, UsageError
from medxlate.events import Listener, counted, silent
from medxlate.models.runs import LATEST, find_run
from medxlate.records import read_json

UNREADABLE = "cannot be looked into"
_Readings = tuple[str, ...]  # the encodings in which bytes are read
_CHUNK = 4 * 2**20
_OVERLAP = 2**13
_DAMAGED = (
    *(OSError, ValueError, EOFError, RuntimeError, AttributeError, struct.error),
    *(zlib.error, zipfile.BadZipFile, PIL.Image.DecompressionBombError),
)
_EMBEDDED = re.compile(r"data:[\w/+.-]*;base64,([A-Za-z0-9+/=\s]+)")
_PACKED = (b"\xfd7zXZ\x00", b"7z\xbc\xaf\x27\x1c", b"BZh", b"\x28\xb5\x2f\xfd", b"Rar!")


@dataclass(frozen=True, order=True)
class Finding:
    """One place that holds an identifying value.

    Attributes:
        file: Relative to the folder. Parts that hold a value themselves are hidden; such a path
            begins with a number, counted in the order of the paths: ``file 3: ***.txt``.
        where: "its name", a line, a column, a text chunk...
        kind: "a date", "an id or name", "a UID", "a path", "the key of the pseudonyms", or
            "cannot be looked into" where the file's content is not accessible.
    """

    file: str
    where: str
    kind: str


@dataclass(frozen=True)
class ScrubResult:
    """What was looked for, and what was found.

    Attributes:
        found: Every place, in the order of the files' paths.
        files: How many files were looked into.
        values: How many identifying values were looked for.
        too_short: How many have fewer than 4 characters and were not looked for.
        generic: How many say nothing about a patient ("ANONYMOUS", "TEST") and were not looked for.
    """

    found: list[Finding]
    files: int
    values: int
    too_short: int
    generic: int


@dataclass(frozen=True)
class _Piece:
    """Text out of a file; ``long_only`` where bytes are random and would match short values."""

    where: str
    text: str
    long_only: bool = False
    line: int | None = None


def scrub(
    folder: Path | str, *, data: Path | str | None = None, listener: Listener = silent
) -> ScrubResult:
    """Look for the identifying values of a dataset in a folder.

    Args:
        folder: A run, a model folder, or any other folder or file.
        data: The dataset folder; None: the one that the run's config.json names.
        listener: Told of progress.

    Raises:
        UsageError: The folder does not exist, or no dataset is known.
        DataError: The dataset has no list of identifying values.
    """
    folder = Path(folder)
    if not folder.exists():
        raise UsageError(f"{folder} does not exist.", "Name a run, a model or another folder.")
    if folder.is_file() and folder.name == LATEST:
        folder = find_run(folder).path
    dataset = Path(data) if data is not None else _dataset_of(folder)
    needles = Needles(_values(dataset), own_path=str(dataset.resolve()), key=_key(dataset))
    found: list[Finding] = []
    files = hidden = 0
    paths = [folder] if not folder.is_dir() else [folder, *sorted(folder.rglob("*"))]
    for path in counted(paths, "files", len(paths), listener):
        name = path.resolve().name if path == folder else _text_of(path.relative_to(folder))
        shown = needles.hidden(name)
        if shown != name:
            hidden += 1
            kind_of_path = "folder" if path.is_dir() and not path.is_symlink() else "file"
            shown = f"{kind_of_path} {hidden}: {shown}"
        places: set[tuple[str, str]] = {("its name", kind) for _, kind in needles.find(name)}
        if path.is_symlink():
            target = _text_of(path.readlink())
            places |= {("where the link points", kind) for _, kind in needles.find(target)}
        elif path.is_file():
            files += 1
            places |= set(_look(path, needles))
        found += [Finding(shown, where, kind) for where, kind in sorted(places, key=_in_order)]
    return ScrubResult(found, files, needles.count, needles.too_short, generic=needles.generic)


def _in_order(place: tuple[str, str]) -> tuple[str, int, str]:
    """Return what sorts places: lines by their number."""
    word, _, number = place[0].rpartition(" ")
    return (word, int(number), place[1]) if number.isdigit() else (place[0], 0, place[1])


def _look(path: Path, needles: Needles) -> Iterator[tuple[str, str]]:
    """Yield place and kind of what is found in a file."""
    pieces = _pieces(path, ("latin-1",) if needles.is_ascii else ("latin-1", "utf-8"))
    while True:
        try:
            piece = next(pieces, None)
        except _DAMAGED:
            yield "content", UNREADABLE
            return
        if piece is None:
            return
        for line, kind in needles.find(piece.text, long_only=piece.long_only):
            if piece.line is None:
                yield needles.hidden(piece.where), kind
            else:
                yield f"line {piece.line + line}", kind


def _pieces(path: Path, readings: _Readings) -> Iterator[_Piece]:
    with path.open("rb") as stream:
        start = stream.read(_OVERLAP)
        stream.seek(0)
        if start.startswith(_PACKED):
            raise ValueError("a packed format that is not unpacked")
        if path.suffix == ".safetensors":
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(min(length, 2**27)))
            names = [*header, *header.get("__metadata__", {}).values()]
            yield _Piece("header", json.dumps([*names, *header.get("__metadata__", {})]))
        elif start.startswith(b"PAR1"):
            yield from _table(path, readings)
        elif start.startswith(b"PK\x03\x04"):
            with zipfile.ZipFile(stream) as archive:
                for member in archive.infolist():
                    yield _Piece("name of a member", member.filename)
                    with archive.open(member) as inner:
                        yield from _stream(inner, "a member", readings)
        elif start.startswith(b"\x1f\x8b"):
            with gzip.open(stream) as inner:
                yield from _stream(inner, "content", readings)
        else:
            if start.startswith(b"\x89PNG"):
                yield from _png(path.read_bytes())
            elif start.startswith((b"II*\0", b"MM\0*")):
                yield from _tiff(path)
            yield from _stream(stream, "content", readings)


def _stream(stream: IO[bytes] | gzip.GzipFile, where: str, readings: _Readings) -> Iterator[_Piece]:
    """Yield a file in pieces that overlap; a text with its lines, the rest as bytes."""
    line, carried, encoding = 1, b"", ""
    first = True
    while chunk := stream.read(_CHUNK):
        block = carried + chunk
        if first:
            encoding, first = _encoding(block), False
            if not encoding:
                for each in readings:
                    yield _Piece("header", block[: _header_end(block)].decode(each, "replace"))
        if encoding:
            text = block.decode(encoding, "replace")
            for match in _EMBEDDED.finditer(text):
                yield from _embedded(match[1], readings)
            text = _EMBEDDED.sub(lambda found: "\n" * found[0].count("\n"), text)
            yield _Piece(where, text, line=line)
        else:
            for each in readings:
                yield _Piece(where, block.decode(each, "replace"), long_only=True)
        carried = block[-_OVERLAP:]
        line += block[: len(block) - len(carried)].count(b"\n")


def _embedded(text: str, readings: _Readings) -> Iterator[_Piece]:
    """Yield what an image inside an HTML page holds."""
    raw = base64.b64decode(text + "=" * (-len(text) % 4))
    if raw.startswith(b"\x89PNG"):
        for piece in _png(raw):
            yield _Piece(f"an image inside, {piece.where}", piece.text, piece.long_only)
    for piece in _stream(BytesIO(raw), "an image inside", readings):
        yield _Piece("an image inside", piece.text, piece.long_only)


def _encoding(block: bytes) -> str:
    """Return how a text is encoded, or "" where the bytes are no text."""
    if block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError("UTF-16")
    start = block[: 2**16]
    if re.search(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]", start):
        return ""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"


def _header_end(block: bytes) -> int:
    """Return where the part ends that holds words and not pixels, by the format."""
    if block[128:132] == b"DICM":
        pixels = block.rfind(b"\xe0\x7f\x10\x00")
        return pixels if pixels > 0 else len(block)
    if block[:4] in (b"\x5c\x01\x00\x00", b"\x00\x00\x01\x5c"):  # NIfTI-1: 348
        (offset,) = struct.unpack("<f" if block[0] else ">f", block[108:112])
        return int(min(max(offset, 352), len(block))) if offset == offset else 352
    if block.startswith(b"\xff\xd8"):  # JPEG: up to the start of scan
        return block.find(b"\xff\xda") + 1
    if block.startswith(b"NRRD"):
        return block.find(b"\n\n") + 1
    data = block.find(b"ElementDataFile")
    return data if data >= 0 else 0


def _png(raw: bytes) -> Iterator[_Piece]:
    """Yield the text chunks of a PNG (ISO/IEC 15948, section 11.3.4)."""
    place = 8
    while place + 12 <= len(raw):
        (length,) = struct.unpack(">I", raw[place : place + 4])
        name, body = raw[place + 4 : place + 8], raw[place + 8 : place + 8 + length]
        place += 12 + length
        key, _, rest = body.partition(b"\0")
        if name == b"zTXt":
            rest = zlib.decompress(rest[1:])
        elif name == b"iTXt":
            packed, tail = rest[:1] == b"\1", rest[2:].split(b"\0", 2)
            content = zlib.decompress(tail[-1]) if packed else tail[-1]
            rest = b"\n".join([*tail[:-1], content])
        elif name not in (b"tEXt", b"eXIf"):
            continue
        whole = key + b"\n" + rest
        for encoding in ("utf-8", "latin-1"):
            yield _Piece("a text chunk", whole.decode(encoding, "replace"))


def _tiff(path: Path) -> Iterator[_Piece]:
    """Yield the fields of every page of a TIFF."""
    try:
        with PIL.Image.open(path) as image:
            for page in PIL.ImageSequence.Iterator(image):
                fields = dict(getattr(page, "tag_v2", {}))
                text = "\n".join(str(value) for value in fields.values() if not _numeric(value))
                yield _Piece("a TIFF field", text)
    except PIL.UnidentifiedImageError:  # of a kind that pillow does not read
        yield _Piece("content", path.read_bytes().decode("latin-1"))


def _numeric(value: object) -> bool:
    return not isinstance(value, str | bytes)


def _table(path: Path, readings: _Readings) -> Iterator[_Piece]:
    frame = pd.read_parquet(path)
    for name in frame.columns:
        values = frame[name].drop_duplicates() if frame[name].dtype != object else frame[name]
        text = "\n".join(map(str, values))
        for start in range(0, max(len(text), 1), _CHUNK):
            yield _Piece(f"column {name}", f"{name}\n{text[start : start + _CHUNK + _OVERLAP]}")
    with path.open("rb") as stream:
        yield from _stream(stream, "content", readings)


def _dataset_of(folder: Path) -> Path:
    """Return the dataset that a run, or the run above a model folder, was trained on."""
    for place in (folder, folder.absolute().parent):
        if (place / "config.json").is_file():
            config: Any = read_json(place / "config.json", error=DataError)
            try:
                return Path(config["data"]["folder"])
            except (KeyError, TypeError):
                break
    raise UsageError(
        f"{folder} does not say from which dataset it was made.", "Name it with --data."
    )


def _values(dataset: Path) -> set[str]:
    modalities = sorted(path.parent for path in dataset.glob(f"*/{MODALITY_FILE}"))
    if not modalities:
        raise DataError(f"{dataset} holds no prepared modality.", "Name the dataset with --data.")
    return {value for folder in modalities for value in Identifiers.load(folder).values}


def _key(dataset: Path) -> str:
    path = dataset / KEY_FILE
    return path.read_text(encoding="ascii", errors="replace").strip() if path.is_file() else ""


def _text_of(path: Path) -> str:
    """Return a path as text, also one whose bytes are not UTF-8."""
    return path.as_posix().encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
