"""Who was in which part of a run, and whether anyone was on two sides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from medxlate.config import Config
from medxlate.dataset.index import Dataset, Modality
from medxlate.dataset.links import find_links
from medxlate.dataset.splits import MEANING, PARTS, Split, read_split
from medxlate.errors import MedxlateError, ModelError
from medxlate.models.runs import RunFolder
from medxlate.records import read_object
from medxlate.report.blocks import bullets, table
from medxlate.training.data import open_modalities


@dataclass(frozen=True)
class Parts:
    """What a report says of the division.

    Attributes:
        body: Its table and sentences.
        leak: What is on two sides, as a sentence; "" where nothing is.
    """

    body: Markup
    leak: str


def parts_of(run: RunFolder, config: Config) -> Parts:
    """Count who is in which part, and look anew for units and duplicates on two sides.

    Where the dataset is elsewhere or has changed, split.json alone is told.

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
        linked, crossing = _links(split, tables)
    except MedxlateError:
        tables, linked, crossing = {}, None, 0
    leak = _leak(split, crossing)
    said = [
        leak or _kept_apart(split),
        "" if crossing else _duplicates(split, linked),
        _shared(tables),
        f"Split seed {split.seed}, hash {str(values['hash'])[:12]}.",
    ]
    return Parts(_counts(split, tables) + bullets([each for each in said if each]), leak)


def _links(split: Split, tables: Mapping[str, Modality]) -> tuple[int, int]:
    """Return how many pairs of patients share an image, and how many of them are on two sides."""
    side = {unit: part for part in PARTS for unit in split.parts[part]}
    pairs = {
        (link.patient, link.other)
        for link in find_links(tables, split.policy)
        if link.patient != link.other
    }
    return len(pairs), sum(side.get(one) != side.get(other) for one, other in pairs)


def _leak(split: Split, crossing: int) -> str:
    unit = "patient" if split.policy == "patient" else "image"
    every = [unit for part in PARTS for unit in set(split.parts[part])]
    twice = len(every) - len(set(every))
    if twice:
        return f"The split leaks: {_count(twice, unit)} in two parts at once."
    if crossing:
        pairs = _count(crossing, "pair")
        return f"The split leaks: {pairs} of patients in two parts with a shared image."
    return ""


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def _kept_apart(split: Split) -> str:
    if split.policy == "image":
        return MEANING["image"]
    return "No patient is in two parts, whatever the modality: looked up again for this page."


def _duplicates(split: Split, linked: int | None) -> str:
    if linked is None:
        return (
            "The dataset is not where it was, or has changed: images could not be counted, nor "
            "shared ones searched for."
        )
    if split.policy == "image":
        return ""
    if not linked:
        return "No two patients share an image, the same or nearly."
    pairs = _count(linked, "pair")
    return f"{pairs} of patients with a shared image, the same or nearly, each in one part."


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
