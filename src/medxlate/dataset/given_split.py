"""A split by patients that are named, instead of drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from medxlate.dataset.duplicates import Link
from medxlate.dataset.index import Dataset, load_key
from medxlate.dataset.links import find_links
from medxlate.dataset.splits import PARTS, Part, Split
from medxlate.images.pseudonym import pseudonym


def given_split(
    data: Path, names: Sequence[str], patients: Mapping[Part, Sequence[str]], *, seed: int = 0
) -> Split:
    """Return the split with these patients; who shares an image with a later part goes there.

    Args:
        data: The dataset folder.
        names: Its modalities that count.
        patients: Ids, as in the files, of each part's patients.
        seed: What the split says that it was drawn with.
    """
    dataset = Dataset(data)
    key = load_key(data)
    part_of = {
        pseudonym(patient, key): PARTS.index(part) for part in PARTS for patient in patients[part]
    }
    _join(part_of, find_links({name: dataset.modality(name) for name in names}, "patient"))
    return Split(
        {
            part: tuple(sorted(patient for patient, at in part_of.items() if PARTS[at] == part))
            for part in PARTS
        },
        seed,
    )


def _join(part_of: dict[str, int], links: Iterable[Link]) -> None:
    """Bring patients who share an (almost) identical image into the later of their parts."""
    links, changed = list(links), True
    while changed:
        changed = False
        for link in links:
            later = max(part_of[link.patient], part_of[link.other])
            changed |= {part_of[link.patient], part_of[link.other]} != {later}
            part_of[link.patient] = part_of[link.other] = later
