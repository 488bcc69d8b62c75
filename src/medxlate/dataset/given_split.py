"""A split by patients that are named, instead of drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from medxlate.dataset.division import patient_groups
from medxlate.dataset.index import Dataset, load_key
from medxlate.dataset.links import find_links
from medxlate.dataset.splits import PARTS, Part, Split
from medxlate.errors import DataError
from medxlate.images.pseudonym import pseudonym


def given_split(data: Path, names: Sequence[str], patients: Mapping[Part, Sequence[str]]) -> Split:
    """Return the split with these patients.

    Patients who share an (almost) identical image go together into the latest of their parts:
    test, else validation.

    Args:
        data: The dataset folder.
        names: Its modalities, all of whose patients are named.
        patients: Ids, as in the files, of each part's patients.

    Raises:
        DataError: A patient is named twice, is in none of the modalities, or is not named.
    """
    dataset, key = Dataset(data), load_key(data)
    tables = {name: dataset.modality(name) for name in names}
    known = {p for table in tables.values() for p in table.slices["patient"].unique().tolist()}
    named = [patient for part in PARTS for patient in patients[part]]
    twice = [patient for patient, count in Counter(named).items() if count > 1]
    if twice:
        raise DataError(f"The patient {twice[0]} is named twice in a split.")
    part_of = {
        pseudonym(patient, key): PARTS.index(part) for part in PARTS for patient in patients[part]
    }
    strangers = [patient for patient in named if pseudonym(patient, key) not in known]
    if strangers:
        raise DataError(
            f"The patient {strangers[0]} of a split is not in {data} ({len(strangers)} such).",
            "Prepare the images again, or name other patients.",
        )
    if known - part_of.keys():
        raise DataError(
            f"{len(known - part_of.keys())} of {len(known)} patients in {data} are in no part of "
            "the split.",
            "Name them all.",
        )
    links = find_links(tables, "patient")
    for group in patient_groups([table.slices for table in tables.values()], links):
        part_of |= dict.fromkeys(group, max(part_of[patient] for patient in group))
    return Split(
        {
            part: tuple(sorted(patient for patient, at in part_of.items() if PARTS[at] == part))
            for part in PARTS
        },
        seed=0,  # it was not drawn
    )
