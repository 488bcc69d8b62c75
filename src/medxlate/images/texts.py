"""Identifying words in the headers of volume files and in the JSON files beside them.

NRRD key/value pairs and comments, MetaImage fields, the texts of NIfTI and Analyze headers and
BIDS sidecars are searched, with no imaging library. Of fields with a name, those count whose name
says so: a word such as ``patient`` or ``accession``, or the number of a DICOM attribute, as ITK
and Slicer write it (``0010|0010``, ``DICOM_0010_0010``).
"""

from __future__ import annotations

import gzip
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from medxlate.images.nifti import is_analyze, nifti_version

MAX_BYTES = 1 << 20  # of a header, or of a sidecar, that are searched
SIDECAR_BYTES = 1 << 22  # of a sidecar whose values are read
LONGEST = 256  # characters of a value that may turn up elsewhere as a whole
MIN_NAME = 4  # letters of a part of a name that counts as identifying by itself

_PARTS_OF_KEYS = (
    *("patient", "subject", "birth", "study", "accession", "institut", "hospital", "physician"),
    *("operator", "station", "serial", "address", "phone", "comment", "instanceuid"),
)
_WORDS_OF_KEYS = frozenset(
    {"id", "uid", "identifier", "name", "names", "date", "dates", "datetime", "mrn"}
)
# Words of keys whose values say something of the body, the machine or the task, but nobody's name.
_HARMLESS_WORDS = frozenset(
    [
        *("sex", "age", "size", "weight", "position", "orientation", "description"),
        *("protocol", "sequence", "model", "manufacturer", "manufacturers", "coil", "task"),
        *("class", "syntax"),
    ]
)
# DICOM attributes by number (PS3.6), as in the DICOM JSON model and in ITK's dictionaries.
_ID_GROUPS = ("0010", "0038")  # of patient and visit
_NO_ID = frozenset(  # PatientSex, PatientAge, PatientSize, PatientWeight
    {"00100040", "00101010", "00101020", "00101030"}
)
_ID_TAGS = frozenset(
    [
        *("00080012", "00080018", "00080020", "00080021", "00080022", "00080023", "0008002a"),
        *("00080050", "00080080", "00080081", "00080090", "00080092", "00080094", "00081010"),
        *("00081048", "00081050", "00081060", "00081070", "00181000", "00181002", "00181200"),
        *("0020000d", "0020000e", "00200010", "00200052", "00204000", "00321032", "00400244"),
        *("00400253", "00401001"),
    ]
)
_TAG = re.compile(r"(?:dicom[_ ]?)?([0-9a-f]{4})[|,_]?([0-9a-f]{4})", re.IGNORECASE)
_UID = re.compile(r"[0-9]+(?:\.[0-9]+){5,}")
_DATE = re.compile(
    r"(?:18|19|20)\d\d([-./]?)(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12]\d|3[01])(?:(?:T|\d{6}).*)?"
)
_PAIR = re.compile(r'"((?:[^"\\]|\\.)*)"\s*:\s*("(?:[^"\\]|\\.)*"|-?\d+(?![\d.eE]))')
# Byte offset and length of the texts, by NIfTI version; 0: Analyze 7.5.
_NIFTI_TEXTS = {
    0: ((14, 18), (148, 80), (228, 24), (283, 10), (293, 10)),
    1: ((14, 18), (148, 80), (228, 24), (328, 16)),
    2: ((240, 80), (320, 24), (508, 16)),
}
# What programs write as comments, and medxlate into its own volumes.
_BOILERPLATE = ("complete nrrd file format", "http://teem.sourceforge.net", "synthetic ")


def identifying_texts(path: Path) -> frozenset[str]:
    """Return the identifying values in the header of a volume file and in its sidecar.

    At most 1 MiB of either is read. Values come in the forms in which they may turn up elsewhere:
    dates also as YYYY-MM-DD, names also part by part. Of free text (comments, NIfTI texts) the
    whole and what looks like a name of DICOM (``Doe^Jane``), a date or a UID.

    Args:
        path: A NIfTI, NRRD or MetaImage file; of any other only the sidecar is read. What cannot
            be read holds nothing.
    """
    found: set[str] = set()
    for read in (_header_texts, _sidecar_texts):
        try:
            for text in read(path):
                found |= text
        except (OSError, EOFError, ValueError, RecursionError, zlib.error):
            continue  # what was found so far stays
    return frozenset(found - {""})


def sidecar_of(path: Path) -> Path:
    """Return where the JSON file of a volume lies (BIDS): its name with .json as the suffix."""
    stem = re.sub(r"\.(gz|nii|hdr|nrrd|nhdr|mha|mhd)$", "", path.name, flags=re.IGNORECASE)
    stem = re.sub(r"\.nii$", "", stem, flags=re.IGNORECASE)
    return path.with_name(stem + ".json")


