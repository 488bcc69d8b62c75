"""The identifying values of the raw data, kept beside a modality so that they can be looked for.

The file lies in the dataset folder, readable by its owner only, like the key of the pseudonyms;
nothing exported holds it.
"""

from __future__ import annotations

import json
import os
import tempfile
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from medxlate.base.errors import DataError
from medxlate.base.records import read_object

IDENTIFIERS_FILE = "identifiers.json"
VERSION = 1
# What de-identified files hold in place of a value.
PLACEHOLDERS = frozenset(
    {
        "anon", "anonym", "anonymous", "anonymised", "anonymized", "deidentified",
        "de-identified", "removed", "redacted", "none", "null", "unknown", "name", "noname",
        "subject", "volunteer",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Identifiers:
    """The identifying values of one modality, or of several.

    Attributes:
        values: Names, ids, dates and UIDs of headers, patients' ids, the files' relative paths,
            and the absolute path of the raw folder; as they were.
    """

    values: frozenset[str]

    def save(self, folder: Path) -> None:
        """Write ``folder/identifiers.json``, readable by its owner only."""
        text = json.dumps({"version": VERSION, "values": sorted(self.values)}, indent=0)
        handle, name = tempfile.mkstemp(prefix=f".{IDENTIFIERS_FILE}.", dir=folder)
        try:
            with os.fdopen(handle, "w", encoding="ascii") as stream:  # mkstemp made it private
                stream.write(text + "\n")
            os.replace(name, folder / IDENTIFIERS_FILE)
        finally:
            Path(name).unlink(missing_ok=True)

    @staticmethod
    def load(folder: Path) -> Identifiers:
        """Read what ``save`` wrote into a modality's folder.

        Raises:
            DataError: It is missing or damaged.
        """
        path = folder / IDENTIFIERS_FILE
        again = f"Prepare it again: `medxlate prepare RAW --modality {folder.name} --overwrite`."
        content = read_object(path, error=DataError, hint=again)
        try:
            if content["version"] == VERSION and all(isinstance(v, str) for v in content["values"]):
                return Identifiers(frozenset(content["values"]))
        except (KeyError, TypeError):
            pass
        raise DataError(f"{path} is damaged.", again)


def canonical(text: str) -> str:
    """Return the text composed (NFC), in lower case, with forward slashes only."""
    composed = text if text.isascii() else unicodedata.normalize("NFC", text)
    return composed.lower().replace("\\", "/")


def is_placeholder(patient: str) -> bool:
    """Return whether an id is a placeholder: ``ANONYMOUS``, ``unknown``, ``0``, ``-``."""
    text = canonical(patient.strip(" ^="))
    return text in PLACEHOLDERS or not text.strip("0-?._ ")
