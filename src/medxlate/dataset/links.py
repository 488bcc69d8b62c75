"""Which patients belong together: they share an image, or one id in two spellings.

Comparing all slices takes time with the square of their number: a matter of ``prepare``, not of
every start. ``<modality>/links.json`` lists the patients who share an image within the modality,
and within it and each other one that was there already, and for which content that holds. Where a
modality has changed since, all are searched again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations_with_replacement, pairwise
from pathlib import Path
from typing import Literal

import pandas as pd

from medxlate.base.errors import DataError
from medxlate.base.files import write_json
from medxlate.base.records import read_object
from medxlate.dataset.duplicates import Duplicate, DuplicateKind, Row, image_rows, shared_images
from medxlate.dataset.index import Modality
from medxlate.dataset.spellings import respelled_patients
from medxlate.dataset.splits import Policy

FILE = "links.json"

LinkKind = Literal["exact", "near", "id"]
Group = tuple[str, ...]


@dataclass(frozen=True, order=True)
class Link:
    """Two patients who share an image, and how alike the most alike are, or (``id``) one id."""

    patient: str
    other: str
    kind: LinkKind


def linked_patients(tables: Iterable[pd.DataFrame]) -> tuple[Link, ...]:
    """Return the patients who share an exact or a near duplicate, or an id, in sorted order.

    The result for the same slices is cached, so that drawing and checking a split search once.

    Raises:
        DataError: A table has no column ``perceptual_hash``.
    """
    tables = list(tables)
    found = _links(tuple(sorted({row for table in tables for row in image_rows(table)})))
    return tuple(sorted({*found, *id_links(tables)}))


def id_links(tables: Iterable[pd.DataFrame]) -> tuple[Link, ...]:
    """Return the patients who are one by their ids: see ``spellings.respelled_patients``."""
    return tuple(Link(*pair, "id") for pair in respelled_patients(tables))


def links_of(pairs: Iterable[Duplicate]) -> tuple[Link, ...]:
    """Return the patients who share these images, in sorted order."""
    return _linked((pair.patient, pair.other_patient, pair.kind) for pair in pairs)


def patient_groups(slices: Iterable[pd.DataFrame], links: Iterable[Link]) -> list[Group]:
    """Return groups of patients connected by shared images, in order of first appearance."""
    patients = dict.fromkeys(p for table in slices for p in table["patient"].unique().tolist())
    leader: dict[str, str] = {}

    def find(patient: str) -> str:
        while (above := leader.get(patient, patient)) != patient:
            leader[patient] = leader.get(above, above)
            patient = above
        return patient

    for link in links:
        leader[find(link.patient)] = find(link.other)
    members: dict[str, list[str]] = {}
    for patient in patients:
        first = find(patient) if patient in leader else patient
        members.setdefault(first, []).append(patient)
    return [tuple(group) for group in members.values()]


def save_links(
    folder: Path, name: str, prints: Mapping[str, str], links: Mapping[str, tuple[Link, ...]]
) -> None:
    """Write the links into a modality's folder.

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

    These are the stored links where they hold for every two of the modalities; they join the same
    patients as a search over all of them, perhaps through others. A split of slices needs none. A
    selection takes the links of the whole modality: two patients who are joined through a third
    stay joined although the third was not selected.

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
    """Return links that join the same patients of these tables, and only those."""
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
        raise DataError(f"{path} is damaged.", "Delete it, or prepare again.") from None


@lru_cache(maxsize=1)
def _links(rows: tuple[Row, ...]) -> tuple[Link, ...]:
    return _linked((rows[i][0], rows[j][0], kind) for i, j, kind, _ in shared_images(rows))


def _linked(found: Iterable[tuple[str, str, DuplicateKind]]) -> tuple[Link, ...]:
    """Return a link for any two patients; an exact duplicate outweighs a near one."""
    kinds: dict[tuple[str, str], DuplicateKind] = {}
    for patient, another, kind in found:
        one, other = sorted((patient, another))
        if kind == "exact":
            kinds[one, other] = kind
        else:
            kinds.setdefault((one, other), kind)
    return tuple(sorted(Link(*patients, kind) for patients, kind in kinds.items()))