def read_sidecar(path: Path) -> dict[str, str]:
    """Return the scalar values of the JSON file beside a volume (BIDS), as text.

    The file has the volume's name with .json in place of .nii.gz, .nii...; {} where it is absent,
    damaged or holds no object.
    """
    sidecar = sidecar_of(path)
    if not os.path.isfile(sidecar):  # another kind of file (a pipe) might never end
        return {}
    try:
        with sidecar.open("rb") as stream:
            values = json.loads(stream.read(SIDECAR_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(values, dict):
        return {}
    return {
        _plain(key): _plain(value)
        for key, value in values.items()
        if isinstance(value, str | int | float | bool)
    }


def _plain(value: object) -> str:
    """Return a value as text that can be encoded: half a surrogate cannot."""
    return str(value).encode(errors="replace").decode()


def is_identifying(key: str) -> bool:
    """Whether the value of a field with this name may identify a person, a place or a device."""
    if tag := _TAG.fullmatch(key):
        number = (tag[1] + tag[2]).lower()
        return number in _ID_TAGS or (number[:4] in _ID_GROUPS and number not in _NO_ID)
    words = [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", key)]
    if not _HARMLESS_WORDS.isdisjoint(words):
        return False
    if words[-1:] == ["time"] and "date" not in words:
        return False
    small = key.lower()
    return not _WORDS_OF_KEYS.isdisjoint(words) or any(part in small for part in _PARTS_OF_KEYS)


def spellings(text: str, kind: str, *, by_part: bool) -> set[str]:
    """Return a value in the forms in which it may turn up elsewhere.

    Args:
        text: The value.
        kind: Its DICOM value representation, where that matters: PN, DA, DT.
        by_part: Whether it is the name of a patient, whose parts count, too.
    """
    if kind in ("DA", "DT"):
        day = text[:8]
        dashed = f"{day[:4]}-{day[4:6]}-{day[6:]}"
        return {text, day, dashed} if len(day) == 8 and day.isdigit() else {text}
    forms = {text.rstrip("^= ")} if kind == "PN" else {text}
    if by_part:
        parts = text.replace("=", "^").replace(",", "^").replace(" ", "^").split("^")
        forms |= {part for part in parts if sum(map(str.isalpha, part)) >= MIN_NAME}
    return forms


def _header_texts(path: Path) -> Iterator[set[str]]:
    with path.open("rb") as stream:
        head = stream.read(1024)
    if head.startswith(b"\x1f\x8b"):
        with gzip.open(path) as unpacked:
            head = unpacked.read(1024)
    if head.startswith(b"NRRD000"):
        yield from _nrrd_texts(path)
    elif nifti_version(head) or is_analyze(head):
        for start, length in _NIFTI_TEXTS[nifti_version(head)]:
            field = head[start : start + length].split(b"\0")[0]
            yield _free_text(field.decode("utf-8", "replace"))
    elif re.search(rb"^(ObjectType|NDims)\s*=", head, re.M):
        yield from _meta_texts(path)


def _nrrd_texts(path: Path) -> Iterator[set[str]]:
    for line in _lines(path):
        if not line:
            return
        key, sign, value = line.partition(":=")
        if line.startswith("#"):
            yield _free_text(line.lstrip("# "))
        elif line.lower().startswith("content:"):
            yield _free_text(line.partition(":")[2])
        elif sign:
            yield _of_field(key.strip(), value.replace("\\n", " "))


def _meta_texts(path: Path) -> Iterator[set[str]]:
    for line in _lines(path):
        key, sign, value = line.partition("=")
        if key.strip() == "ElementDataFile":
            return
        if sign:
            yield _of_field(key.strip(), value)


def _lines(path: Path) -> Iterator[str]:
    with path.open("rb") as stream:
        while (left := MAX_BYTES - stream.tell()) > 0 and (line := stream.readline(left)):
            yield line.decode("utf-8", "replace").strip()


def _sidecar_texts(path: Path) -> Iterator[set[str]]:
    if not os.path.isfile(sidecar_of(path)):
        return
    with sidecar_of(path).open("rb") as stream:
        text = stream.read(MAX_BYTES).decode("utf-8", "replace").removeprefix("\ufeff")
    try:
        pairs: Iterable[tuple[str, Any]] = _leaves("", json.loads(text))
        for key, value in pairs:
            yield _of_field(key, str(value))
    except (ValueError, RecursionError):  # damaged, or longer than what was read
        for match in _PAIR.finditer(text):
            yield _of_field(match[1], _unescaped(match[2]))


def _leaves(key: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield texts and integers with the key they stand under: the first that identifies."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(key if is_identifying(key) else str(name), inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(key, inner)
    elif isinstance(value, str | int) and not isinstance(value, bool):
        yield key, str(value)


def _unescaped(literal: str) -> str:
    try:
        return str(json.loads(literal))
    except ValueError:
        return literal.strip('"')


def _of_field(key: str, value: str) -> set[str]:
    """Return what a named field holds; nothing unless its name identifies somebody."""
    if not is_identifying(key):
        return set()
    text = value.strip().strip("\0")
    found = _free_text(text)
    small = key.lower()
    tag = _TAG.fullmatch(key)
    is_name = (tag is not None and tag[1] + tag[2] == "00100010") or (
        "name" in small and ("patient" in small or "subject" in small)
    )
    return found | spellings(text, "PN", by_part=True) if is_name else found


def _free_text(text: str) -> set[str]:
    """Return a text as a whole, where it is short, and what in it looks like an identifier."""
    text = text.strip()
    if text.lower().startswith(_BOILERPLATE):
        return set()
    found = {text} if len(text) <= LONGEST else set()
    for word in re.split(r"[\s,;|=\"'()\[\]]+", text):
        if _DATE.fullmatch(word):
            day = re.sub(r"[-./]", "", word[:10])[:8]
            found |= {word} | spellings(day, "DA", by_part=False)
        elif _UID.fullmatch(word):
            found.add(word)
        elif "^" in word and any(map(str.isalpha, word)):
            found |= spellings(word, "PN", by_part=True)
    return found
