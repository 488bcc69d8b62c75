"""Which patients share images, as ``prepare`` found it, so that a training need not search.

Comparing all slices takes time with the square of their number: a matter of ``prepare``, not of
every start. ``<modality>/links.json`` lists the patients who share an image within the modality,
and within it and each other one that was there already, and for which content that holds. Where a
modality has changed since, all are searched again.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations_with_replacement, pairwise
from pathlib import Path

from medxlate.base.errors import DataError
from medxlate.base.files import write_json
from medxlate.base.records import read_object
from medxlate.dataset.division import patient_groups
from medxlate.dataset.duplicates import Link, id_links, linked_patients
from medxlate.dataset.index import Modality
from medxlate.dataset.splits import Policy

FILE = "links.json"


def save_links(
    folder: Path, name: str, prints: Mapping[str, str], links: Mapping[str, tuple[Link, ...]]
) -> None:
    """Keep what was found in a modality's folder.

    Args:
        folder: The modality's.
        name: The modality.
        prints: The fingerprint of each modality, this one among them.
        links: Under the name of each modality, the links of the slices of both; under its own,
            those within the modality.
    """
    values = {
        other: {
            "fingerprint": prints[other],
            "links": [[link.patient, link.other, link.kind] for link in links[other]],
        }
        for other in sorted(links)
    }
    write_json(folder / FILE, {"fingerprint": prints[name], "with": values})


def find_links(tables: Mapping[str, Modality], policy: Policy) -> tuple[Link, ...]:
    """Return patients of these modalities who share an exact or a near duplicate, or an id.

    Kept ones where they hold for every two of the modalities; they join the same patients as a
    search over all of them does, perhaps through others. A split of slices asks for none. Of a
    selection, those of the whole modality hold: who is joined through somebody who was not
    selected is joined still.

    Raises:
        DataError: Nothing is kept, and a table has no column ``perceptual_hash``.
    """
    if policy == "image":
        return ()
    found = set(id_links([(each.whole or each).slices for each in tables.values()]))
    for one, other in combinations_with_replacement(sorted(tables), 2):
        both = [tables[name].whole or tables[name] for name in (one, other)]
        kept = _kept(*both)
        if kept is None:  # the second was prepared after the first, say
            kept = _kept(*reversed(both))
        if kept is None:
            return linked_patients(modality.slices for modality in tables.values())
        found |= set(kept)
    if any(modality.whole for modality in tables.values()):
        found = _among(found, tables)
    return tuple(sorted(found))


def _among(links: set[Link], tables: Mapping[str, Modality]) -> set[Link]:
    """Return links that join the same patients of these tables, and nobody else."""
    slices = [modality.slices for modality in tables.values()]
    known = {patient for table in slices for patient in table["patient"].unique().tolist()}
    direct = {link for link in links if known.issuperset((link.patient, link.other))}
    groups = patient_groups(slices, links)
    said = {frozenset((link.patient, link.other)) for link in direct}
    pairs = (pair for group in groups for pair in pairwise(group) if frozenset(pair) not in said)
    return direct | {Link(*pair, "near") for pair in pairs}


def _kept(one: Modality, other: Modality) -> tuple[Link, ...] | None:
    """Return the links that the folder of the first keeps; None where they do not hold any more."""
    path = one.folder / FILE
    if not path.is_file():
        return None
    values = read_object(path, error=DataError)
    try:
        entry = values["with"].get(other.name)
        if entry is None or values["fingerprint"] != one.fingerprint():
            return None
        if entry["fingerprint"] != other.fingerprint():
            return None
        return tuple(Link(*link) for link in entry["links"])
    except (AttributeError, KeyError, TypeError):
        raise DataError(f"{path} is damaged.", "Remove it, or prepare again.") from None
