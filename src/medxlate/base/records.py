"""What files say, read with distrust: JSON, and names inside folders."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from medxlate.base.errors import MedxlateError

if TYPE_CHECKING:
    import pandas as pd

# As people and programs write numbers. Python's float() also accepts 4_5, infinity and the digits
# of other scripts, where somebody else would read another number or none.
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
Record = TypeVar("Record", bound=BaseModel)
MAX_RECORD_BYTES = 16 << 20  # of a JSON file that describes a folder
MAX_JSON_BYTES = 1 << 30  # of one that lists every file of a dataset
_DRIVE = re.compile(r"[A-Za-z]:")


def read_json(
    path: Path, *, error: type[MedxlateError], hint: str = "", most: int = MAX_JSON_BYTES
) -> Any:
    """Read a JSON file; a missing, damaged or too large one raises ``error`` with ``hint``.

    Args:
        path: The file.
        error: What is raised.
        hint: What to do about it.
        most: Bytes that are read; checked before.
    """
    try:
        if path.stat().st_size > most:
            raise error(f"{path} is larger than {most >> 20} MiB, the most that is read.", hint)
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except FileNotFoundError:
        raise error(f"{path} does not exist.", hint) from None
    except RecursionError:
        raise error(f"{path} is nested too deeply.", hint) from None
    except (OSError, ValueError) as problem:  # also digits without end, and what is not UTF-8
        raise error(f"{path} cannot be read as JSON: {problem}.", hint) from None


def read_object(
    path: Path, *, error: type[MedxlateError], hint: str = "", needs: Sequence[str] = ()
) -> dict[str, Any]:
    """Read a JSON file that holds an object with some keys; see ``read_json``."""
    values = read_json(path, error=error, hint=hint)
    if not isinstance(values, dict):
        raise error(f"{path} is damaged: it is not a JSON object.", hint)
    for key in needs:
        if key not in values:
            raise error(f"{path} is damaged: '{key}' is missing.", hint)
    return values


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is not a number")


def is_plain(name: str) -> bool:
    """Whether this names something in a folder: no path, no drive, nothing above it."""
    return (
        name not in ("", ".", "..")
        and not set(name) & set("/\\\0")
        and _DRIVE.match(name) is None
        and name.isprintable()
    )


def safe_join(folder: Path, name: str, *, error: type[MedxlateError]) -> Path:
    """Return ``folder / name`` for a name that a file gave.

    Raises:
        MedxlateError: ``error``; the name is a path, or a link leads out of the folder.
    """
    if is_plain(name) and (folder / name).resolve().is_relative_to(folder.resolve()):
        return folder / name
    raise error(f"A file in {folder} refers to something outside that folder: {name!r}.")


def read_record(
    path: Path,
    kind: type[Record],
    *,
    version: int,
    error: type[MedxlateError],
    hint: str,
    again: str,
) -> Record:
    """Read a JSON file that carries ``schema_version`` and check it against its model.

    Args:
        path: The file.
        kind: The pydantic model of its content.
        version: The version that is understood.
        error: What is raised.
        hint: What to do where the file is missing.
        again: What to do where it is of another version.

    Raises:
        MedxlateError: ``error``; the file is missing, damaged or of another version.
    """
    values = read_json(path, error=error, hint=hint, most=MAX_RECORD_BYTES)
    found = values.get("schema_version") if isinstance(values, dict) else None
    if found != version:
        raise error(
            f"{path} has schema version {found}; this medxlate reads {version}.",
            f"{again}, or use the version of medxlate that wrote it.",
        )
    try:
        return kind.model_validate(values)
    except ValidationError as problem:
        first = problem.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        where = f"{path} is damaged: {key}" if key else f"{path} is damaged"
        why = first["msg"].removeprefix("Value error, ").rstrip(".")
        raise error(f"{where}: {why}.") from None


# Control characters; what is invisible, or turns the order of letters round; bytes of names that
# are not UTF-8; separators of lines and paragraphs.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_SIGNS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # also of full width


def visible(text: str) -> str:
    r"""Return a text with what commands a terminal, or is not shown, written out: ``\x1b``, ``\n``.

    Names of files, classes and columns come from strangers: an escape sequence could hide a line,
    and a direction override (CVE-2021-42574) could reverse one.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        letter.encode("unicode_escape").decode("ascii")
        if unicodedata.category(letter) in _HIDDEN
        else letter
        for letter in text
    )


def in_markdown(text: str) -> str:
    """Return a name as Markdown shows it: one line, of which no letter is a sign."""
    signs = re.sub(r"([\\|*_`<])", r"\\\1", visible(" ".join(text.split())))
    return signs.replace("](", "]\\(")


def in_code(text: str) -> str:
    """Return a name as code in Markdown: one line, which no letter ends."""
    return f"`{visible(' '.join(text.split())).replace('`', chr(39))}`"


def in_csv(value: Any) -> Any:
    """Return a cell that no spreadsheet reads as a formula: a text like one gets a quote in front.

    OWASP, "CSV Injection". Numbers, also as text, and a sign by itself stay as they are.
    """
    if not isinstance(value, str) or NUMBER.fullmatch(value) or len(value) < 2:
        return value
    begins = value.lstrip().startswith(_SIGNS) or value[0] in "\t\r\n"
    return f"'{value}" if begins else value


def for_csv(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose texts and names of columns are as ``in_csv`` returns them."""
    safe = frame.copy(deep=False)
    for name in frame.select_dtypes(exclude=["number", "bool"]):
        safe[name] = frame[name].map(in_csv)
    return safe.rename(columns=in_csv)
