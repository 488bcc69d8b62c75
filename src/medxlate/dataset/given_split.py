"""A split that is given, instead of drawn: a run's split.json, a table, or a column.

Errors name rows of the table or slices, never the patient.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from medxlate.base.errors import DataError, UsageError, nearest, plural
from medxlate.base.records import read_object
from medxlate.config import SplitConfig
from medxlate.dataset.division import place_others
from medxlate.dataset.index import Dataset, Modality, load_key
from medxlate.dataset.label_table import read_table
from medxlate.dataset.links import Link, find_links, patient_groups
from medxlate.dataset.spellings import patient_finder
from medxlate.dataset.splits import PARTS, Part, Split

Named = dict[str, tuple[Part, str]]  # by pseudonym: the part, and where it says so
Row = tuple[str, str, str]  # pseudonym, part, and where it stands
SHARED = {
    "exact": "the same image",
    "near": "nearly the same image",
    "id": "the same ID in two spellings",
}
PATIENT, PART = "patient", "part"  # columns of a table
NAME_ALL = "Give every patient a part: train, val or test."


def given_split(data: Path, names: Sequence[str], patients: Mapping[Part, Sequence[str]]) -> Split:
    """Return the split with these patients.

    Patients who share an (almost) identical image go together into the latest of their parts:
    test, else validation.

    Args:
        data: The dataset folder.
        names: The modalities; all of their patients must be named.
        patients: Ids, as in the files, of each part's patients.

    Raises:
        DataError: A patient is named twice, is in none of the modalities, or is not named.
    """
    dataset, key = Dataset(data), load_key(data)
    tables = {name: dataset.modality(name) for name in names}
    known = {p for table in tables.values() for p in table.slices["patient"].unique().tolist()}
    find = patient_finder([table.slices for table in tables.values()], key)
    named = [find(patient) for part in PARTS for patient in patients[part]]
    twice = [patient for patient, count in Counter(named).items() if count > 1]
    if twice:
        places = [i + 1 for i, patient in enumerate(named) if patient == twice[0]]
        raise DataError(
            f"The split lists a patient twice: positions {places} of train, val and test."
        )
    part_of = {find(patient): PARTS.index(part) for part in PARTS for patient in patients[part]}
    strangers = [i + 1 for i, patient in enumerate(named) if patient not in known]
    if strangers:
        raise DataError(
            f"{plural(len(strangers), 'patient')} of the split could not be found in {data}, the "
            "first at position "
            f"{strangers[0]} of train, val and test.",
            "Prepare their images, or remove these patients from the split.",
        )
    if known - part_of.keys():
        raise DataError(
            f"The split does not list {len(known - part_of.keys())} of {len(known)} patients in "
            f"{data}.",
            "List every patient.",
        )
    links = find_links(tables, "patient")
    for group in patient_groups([table.slices for table in tables.values()], links):
        part_of |= dict.fromkeys(group, max(part_of[patient] for patient in group))
    return _split({patient: PARTS[at] for patient, at in part_of.items()}, seed=0)


def configured_split(
    dataset: Dataset,
    tables: Mapping[str, Modality],
    *,
    target: str,
    config: SplitConfig,
    links: Iterable[Link],
) -> Split:
    """Return the split that ``config.file`` or ``config.column`` gives.

    Every patient of the target has a part. Of a source, either all patients have one, or only those
    who are in other modalities too; ``config.sources`` then places the rest.

    Args:
        dataset: The dataset.
        tables: The modalities that are used.
        target: The modality that is validated and tested.
        config: Where to find the split, how to divide sources, and the seed.
        links: Patients who share images.

    Raises:
        UsageError: There is no such column, or the file divides by another policy.
        DataError: A patient is on two sides, unknown or without a part; two patients who share an
            image are on two sides; or a part has no target patient.
    """
    links = list(links)
    seed = config.seed
    if config.column:
        named = _gather(_of_column(tables, target, config.column))
    elif Path(config.file).suffix.lower() == ".json":
        split = Split.from_json(read_object(Path(config.file), error=DataError))
        if split.policy != config.policy:
            raise UsageError(
                f"{config.file} was drawn with the policy {split.policy}, not {config.policy}.",
                f"Use --policy {split.policy}.",
            )
        if split.policy == "image":
            return split
        seed = split.seed  # by which a run drew its share of the training patients
        rows = ((p, part, config.file) for part in PARTS for p in split.parts[part])
        named = _gather(rows)
    else:
        named = _gather(_of_table(Path(config.file), dataset))
    _check_known(named, dataset, tables)
    _check_whole(named, tables, target)
    _check_apart(named, links)
    placed = {patient: part for patient, (part, _) in named.items()}
    slices = [modality.slices for modality in tables.values()]
    return _split(placed | place_others(slices, placed, links, config), seed, slices)


def _split(placed: Mapping[str, Part], seed: int, slices: Any = None) -> Split:
    """Return the split; with tables, of their patients alone."""
    known = set(placed)
    if slices is not None:
        known &= {p for table in slices for p in table["patient"].unique().tolist()}
    parts = {part: tuple(sorted(p for p in known if placed[p] == part)) for part in PARTS}
    return Split(parts, seed)


def _of_table(path: Path, dataset: Dataset) -> Iterable[Row]:
    """Yield the rows of a table of patients: their ids as in the files, or pseudonyms."""
    table = read_table(path, "split")
    for column in (PATIENT, PART):
        table.check_column(column, option="split")
    everybody = _slices(dataset)
    find = patient_finder(everybody, load_key(dataset.folder))
    pseudonyms = _patients(everybody)
    for number, row in enumerate(table.rows, start=2):  # as a spreadsheet counts them
        name = row[PATIENT]
        known = name if name in pseudonyms else find(name)
        yield known, row[PART], f"row {number} of {path}"


def _of_column(tables: Mapping[str, Modality], target: str, column: str) -> Iterable[Row]:
    """Yield a row a slice, of the modalities that have the column."""
    slices = tables[target].slices
    if column not in slices:
        raise UsageError(
            f"{target} has no column '{column}' with train, val and test.",
            f"{nearest(column, map(str, slices.columns))} Keep it with `prepare --keep {column}`.",
        )
    for name, modality in tables.items():
        if column in modality.slices:
            chosen = modality.slices[["slice_id", "patient", column]]
            for slice_id, patient, part in chosen.itertuples(index=False, name=None):
                yield patient, str(part), f"slice {slice_id} of {name}"


def _gather(rows: Iterable[Row]) -> Named:
    """Return the part of each patient; refuse unknown parts, and two parts for one patient."""
    named: Named = {}
    known = {str(part): part for part in PARTS}
    for patient, text, where in rows:
        part = known.get(text.strip().lower())
        if part is None:
            said = f"the unknown part '{text}'" if text.strip() else "an empty part"
            raise DataError(f"The split has {said}: {where}.", NAME_ALL)
        first, at = named.setdefault(patient, (part, where))
        if first != part:
            raise DataError(
                f"The split puts one patient into both {first} and {part}: {at} and {where}.",
                "Put every patient into one part only.",
            )
    return named


def _slices(dataset: Dataset) -> list[pd.DataFrame]:
    """Return the tables of all modalities, used or not, with all their rows."""
    return [dataset.modality(name).slices for name in dataset.info.modalities]


def _patients(tables: Iterable[pd.DataFrame]) -> set[str]:
    return {patient for table in tables for patient in table["patient"].unique().tolist()}


def _check_known(named: Named, dataset: Dataset, tables: Mapping[str, Modality]) -> None:
    """Refuse patients without an image; a split may name those who were not selected."""
    here = {p for each in tables.values() for p in each.slices["patient"].unique().tolist()}
    strangers = named.keys() - here
    if strangers:
        strangers -= _patients(_slices(dataset))
    if strangers:
        where = next(at for patient, (_, at) in named.items() if patient in strangers)
        raise DataError(
            f"The split lists {plural(len(strangers), 'patient')} without an image in "
            f"{dataset.folder}, "
            f"the first in {where}.",
            "Prepare their images, or remove these patients from the split.",
        )


def _check_whole(named: Named, tables: Mapping[str, Modality], target: str) -> None:
    """Refuse a split without some of a modality's own patients, or a part without the target's."""
    own = {name: set(each.slices["patient"].unique()) for name, each in tables.items()}
    for name, patients in own.items():
        others = {p for other, some in own.items() if other != name for p in some}
        left_out = patients - named.keys()
        alone = patients - others  # who is in no other modality
        if left_out and (name == target or named.keys() & alone):
            slices = tables[name].slices
            first = slices["slice_id"][slices["patient"].isin(left_out)].iloc[0]
            raise DataError(
                f"{len(left_out)} of {len(patients)} {name} patients have no part in the split, "
                f"for example the patient of slice {first}.",
                f"{NAME_ALL} You may leave out all patients of a source: split.sources then "
                "places them. Use --where to leave out images.",
            )
    for part in PARTS:
        if not any(named[patient][0] == part for patient in own[target] & named.keys()):
            raise DataError(f"The split has no {target} patient in {part}.", NAME_ALL)


def _check_apart(named: Named, links: Iterable[Link]) -> None:
    """Refuse two patients who share an image and are on two sides."""
    for link in links:
        if link.patient not in named or link.other not in named:
            continue
        (one, at), (other, where) = named[link.patient], named[link.other]
        if one != other:
            kind = SHARED[link.kind]
            raise DataError(
                f"Two patients of the split have {kind}, and one is in {one}, the other in "
                f"{other}: {at} and {where}.",
                "Put both into the same part: they may be one person under two IDs.",
            )
