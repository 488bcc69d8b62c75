"""The guard against leaks: nothing that a split's policy keeps together is on two sides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd

from medxlate.base.errors import DataError
from medxlate.dataset.links import Link, linked_patients
from medxlate.dataset.splits import PARTS, Part, Split


def check_no_leak(
    split: Split, slices: Mapping[str, pd.DataFrame], links: Iterable[Link] | None = None
) -> None:
    """Refuse a split that breaks its policy's promise.

    No unit is on two sides, and every row of every table is in the split. With the policy
    ``patient``, no (nearly) identical image of two patients is on two sides either, and no
    patient under two spellings of one id.

    Args:
        split: As drawn or read.
        slices: The table of each modality.
        links: As ``links.find_links`` returns them; None to search.

    Raises:
        DataError: Naming the patient, the slice or the parts.
    """
    kind = "patient" if split.policy == "patient" else "slice"
    seen: dict[str, Part] = {}
    for part in PARTS:
        twice = min(seen.keys() & split.parts[part], default=None)
        if twice is not None:
            raise DataError(
                f"{kind.capitalize()} {twice} is in both {seen[twice]} and {part}.",
                "Draw the split again.",
            )
        seen |= dict.fromkeys(split.parts[part], part)
    for name, table in slices.items():
        unknown = set(split.units(name, table).unique().tolist()) - seen.keys()
        if unknown:
            raise DataError(
                f"{len(unknown)} {kind}s, such as {min(unknown)}, are not in the split.",
                "The dataset changed after the split was drawn: start a new run.",
            )
    if split.policy == "patient":
        _check_links(seen, linked_patients(slices.values()) if links is None else links)


def check_part(split: Split, part: Part, units: Iterable[str]) -> None:
    """Refuse images in a part to which they do not belong.

    Args:
        split: As drawn or read.
        part: The part that is about to use the images.
        units: Their units, as ``Split.units`` returns them.

    Raises:
        DataError: Naming the patient or slice.
    """
    strangers = set(units) - set(split.parts[part])
    if strangers:
        kind = "Patient" if split.policy == "patient" else "Slice"
        raise DataError(
            f"{kind} {min(strangers)} does not belong to {part} according to split.json."
        )


def _check_links(sides: Mapping[str, Part], links: Iterable[Link]) -> None:
    """Refuse a (nearly) identical image of two patients, or of two spellings, on two sides."""
    for link in links:
        one, other = sorted((sides[link.patient], sides[link.other]), key=PARTS.index)
        if one != other and link.kind == "id":
            raise DataError(
                f"One patient is in both {one} and {other}, under two spellings of the same ID.",
                "Draw the split again, or prepare with --distinct-ids if they are two patients.",
            )
        if one != other:
            what = "An identical" if link.kind == "exact" else "A nearly identical"
            raise DataError(
                f"{what} image is in both {one} and {other}.",
                "The same scan is filed under two patients: draw the split again.",
            )
