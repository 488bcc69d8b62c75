"""The intensity recipe that fits the scans of a modality, where none is asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from medxlate.base.events import Listener, Warned
from medxlate.dataset.options import PrepareOptions
from medxlate.images.modality import PROJECTIONS, dicom_modality
from medxlate.images.recipes import Kind, Recipe, make_recipe
from medxlate.images.scan import RASTER_FORMATS, VOLUME_FORMATS, Scan


def choose_recipe(
    scans: Sequence[Scan], modality: str, options: PrepareOptions, listener: Listener
) -> Recipe:
    """Return how the scans are read; where that is guessed, the guess that fits most of them.

    Args:
        scans: Those of the modality.
        modality: Its name, which counts where the scans' headers tell nothing.
        options: Which recipe is asked for, if any, and its parameters.
        listener: Receives a warning where the guess is doubtful.
    """
    guesses = Counter(_guess(scan, modality) for scan in scans)
    guess = guesses.most_common(1)[0][0] if guesses else _guess(None, modality)
    if options.recipe == "auto" and (doubtful := _doubtful(guesses, guess, scans)):
        listener(Warned(f"{doubtful} To choose another, use --recipe."))
    return make_recipe(
        options.recipe,
        modality=modality,
        guess=guess,
        bits=8 if scans and all(_is_8_bit(scan) for scan in scans) else 16,
        window=options.window,
        percentiles=options.percentiles,
        n4=options.n4,
        channel=options.channel,
        plane=options.plane,
        volume=options.volume,
        settings=options.recipe_settings,
        dicom_modality=(options.dicom_modality or "").upper(),
    )


def _doubtful(guesses: Mapping[Kind, int], guess: Kind, scans: Sequence[Scan]) -> str:
    """Return why a guessed recipe may not be the one that is meant; "" where nothing is odd."""
    if len(guesses) > 1:
        counts = ", ".join(f"{kind} for {count}" for kind, count in sorted(guesses.items()))
        return f"Different scans suggest different recipes ({counts}); using {guess} for all."
    if guess != "ct" and any(scan.modality == "CT" for scan in scans):
        return f"The CT files are not in Hounsfield units; using the recipe {guess}."
    return ""


def _guess(scan: Scan | None, modality: str) -> Kind:
    """Return the recipe that fits a scan's own headers, or else the modality's name."""
    if scan is not None and scan.unit == "HU":
        return "ct"
    if scan is not None and scan.modality == "PT":
        return "pet"
    if scan is not None and scan.modality in PROJECTIONS:
        return "xray"
    volumes = scan is not None and scan.format in VOLUME_FORMATS
    said = dicom_modality(modality)
    if volumes and said == "CT":
        return "ct"
    dicom = scan is not None and scan.format == "dicom"
    return "mr" if volumes or dicom or said == "MR" else "xray"


def _is_8_bit(scan: Scan) -> bool:
    if scan.format not in RASTER_FORMATS:
        return False
    from medxlate.images.raster import stored_bits

    return stored_bits(scan.files[0].path) == 8
