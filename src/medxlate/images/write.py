"""Writing translated images and picture grids."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import TiffImageFile

from medxlate.base.files import naming_full_disk
from medxlate.base.grey_levels import to_stored
from medxlate.images.quiet import without_warnings
from medxlate.images.recipes import Recipe
from medxlate.images.stack import FloatArray

IMAGE_DESCRIPTION = 270  # TIFF tag
SOFTWARE = 305  # TIFF tag


def write_synthetic(
    path: Path, network: FloatArray, *, recipe: Recipe, facts: Mapping[str, Any]
) -> None:
    """Write a translated image as grey PNG or TIFF, marked as synthetic.

    The stored integers span 0..``recipe.peak``; value = slope * stored + intercept gives
    ``recipe.unit``. Slope, intercept and ``facts`` are kept in the PNG's text or in the TIFF's
    ImageDescription.

    Args:
        path: The file to write, ``.png`` or ``.tif(f)``.
        network: float32 [H, W] in [-1, 1].
        recipe: The target modality's recipe.
        facts: What to say about the image; values JSON can hold.
    """
    image = PIL.Image.fromarray(to_stored(network, recipe.bits))
    slope, intercept = recipe.rescale
    text = {
        "synthetic": True,
        **facts,
        "slope": slope,
        "intercept": intercept,
        "unit": recipe.unit,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() in (".tif", ".tiff"):
        tags = {IMAGE_DESCRIPTION: json.dumps(text), SOFTWARE: "medxlate (synthetic image)"}
        with naming_full_disk(path):
            image.save(path, format="TIFF", tiffinfo=tags, compression="tiff_deflate")
        return
    info = PngInfo()
    info.add_text("Synthetic", "true")
    info.add_text("Software", "medxlate")
    info.add_text("medxlate", json.dumps(text))
    with naming_full_disk(path):
        image.save(path, format="PNG", pnginfo=info)


def read_facts(path: Path) -> dict[str, Any]:
    """Return what ``write_synthetic`` kept in a PNG or TIFF; {} for every other picture.

    ``slope`` and ``intercept``, numbers, are always among it.
    """
    try:
        with without_warnings(), PIL.Image.open(path) as image:
            text = image.info.get("medxlate", "")
            if image.format == "TIFF" and isinstance(image, TiffImageFile):
                text = image.tag_v2.get(IMAGE_DESCRIPTION, "")
        facts = json.loads(text)
        if facts["synthetic"] is True:
            return {**facts, "slope": float(facts["slope"]), "intercept": float(facts["intercept"])}
    except Exception:  # every other picture: pillow and json have many ways to say so
        pass
    return {}


def write_grid(
    path: Path,
    rows: Sequence[Sequence[FloatArray]],
    *,
    gap: int = 2,
    scale: int = 1,
    titles: Sequence[str] = (),
    heading: str = "",
) -> None:
    """Write equally sized images [S, S] in [-1, 1] as an 8-bit PNG: a row of the grid a row.

    Args:
        path: The file to write.
        rows: Top to bottom.
        gap: Pixels between two images.
        scale: How many times as large images are shown, interpolated.
        titles: Of the columns, above them; a title that is wider than its column gets smaller.
        heading: A line above the grid.
    """
    size = rows[0][0].shape[0] * scale
    columns = max(len(row) for row in rows)
    letters = max(min(size // 9, 24), 8)
    line = round(letters * 1.7)
    above = line * (bool(titles) + bool(heading))
    height = above + len(rows) * (size + gap) - gap
    width = columns * (size + gap) - gap
    canvas = PIL.Image.new("L", (width, height), 255)
    for i, row in enumerate(rows):
        for j, tile in enumerate(row):
            image = PIL.Image.fromarray(to_stored(tile, 8).astype(np.uint8))
            image = image.resize((size, size), PIL.Image.Resampling.BICUBIC)
            canvas.paste(image, (j * (size + gap), above + i * (size + gap)))
    pen = PIL.ImageDraw.Draw(canvas)
    _write(pen, heading, (0, 0), width, letters)
    for j, title in enumerate(titles):
        _write(pen, title, (j * (size + gap), above - line), size, letters)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path)


def _write(
    pen: PIL.ImageDraw.ImageDraw, text: str, place: tuple[int, int], width: int, letters: int
) -> None:
    """Write a line of text in black, in smaller letters where it would be too wide."""
    font = PIL.ImageFont.load_default(letters)
    if (wide := pen.textlength(text, font=font)) > width:
        font = PIL.ImageFont.load_default(max(letters * width / wide, 6))
    pen.text(place, text, fill=0, font=font)
