"""Values that lie deep inside files are found, and what is not looked into is reported."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import lzma
import sqlite3
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.PngImagePlugin
import pydicom
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian

from conftest import save_dicom
from medxlate.dataset.identifiers import Identifiers
from medxlate.scrub import pieces, texts
from medxlate.scrub.scrub import Finding, scrub

VALUE = "Q7X1"
NAME = "Li"
HERE = "an ID or name"
UNSEEN = "could not be searched"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "ct"
    folder.mkdir(parents=True)
    (folder / "modality.json").write_text("{}")
    Identifiers(frozenset({VALUE, NAME, "Wu^Anna", "CT", "17", "Z"})).save(folder)
    return tmp_path / "data"


def look(data: Path, name: str, content: bytes) -> list[Finding]:
    folder = data.parent / "out"
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    return scrub(folder, data=data).found


def zipped(name: str, content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return stream.getvalue()


def gzip_named(name: bytes) -> bytes:
    packed = gzip.compress(b"")
    return packed[:3] + b"\x08" + packed[4:10] + name + b"\0" + packed[10:]


def tarred(name: str, content: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def picture(kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    PIL.Image.new("L", (8, 8)).save(stream, kind, **options)
    return stream.getvalue()


def exif(tag: int, value: object, part: int | None = None) -> PIL.Image.Exif:
    found = PIL.Image.Exif()
    (found.get_ifd(part) if part else found)[tag] = value
    return found


def png(key: str, *, international: bool) -> bytes:
    info = PIL.PngImagePlugin.PngInfo()
    (info.add_itxt if international else info.add_text)(key, f"of {VALUE}", zip=True)
    return picture("PNG", pnginfo=info)


def nifti() -> bytes:
    start = struct.pack("<i", 348).ljust(148, b"\0") + f"of {VALUE}".encode()
    header = bytearray(start.ljust(352, b"\0"))
    header[108:112], header[344:348] = struct.pack("<f", 352.0), b"n+1\0"
    return bytes(header) + bytes(64)


def dicom(tmp: Path, *, deflated: bool) -> bytes:
    path = tmp / "one.dcm"
    save_dicom(path, np.zeros((8, 8), np.int16), PatientID=VALUE)
    if deflated:
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        dataset.save_as(path)
    content = path.read_bytes()
    assert (VALUE.encode() in content) != deflated
    path.unlink()
    return content


def array(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


def arrays(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, a=values)
    return stream.getvalue()


def base(tmp: Path) -> bytes:
    with sqlite3.connect(tmp / "a.db") as opened:
        opened.execute("create table t (a text, b text)")
        opened.execute("insert into t values ('x', ?)", (VALUE,))
    opened.close()
    content = (tmp / "a.db").read_bytes()
    (tmp / "a.db").unlink()
    return content


TEXT = f"of {VALUE} alone".encode()
STRUCTURED = np.array([("x", VALUE)], dtype=[("a", "U4"), ("b", "S8")])
MAKERS: dict[str, Callable[[Path], bytes]] = {
    "zip in zip": lambda _: zipped("a.zip", zipped("a.txt", TEXT)),
    "zip in zip in zip": lambda _: zipped("b.zip", zipped("a.zip", zipped("a.txt", TEXT))),
    "tar.gz": lambda _: tarred("a.txt", TEXT),
    "name in tar.gz": lambda _: tarred(f"{VALUE}/a.txt", b""),
    "tar.gz in zip": lambda _: zipped("a.tgz", tarred("a.txt", TEXT)),
    "gzip's own name": lambda _: gzip_named(b"Li.txt"),
    "xz": lambda _: lzma.compress(TEXT),
    "bz2": lambda _: bz2.compress(TEXT),
    "nii.gz in zip": lambda _: zipped("a.nii.gz", gzip.compress(nifti())),
    "png in zip": lambda _: zipped("a.png", png("note", international=False)),
    "zTXt": lambda _: png("note", international=False),
    "iTXt": lambda _: png("note", international=True),
    "iCCP": lambda _: picture("PNG", icc_profile=bytes(128) + TEXT),
    "EXIF of a JPEG": lambda _: picture("JPEG", exif=exif(0x010E, f"of {VALUE}")),
    "UTF-16 in EXIF": lambda _: picture("JPEG", exif=exif(0x9C9B, VALUE.encode("utf-16-le"))),
    "a part of EXIF": lambda _: picture("JPEG", exif=exif(0xA430, VALUE, PIL.ExifTags.IFD.Exif)),
    "EXIF of a PNG": lambda _: picture("PNG", exif=exif(0x010E, VALUE)),
    "EXIF of a WebP": lambda _: picture("WEBP", exif=exif(0x9C9B, VALUE.encode("utf-16-le"))),
    "EXIF of a TIFF": lambda _: picture("TIFF", exif=exif(0x9C9B, VALUE.encode("utf-16-le"))),
    "deflated DICOM": lambda tmp: dicom(tmp, deflated=True),
    "DICOM in zip": lambda tmp: zipped("a.dcm", dicom(tmp, deflated=False)),
    "npy of texts": lambda _: array(np.array(["x", VALUE])),
    "npy of bytes": lambda _: array(np.array([b"x", VALUE.encode()])),
    "npy of records": lambda _: array(STRUCTURED),
    "npz": lambda _: arrays(np.array([VALUE])),
    "SQLite": base,
    "UTF-16": lambda _: TEXT.decode().encode("utf-16"),
    "data URL in HTML": lambda _: url(png("note", international=False), "<img src='{}'>"),
    "data URL in JSON": lambda _: json.dumps({"a": url(TEXT, "{}").decode()}).encode(),
    "escaped data URL": lambda _: url(zipped("a.txt", TEXT), '{{"a": "{}"}}').replace(b"/", b"\\/"),
    "data URL in SVG": lambda _: url(
        picture("JPEG", exif=exif(0x010E, VALUE)), '<svg><image href="{}"/></svg>'
    ),
    "an SVG in a data URL": lambda _: url(url(TEXT, "<svg><a href='{}'/></svg>"), "<p src='{}'>"),
    "base64 alone": lambda _: json.dumps({"a": base64.b64encode(TEXT * 4).decode()}).encode(),
    "zip as base64 in lines": lambda _: b"begin\n" + base64.encodebytes(zipped("a.txt", TEXT)),
}  # fmt: skip


def url(content: bytes, inside: str) -> bytes:
    encoded = base64.b64encode(content).decode()
    return inside.format(f"data:image/x;charset=utf-8;base64,{encoded}").encode()


@pytest.mark.parametrize("case", MAKERS)
def test_a_short_value_is_found_however_it_is_packed(case: str, data: Path, tmp_path: Path) -> None:
    content = MAKERS[case](tmp_path)
    if case not in ("name in tar.gz", "EXIF of a PNG", "EXIF of a JPEG", "a part of EXIF"):
        assert not content.startswith(TEXT)
    found = look(data, "a.x", content)
    assert {each.kind for each in found} == {HERE}
    assert VALUE not in repr(found)


def encrypted() -> bytes:
    content = bytearray(zipped("a.txt", TEXT))
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


def nested(times: int) -> bytes:
    content = TEXT
    for _ in range(times):
        content = zipped("a.zip", content)
    return content


NOISE = np.random.default_rng(0).bytes(600)
NOT_SEEN: dict[str, tuple[Callable[[], bytes], str]] = {
    "an encrypted member": (encrypted, "member a.txt: encrypted"),
    "7z in zip": (lambda: zipped("a.7z", b"7z\xbc\xaf\x27\x1c"), "member a.7z: packed as 7z"),
    "a damaged member": (lambda: zipped("a.gz", b"\x1f\x8b\x08 no"), "member a.gz: damaged"),
    "unknown bytes in tar.gz": (
        lambda: tarred("a.bin", NOISE), "member a.bin, content: of an unknown"
    ),
    "too deep": (lambda: nested(8), "nested in more than 5 archives"),
    "pickled objects": (
        lambda: array(np.array([{"a": 1}], dtype=object)), "content: an array of pickled objects"
    ),
    "unknown base64": (
        lambda: json.dumps({"a": base64.b64encode(NOISE).decode()}).encode(),
        "embedded base64: of an unknown kind",
    ),
    "unknown data URL": (
        lambda: url(NOISE, "<p src='{}'>"), "embedded data, content: of an unknown kind"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NOT_SEEN)
def test_what_is_not_looked_into_is_reported(case: str, data: Path) -> None:
    make, where = NOT_SEEN[case]
    (found,) = look(data, "a.x", make())
    assert found.kind == UNSEEN
    assert where in found.where


def test_a_damaged_member_leaves_the_others_to_be_looked_into(data: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.7z", b"7z\xbc\xaf\x27\x1c")
        archive.writestr("b.txt", f"first\nof {VALUE}")
    assert look(data, "a.zip", stream.getvalue()) == [
        Finding("a.zip", "member a.7z: packed as 7z", UNSEEN),
        Finding("a.zip", "member b.txt, line 2", HERE),
    ]


@pytest.mark.parametrize("kind", ["zip", "gzip", "png", "dicom"])
def test_a_bomb_is_not_unpacked(
    kind: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zeros of more than may be unpacked, in a few kilobytes."""
    monkeypatch.setattr(pieces, "MOST_UNPACKED", 2**20)
    zeros = b" " * (2**21)
    if kind == "png":
        content = picture("PNG", icc_profile=zeros)
    elif kind == "dicom":
        head = dicom(tmp_path, deflated=True)
        (length,) = struct.unpack_from("<L", head, 140)
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        content = head[: 144 + length] + packer.compress(zeros) + packer.flush()
    else:
        content = zipped("a.txt", zeros) if kind == "zip" else gzip.compress(zeros)
    assert len(content) < 2**14
    (found,) = look(data, "a.x", content)
    assert found.kind == UNSEEN
    assert "unpacked" in found.where


