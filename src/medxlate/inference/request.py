"""What is refused of a request to translate or predict before torch is loaded.

The command line calls this first, the functions themselves again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from medxlate.artifacts.runs import Need, find_model
from medxlate.base.errors import OutputError, UsageError, one_of
from medxlate.base.files import check_free
from medxlate.config import Compiling
from medxlate.dataset.fields import parse_field
from medxlate.images.find import check_root
from medxlate.images.pseudonym import known_phi
from medxlate.inference.bids import DERIVATIVES, wants_bids

MARKER = "translation.json"  # in the folder of a finished translation
MULTIPLE = 4  # of sizes and places of tiles, so that they fall on the generator's grid of strides


def work_folder(place: Path) -> Path:
    """Return where the finished units of a result lie."""
    return place.with_name(f".{place.name}.work")


def check_translation(
    inputs: Path,
    *,
    out: Path,
    model: Path,
    phi: str,
    compiling: str,
    tile: int,
    overwrite: bool,
    bids: bool | None = None,
) -> None:
    """Raise where ``translate`` would refuse these, as far as that shows without the model.

    Args:
        inputs: Folder or image.
        out: The folder to write.
        model: As for ``find_model``.
        phi: One of ``PHI``.
        compiling: auto, on or off.
        tile: Side of the tiles, pixels; 0: the whole.
        overwrite: Whether an older translation in ``out`` is replaced.
        bids: As for ``translate``; only then may ``out`` lie in ``derivatives/`` of the inputs.

    Raises:
        OutputError: ``out`` cannot be written.
        UsageError: An option has no such value.
        ImageError: There are no such inputs.
        ModelError: There is no such model.
    """
    if not work_folder(out).exists():
        check_free(out, marker=MARKER, overwrite=overwrite)
    here, there = inputs.resolve(), out.resolve()
    derived = there.parent.is_relative_to(here / DERIVATIVES) and wants_bids(inputs, bids)
    if (there.is_relative_to(here) and not derived) or here.is_relative_to(there):
        raise UsageError(f"{out} and {inputs} overlap.", "Write the result to another folder.")
    known_phi(phi)
    compile_choice(compiling)
    if tile < 0 or tile % MULTIPLE:
        raise UsageError(f"--tile {tile} is not a multiple of {MULTIPLE}.")
    _check_both(inputs, [model], "a translator")


def check_prediction(
    inputs: Path,
    *,
    out: Path,
    models: Sequence[Path],
    level: float,
    patient: str | None,
    overwrite: bool,
) -> None:
    """Raise where ``predict`` would refuse these, as far as that shows without the models.

    Args:
        inputs: Folder or image.
        out: The table to write.
        models: As for ``find_model``, each.
        level: Share of new patients whose label is to lie within the interval.
        patient: As for ``parse_field``.
        overwrite: Whether an existing table is replaced.

    Raises:
        OutputError: ``out`` cannot be written.
        UsageError: ``level`` is not between 0 and 1, or ``patient`` cannot be understood.
        ImageError: There are no such inputs.
        ModelError: There is no such model.
    """
    if not work_folder(out).exists():
        check_free_table(out, overwrite=overwrite)
    check_level(level)
    if patient is not None:
        parse_field(patient, has_table=False, option="--patient")
    _check_both(inputs, models, "a predictor")


def check_free_table(out: Path, *, overwrite: bool) -> None:
    """Raise OutputError where a table may not be replaced."""
    if out.is_dir() or (out.exists() and not overwrite):
        raise OutputError(f"{out} already exists.", "Choose another table, or add --overwrite.")


def check_level(level: float) -> None:
    """Raise UsageError where the share of patients is not between 0 and 1."""
    if not 0 < level < 1:
        raise UsageError(f"--level {level:g} must be between 0 and 1.")


def compile_choice(choice: str) -> Compiling:
    """Return the choice; raises UsageError where it is none of auto, on and off."""
    choices: tuple[Compiling, ...] = get_args(Compiling)
    return one_of(choice, choices, "--compile")


def _check_both(inputs: Path, models: Sequence[Path], need: Need) -> None:
    for model in models:
        find_model(model, need)
    check_root(inputs)
