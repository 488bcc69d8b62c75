"""Several spellings of one patient's id: ``P-001``, ``P_001`` and ``p 1``.

Beside the pseudonym, a hash of the id as written, the table of slices has a column ``folded_id``: a
keyed hash of the id without case, separators and leading zeros. It shows a modality prepared later
that two spellings are one patient, and holds no id.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, pairwise

import pandas as pd

from medxlate.base.errors import DataError, plural
from medxlate.base.events import Listener, Warned
from medxlate.dataset.index import Modality
from medxlate.images.pseudonym import DIGITS, keyed_hash, normal_id, pseudonym

COLUMN = "folded_id"
SHOWN = 5  # patients, and spellings of each, in a message
FOLDED, DISTINCT = "f", "d"  # how a value of the column begins: spellings are one patient, or not


def fold(patient: str) -> str:
    """Return an id without case, separators and leading zeros.

    It is the id in Unicode's form NFKC with case folded (NFKC_Casefold, but that marks stay);
    everything but letters, marks and digits is taken out, and so are leading zeros of each group
    of digits. Two groups of digits stay apart, so that ``P1-2`` is neither ``P12`` nor ``P1``.
    An id without letters and digits is returned as it is. ``12.0`` is ``12``: so tables of
    numbers are written where one of them is missing.
    """
    plain = unicodedata.normalize("NFKC", patient).casefold().strip()
    plain = re.sub(r"^([0-9]+)\.0$", r"\1", plain)
    kinds = [(_kind(sign), sign) for sign in unicodedata.normalize("NFKC", plain)]
    folded, after_digits = "", False
    for kind, signs in groupby(kinds, key=lambda each: each[0]):
        text = "".join(sign for _, sign in signs)
        if kind == "digit":
            number = "".join(str(unicodedata.decimal(sign)) for sign in text).lstrip("0") or "0"
            folded += f"-{number}" if after_digits else number
            after_digits = True
        elif kind == "letter":
            folded += text
            after_digits = False
    return folded or normal_id(patient)


def folded_id(patient: str, key: bytes, *, distinct: bool = False) -> str:
    """Return the keyed hash of a folded id: ``f``, or ``d`` if ``distinct``, and 16 digits."""
    kind = DISTINCT if distinct else FOLDED
    return kind + keyed_hash(f"folded id {fold(patient)}", key).hex()[:DIGITS]


@dataclass(frozen=True, order=True)
class Respelled:
    """A patient with more than one spelling of the id.

    Attributes:
        patient: Pseudonym.
        files: The first file of each spelling in the modality that is prepared.
        others: Modalities of the dataset, prepared before, that write the id otherwise.
    """

    patient: str
    files: tuple[str, ...]
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Named:
    """The names of a modality's patients.

    Attributes:
        patients: The pseudonym of each row.
        folded: ``folded_id`` of each row.
        respelled: Patients with more than one spelling of the id.
        spellings: The ids of each of ``respelled``; for the console alone.
    """

    patients: list[str]
    folded: list[str]
    respelled: tuple[Respelled, ...]
    spellings: tuple[tuple[str, ...], ...]


def name_patients(
    table: pd.DataFrame, others: Mapping[str, pd.DataFrame], key: bytes, *, distinct: bool
) -> Named:
    """Give every patient one pseudonym, whatever the spelling of the id.

    It is the one that another modality has for the patient, or that of the first spelling here. A
    spelling whose own pseudonym another modality has keeps that: so it stays the same patient
    even where the other was prepared by an older medxlate or with ``--distinct-ids``.
    ``respelled_patients`` tells which pseudonyms are one patient then.

    Args:
        table: The modality, with columns ``patient`` (ids) and ``file``.
        others: The tables of the dataset's other modalities.
        key: The dataset's secret.
        distinct: Whether each spelling is a patient.
    """
    ids: list[str] = list(map(normal_id, table["patient"].tolist()))
    firsts = dict(zip(reversed(ids), reversed(table["file"].tolist()), strict=True))
    own = {each: pseudonym(each, key) for each in dict.fromkeys(ids)}
    folded = {each: folded_id(each, key, distinct=distinct) for each in own}
    if distinct:
        return Named([own[i] for i in ids], [folded[i] for i in ids], (), ())
    there = {name: _by_fold(other) for name, other in others.items()}
    chosen = {value: min(some) for known in there.values() for value, some in known.items()}
    taken = {patient for other in others.values() for patient in other["patient"].unique().tolist()}
    for each, name in own.items():
        if name in taken:
            chosen.setdefault(folded[each], name)
    for each, name in own.items():
        chosen.setdefault(folded[each], name)
    patient = {i: own[i] if own[i] in taken else chosen[folded[i]] for i in own}
    written: dict[str, list[str]] = {}
    for each, value in folded.items():
        written.setdefault(value, []).append(each)
    found = []
    for value, spellings in written.items():
        here = {own[each] for each in spellings}
        elsewhere = tuple(name for name, known in there.items() if known.get(value, here) - here)
        if len(spellings) > 1 or elsewhere:
            files = tuple(firsts[each] for each in spellings)
            found.append((Respelled(chosen[value], files, elsewhere), tuple(spellings)))
    found.sort()
    return Named(
        [patient[i] for i in ids],
        [folded[i] for i in ids],
        tuple(each for each, _ in found),
        tuple(spellings for _, spellings in found),
    )


def respelled_patients(tables: Iterable[pd.DataFrame]) -> list[tuple[str, str]]:
    """Return pairs of pseudonyms that are one patient by their folded ids, in sorted order.

    Modalities that were all prepared with ``--distinct-ids`` have none; where one was prepared
    without, its ids are joined.
    """
    joined: dict[str, set[str]] = {}
    merged: set[str] = set()
    for value, patients in chain.from_iterable(
        _by_fold(table, kinds=FOLDED + DISTINCT).items() for table in tables
    ):
        joined.setdefault(value[1:], set()).update(patients)
        if value.startswith(FOLDED):
            merged.add(value[1:])
    return sorted({pair for value in merged for pair in pairwise(sorted(joined[value]))})


def patient_finder(tables: Sequence[pd.DataFrame], key: bytes) -> Callable[[str], str]:
    """Return a function from an id, in any spelling, to the pseudonym.

    For an id that no table has, or that matches several patients, it is the id's own pseudonym.
    """
    known = {patient for table in tables for patient in table["patient"].unique().tolist()}
    by_fold: dict[str, set[str]] = {}
    for table in tables:
        for value, patients in _by_fold(table).items():
            by_fold.setdefault(value, set()).update(patients)

    def find(patient: str) -> str:
        own = pseudonym(patient, key)
        fitting = by_fold.get(folded_id(patient, key), set())
        return min(fitting) if own not in known and len(fitting) == 1 else own

    return find


def refuse_respelled(
    found: Sequence[Respelled], *, strict: bool, spellings: Sequence[Sequence[str]] = ()
) -> None:
    """Raise DataError under ``strict`` where the ids of some patients are written in several ways.

    The message goes to the console and holds the ids, where they are still known.
    """
    if strict and found:
        ids = f": {_shown(spellings)}" if spellings else ""
        raise DataError(
            f"--strict: the IDs of {plural(len(found), 'patient')} are spelled in several "
            f"ways{ids}.",
            "Use one spelling for each, or add --distinct-ids if they are different patients.",
        )


def warn_respelled(named: Named, others: Mapping[str, Modality], listener: Listener) -> None:
    """Warn which ids count as one patient, and which modalities could not be checked.

    The ids go to the listener, and so to the console; nothing keeps them.
    """
    if named.respelled:
        several = sum(len(spellings) > 1 for spellings in named.spellings)
        across = Counter(name for each in named.respelled for name in each.others)
        where = [f"{several} in these files"] * bool(several)
        where += [f"{count} differently in {name}" for name, count in sorted(across.items())]
        listener(
            Warned(
                f"The IDs of {plural(len(named.respelled), 'patient')} are spelled in several ways "
                f"({', '.join(where)}) and count as one patient each: {_shown(named.spellings)}. "
                "If they are different patients, prepare with --distinct-ids."
            )
        )
    unchecked = [name for name, other in others.items() if COLUMN not in other.slices]
    if unchecked:
        listener(
            Warned(
                f"Different spellings of patient IDs in {' and '.join(unchecked)} cannot be "
                "matched: an older version of medxlate prepared it. Prepare it again with "
                "--overwrite."
            )
        )


def _shown(spellings: Sequence[Sequence[str]]) -> str:
    some = [" = ".join(map(repr, each[:SHOWN])) for each in spellings[:SHOWN]]
    return ", ".join(some + ["..."] * (len(spellings) > SHOWN))


def how_ids_count(tables: Mapping[str, pd.DataFrame]) -> str:
    """Return sentences on how spellings of the patients' ids were checked."""
    unchecked, distinct, folded = [], [], []
    for name, table in tables.items():
        if COLUMN not in table:
            unchecked.append(name)
        elif table[COLUMN].str.startswith(DISTINCT).any():
            distinct.append(name)
        else:
            folded.append(name)
    said = []
    if folded:
        said.append(
            f"Patient IDs of {' and '.join(folded)} that differ only in case, separators or "
            "leading zeros count as one patient."
        )
    if distinct:
        said.append(f"Patient IDs of {' and '.join(distinct)} were taken literally.")
    if unchecked:
        said.append(
            f"Patient IDs of {' and '.join(unchecked)} were not checked for different spellings "
            "of one id: an older version of medxlate prepared it."
        )
    return " ".join(said)


def _by_fold(table: pd.DataFrame, kinds: str = FOLDED) -> dict[str, set[str]]:
    """Return the pseudonyms for each value of the column, if it has one of these kinds."""
    if COLUMN not in table:
        return {}
    found: dict[str, set[str]] = {}
    pairs = table[[COLUMN, "patient"]].drop_duplicates()
    for value, patient in pairs.itertuples(index=False, name=None):
        if value[:1] in kinds:
            found.setdefault(value, set()).add(patient)
    return found


def _kind(sign: str) -> str:
    category = unicodedata.category(sign)
    if category == "Nd":
        return "digit"
    # Surrogates stand for bytes of a file's name that are not UTF-8.
    return "letter" if category[0] in "LMN" or category == "Cs" else "other"