def element(number: int, representation: bytes, value: bytes) -> bytes:
    """Return an element of a DICOM file's meta group, padded to an even length."""
    value += b"\0" * (len(value) % 2)
    tag = struct.pack("<HH", 2, number)
    if representation == b"OB":
        return tag + b"OB\0\0" + struct.pack("<L", len(value)) + value
    size = struct.pack("<H" if representation else "<L", len(value))
    return tag + representation + size + value


SYNTAX = element(0x10, b"UI", DeflatedExplicitVRLittleEndian.encode())
TITLE = element(0x16, b"AE", NAME.encode())
META = {  # what stands before the deflated header
    "without its length": TITLE + SYNTAX,
    "of a huge length": element(0, b"UL", b"\xff\xff\xff\x7f") + TITLE + SYNTAX,
    "of a length that is too short": element(0, b"UL", bytes(4)) + TITLE + SYNTAX,
    "of a length that is too long": element(0, b"UL", b"\xff\0\0\0") + TITLE + SYNTAX,
    "of a length of another kind": element(0, b"OB", b"\xff" * 4) + TITLE + SYNTAX,
    "in implicit VR": element(0, b"", b"\1\0\0\0")
    + element(0x10, b"", DeflatedExplicitVRLittleEndian.encode())
    + element(0x16, b"", NAME.encode()),
    "with the syntax far behind": element(1, b"OB", bytes(2000)) + TITLE + SYNTAX,
}


