"""Translate volumes and use them as arrays in HU, each beside the volume it was made from.

Run ``python examples/translated_volumes.py IMAGES MODEL OUT``; IMAGES holds NIfTI files of
the source modality, MODEL is a model or run folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import SimpleITK

import medxlate


def main(images: Path, model: Path, out: Path) -> None:
    """Translate and print size, spacing and range of each volume."""
    medxlate.translate(images, out=out, model=model)
    for path in sorted(out.rglob("*.nii.gz")):
        source = SimpleITK.ReadImage(str(images / path.relative_to(out)))
        translated = SimpleITK.ReadImage(str(path))
        same = translated.GetSize() == source.GetSize()
        values = SimpleITK.GetArrayViewFromImage(translated)  # [slices, H, W] in HU
        low, high = np.percentile(values, (1, 99))
        print(f"{path.name}: {values.shape}, same size {same}, {low:.0f} to {high:.0f} HU")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
