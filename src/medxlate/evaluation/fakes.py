"""The translated test images of a source, which figures, audits and pairs have in common."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medxlate.dataset.loading import Slices
from medxlate.inference.engine import run
from medxlate.inference.finite import check_finite
from medxlate.inference.translator import Translator


class Fakes:
    """Translates test images when they are asked for, each once where all fit in memory.

    The network is nearly all of the time of an evaluation, which asks for the same images several
    times; those beyond ``most`` are computed again each time.

    Args:
        translator: G.
        slices: The source's test images.
        most: Bytes of translated images that are kept.
    """

    def __init__(self, translator: Translator, slices: Slices, *, most: int) -> None:
        self._translator = translator
        self._slices = slices
        self._left = most
        self._kept: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self._slices)

    def images(self, rows: Sequence[int]) -> Tensor:
        """Return translated images, float32 [B, 1, S, S] in [-1, 1], by positions in the slices.

        Raises:
            ModelError: The network gives no finite number.
        """
        missing = [row for row in rows if row not in self._kept]
        made: dict[int, Tensor] = {}
        if missing:
            batch = self._slices.batch(missing).images
            outputs = run(self._translator.network, [batch], compute=self._translator.compute)
            made = dict(zip(missing, outputs, strict=True))
            check_finite(outputs.numpy(), "translator", f"translated {self._slices.name} images")
            self._left -= outputs.nbytes
            if self._left >= 0:
                self._kept |= made
        return torch.stack([made[row] if row in made else self._kept[row] for row in rows])