@pytest.mark.filterwarnings("ignore:Expected explicit VR, but found implicit VR")
@pytest.mark.parametrize("text", [VALUE, NAME])
@pytest.mark.parametrize("meta", META.values(), ids=META)
def test_an_odd_meta_group_hides_neither_itself_nor_what_is_deflated(
    meta: bytes, text: str, data: Path
) -> None:
    """The header holds one value, and the title of the application entity the other."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    words = struct.pack("<HH2sH", 0x10, 0x20, b"LO", 4) + VALUE.encode()
    content = bytes(128) + b"DICM" + meta + packer.compress(words) + packer.flush()
    assert str(pydicom.dcmread(io.BytesIO(content)).PatientID) == VALUE
    Identifiers(frozenset({text})).save(data / "ct")
    assert look(data, "a.dcm", content) == [Finding("a.dcm", "header", HERE)]


@pytest.mark.parametrize("size", [pieces.BEGINNING - 144, 2**14], ids=["to the end", "beyond"])
def test_a_meta_group_beyond_what_is_looked_into_is_reported(size: int, data: Path) -> None:
    content = bytes(128) + b"DICM" + element(1, b"OB", bytes(size)) + SYNTAX + b"\3\0"
    assert UNSEEN in {each.kind for each in look(data, "a.dcm", content)}


@pytest.mark.parametrize(
    "after", [b"", b"\3\0" + VALUE.encode()], ids=["nothing", "an empty stream"]
)
def test_what_follows_a_deflated_stream_is_searched_and_none_is_reported(
    after: bytes, data: Path
) -> None:
    found = look(data, "a.dcm", bytes(128) + b"DICM" + SYNTAX + after)
    assert [each.kind for each in found] == [HERE if after else UNSEEN]


def test_a_jpeg_that_ends_in_a_marker_is_reported(data: Path) -> None:
    assert {each.kind for each in look(data, "a.jpg", b"\xff\xd8\xff\xe0\0\3x\xff")} == {UNSEEN}


def test_base64_across_two_blocks_is_reported(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "BLOCK", 2**15)
    page = b"<p>" + b"x " * (2**14 - 50) + url(zipped("a.txt", NOISE + TEXT), "'{}'")
    assert UNSEEN in {each.kind for each in look(data, "a.html", page)}


def test_words_after_a_data_url_are_no_part_of_it(data: Path) -> None:
    page = url(TEXT[:2], "{}") + f"\n{VALUE} was here".encode()
    assert look(data, "a.md", page) == [Finding("a.md", "line 2", HERE)]


@pytest.mark.parametrize(
    "name", ["scans/Li/1.dcm", "scans/li_1.dcm", "LI.png", "scan-Li.txt", "wu/a.png", "x/Wu-1.png"]
)
def test_a_short_name_is_found_in_a_path(data: Path, name: str) -> None:
    path = data.parent / "out" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    found = scrub(data.parent / "out", data=data).found
    assert {(each.where, each.kind) for each in found} == {("its name", HERE)}
    assert {"li", "wu"}.isdisjoint("".join(each.file for each in found).lower().split("/"))


@pytest.mark.parametrize("name", ["slices/1.dcm", "Lille.png", "Ali/x", "ct/17/z.txt", "wux_lix"])
def test_what_only_contains_a_short_name_is_no_finding(data: Path, name: str) -> None:
    path = data.parent / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("<ul><li>slices of CT, 17, Z, lithium</li></ul>")
    assert scrub(data.parent / "out", data=data).found == []


@pytest.mark.parametrize("text", ["of Li, who", "of LI.", "Li", '{"n": "Wu"}', "Li\u0308 x Li"])
def test_a_short_name_is_found_in_a_text(data: Path, text: str) -> None:
    assert {each.kind for each in look(data, "a.txt", text.encode())} == {HERE}


@pytest.mark.parametrize("is_deflated", [False, True])
def test_value_representations_of_dicom_are_no_names(
    is_deflated: bool, data: Path, tmp_path: Path
) -> None:
    Identifiers(frozenset({"Lo", "Da"})).save(data / "ct")
    content = dicom(tmp_path, deflated=is_deflated)
    assert look(data, "a.dcm", content) == []
    if is_deflated:  # compressed bytes spell anything by chance
        assert look(data, "b.dcm", content + b" Lo ") == []
