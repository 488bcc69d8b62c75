"""What a patient is called outside the raw data, and file names that do not say who it was.

A pseudonym is a keyed hash (HMAC, RFC 2104, with SHA-256): the same patient has the same one in
every modality and in every output made with the same key, and without the key nobody can find out
by trying ids which patient it was.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Literal

from medxlate.base.errors import DataError, one_of

Phi = Literal["keep", "pseudonymise", "remove"]
PHI: tuple[Phi, ...] = ("keep", "pseudonymise", "remove")
DIGITS = 16
KEY_BYTES = 32
SHORTEST = 4  # letters and digits of a value that is looked for anywhere in a path
WORD = 2  # of one with a letter that is looked for as a whole word
NOT_NAMES = frozenset(  # short values that say what an image is, not whose
    {
        *(
            "ct",
            "mr",
            "mri",
            "pet",
            "pt",
            "us",
            "cr",
            "dx",
            "dr",
            "mg",
            "nm",
            "xa",
            "rt",
            "img",
            "raw",
        )
    }
)


def known_phi(policy: str) -> Phi:
    """Return the policy; raises UsageError where it is none of ``PHI``."""
    return one_of(policy, PHI, "--phi")


def read_key(path: Path) -> bytes:
    """Return the secret in a key file.

    Raises:
        DataError: It is missing or damaged.
    """
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise DataError(f"{path} is missing or damaged, so patients cannot be matched.")
    return key


def pseudonym(patient: str, key: bytes) -> str:
    """Return ``p`` and 16 hexadecimal digits.

    Args:
        patient: The patient's real id; blanks around it and its Unicode form do not count.
        key: The secret.
    """
    return "p" + keyed_hash(normal_id(patient), key).hex()[:DIGITS]


def normal_id(patient: str) -> str:
    """Return a patient's id composed (NFC) and without blanks around it."""
    return unicodedata.normalize("NFC", patient).strip()


def keyed_hash(text: str, key: bytes) -> bytes:
    """Return HMAC-SHA256 of a text, 32 bytes."""
    return hmac.new(key, text.encode(errors="surrogateescape"), hashlib.sha256).digest()


def clean_path(relative: str, identifiers: Iterable[str], patient: str, phi: Phi) -> str:
    """Return a relative path without the identifying values of its source's header.

    Every folder and file name is searched, whatever the case and the signs between the parts of
    a value: ``Doe^Jonathan`` is found in ``doe_jonathan``, 19860816 in ``1986-08-16``; the parts of
    a name are found alone, too. Values of 2 or 3 letters and digits count as whole words only;
    shorter ones, 2 or 3 digits and what names a modality are not looked for.

    Args:
        relative: The path, with forward slashes.
        identifiers: The identifying values of the header.
        patient: What replaces them, but under ``keep``, where nothing changes.
        phi: The policy.
    """
    found = None if phi == "keep" else _finder(frozenset(identifiers))
    if found is None:
        return relative
    parts = []
    for part in relative.split("/"):
        cleaned, count = found.subn(lambda _: patient, unicodedata.normalize("NFC", part))
        parts.append(cleaned if count else part)
    return "/".join(parts)


@lru_cache(maxsize=64)
def _finder(identifiers: frozenset[str]) -> re.Pattern[str] | None:
    """Return what finds identifying values in a path; the files of a series share it."""
    patterns = _patterns(identifiers)
    return re.compile("|".join(patterns), re.IGNORECASE) if patterns else None


def _patterns(identifiers: Iterable[str]) -> list[str]:
    """Return regular expressions that find identifying values, the longest first."""
    words = set()
    for identifier in identifiers:
        value = unicodedata.normalize("NFC", identifier)
        for text in (value, *re.split(r"[\^=]", value)):
            runs = tuple(re.findall(r"[^\W_]+", text))
            if len(runs) == 1 and re.fullmatch(r"(18|19|20)\d{6}", runs[0]):
                runs = (runs[0][:4], runs[0][4:6], runs[0][6:])
            if sum(map(len, runs)) >= SHORTEST or is_short_word("".join(runs)):
                words.add(runs)
    ordered = sorted(words, key=lambda runs: (-sum(map(len, runs)), runs))
    return [_pattern(runs) for runs in ordered]


def _pattern(runs: tuple[str, ...]) -> str:
    found = r"[\W_]*".join(map(re.escape, runs))
    short = sum(map(len, runs)) < SHORTEST
    return rf"(?<![^\W_]){found}(?![^\W_])" if short else found


def is_short_word(text: str) -> bool:
    """Whether a value of 2 or 3 letters and digits may be somebody's name or id."""
    return (
        WORD <= len(text) < SHORTEST
        and text.isalnum()
        and not text.isdigit()
        and text.lower() not in NOT_NAMES
    )
