"""Who was in which part of a run, and whether anyone was on two sides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from medxlate.artifacts.runs import RunFolder
from medxlate.base.errors import MedxlateError, ModelError
from medxlate.base.records import read_object
from medxlate.config import Config
from medxlate.dataset.index import Dataset, Modality
from medxlate.dataset.links import Link, find_links
from medxlate.dataset.spellings import COLUMN, how_ids_count
from medxlate.dataset.splits import MEANING, PARTS, Split, read_split
from medxlate.dataset.training_data import open_modalities
from medxlate.report.page import bullets, table


@dataclass(frozen=True)
class Division:
    """What a report says of the division.

    Attributes:
        body: Its table and sentences.
        leak: What is on two sides, as a sentence; "" where nothing is.
    """

    body: Markup
    leak: str


def division_of(run: RunFolder, config: Config) -> Division:
    """Count who is in which part, and look anew for units and duplicates on two sides.

    Where the dataset is elsewhere or has changed, only split.json is read.

    Args:
        run: The run.
        config: Its configuration.

    Raises:
        ModelError: split.json is missing or damaged.
    """
    values = read_object(run.split, error=ModelError)
    try:
        split = Split.from_json(values)
    except MedxlateError as problem:
        raise ModelError(f"{run.split}: {problem}", "Restore it, or train again.") from None
    try:
        dataset = Dataset(Path(config.data.folder))
        opened = open_modalities(dataset, config)
        tables = {name: opened[name] for name in (config.data.target, *config.data.sources)}
        read_split(run.split, tables)
        links = find_links(tables, split.policy)
    except MedxlateError:
        tables, links = {}, None
    crossing = _crossing(split, links or ())
    leak = _leak(split, crossing)
    said = [
        leak or _kept_apart(split, tables),
        "" if crossing else _duplicates(split, links),
        _shared(tables),
        f"Split seed {split.seed}, hash {str(values['hash'])[:12]}.",
    ]
    return Division(_counts(split, tables) + bullets([each for each in said if each]), leak)


def _crossing(split: Split, links: Iterable[Link]) -> list[Link]:
    """Return the links whose two patients are on two sides."""
    side = {unit: part for part in PARTS for unit in split.parts[part]}
    return [link for link in links if side.get(link.patient) != side.get(link.other)]


def _pairs(links: Iterable[Link], *, by_id: bool) -> int:
    """Return how many pairs of patients have one id, or else share an image."""
    found = (link for link in links if (link.kind == "id") == by_id)
    return len({(link.patient, link.other) for link in found if link.patient != link.other})


def _leak(split: Split, crossing: Sequence[Link]) -> str:
    unit = "patient" if split.policy == "patient" else "image"
    units = [unit for part in PARTS for unit in set(split.parts[part])]
    twice = len(units) - len(set(units))
    if twice:
        return f"The split leaks: {_count(twice, unit)} in two parts at once."
    for by_id, what in ((False, "with a shared image"), (True, "with one ID in two spellings")):
        if number := _pairs(crossing, by_id=by_id):
            return f"The split leaks: {_count(number, 'pair')} of patients in two parts {what}."
    return ""


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def _kept_apart(split: Split, tables: Mapping[str, Modality]) -> str:
    """Return which check was made: of patients, or only of ids as they are written."""
    if split.policy == "image":
        return MEANING["image"]
    slices = {name: modality.slices for name, modality in tables.items()}
    checked = bool(slices) and all(COLUMN in each for each in slices.values())
    who = "patient" if checked else "patient's ID, as it is written,"
    looked = f"No {who} is in two parts, whatever the modality: checked again for this page."
    return f"{looked} {how_ids_count(slices)}".rstrip()


def _duplicates(split: Split, links: Sequence[Link] | None) -> str:
    if links is None:
        return (
            "The dataset has moved or changed: its images could not be counted or searched for "
            "shared ones."
        )
    if split.policy == "image":
        return ""
    linked = _pairs(links, by_id=False)
    if not linked:
        return "No two patients share an identical or nearly identical image."
    pairs = _count(linked, "pair")
    return f"{pairs} of patients with a (nearly) identical image, each pair in one part."


def _shared(tables: Mapping[str, Modality]) -> str:
    owners = [set(each.slices["patient"]) for each in tables.values()]
    if len(owners) < 2:
        return ""
    several = {
        patient for i, one in enumerate(owners) for other in owners[:i] for patient in one & other
    }
    return f"{_count(len(several), 'patient')} with images of more than one modality."


def _counts(split: Split, tables: Mapping[str, Modality]) -> Markup:
    """Return a row a part."""
    units = "patients" if split.policy == "patient" else "images"
    columns = ["part", f"{units} of all modalities"]
    rows: list[list[Any]] = [[part, len(set(split.parts[part]))] for part in PARTS]
    for name, modality in tables.items():
        columns += [f"{name} patients", f"{name} images"]
        for row, part in zip(rows, PARTS, strict=True):
            found = modality.slices.iloc[split.rows(name, modality.slices, part)]
            row += [found["patient"].nunique(), len(found)]
    return table(columns, rows, caption="Who is in which part")
