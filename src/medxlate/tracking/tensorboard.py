"""TensorBoard's event files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import PIL.Image
from torch.utils.tensorboard import SummaryWriter

from medxlate.tracking.tracker import TrackedRun


class TensorBoard:
    """Keeps a run as event files; look at them with ``tensorboard --logdir``.

    Args:
        run: Where and as what to keep it.
    """

    def __init__(self, run: TrackedRun) -> None:
        self._writer = SummaryWriter(str(run.folder))
        settings = json.dumps(dict(run.settings), indent=2)
        self._writer.add_text("configuration", f"```json\n{settings}\n```", 0)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Keep figures after a step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def text(self, step: int, name: str, text: str) -> None:
        """Keep a sentence."""
        self._writer.add_text(name, text, step)

    def image(self, step: int, name: str, path: Path) -> None:
        """Keep a grey PNG."""
        with PIL.Image.open(path) as image:
            pixels = np.asarray(image.convert("L"))
        self._writer.add_image(name, pixels, step, dataformats="HW")

    def finish(self) -> None:
        """Write what is buffered and close the files."""
        self._writer.close()


start = TensorBoard
