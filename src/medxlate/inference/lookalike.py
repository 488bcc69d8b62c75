"""Images without a header that names their modality: do they look like those of training?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medxlate.artifacts.greys import Greys
from medxlate.images.modality import SILENT
from medxlate.inference.inputs import SliceBatch


@dataclass(frozen=True)
class Looks:
    """How many images were compared with those of training.

    Attributes:
        compared: Images of which nothing names the modality.
        unlike: Of these, how many look unlike the images of training.
    """

    compared: int = 0
    unlike: int = 0

    @classmethod
    def of(cls, images: Tensor, greys: Greys | None) -> Looks:
        """Compare images [B, 1, S, S]; none where it is not known what training's look like."""
        if greys is None or not len(images):
            return cls()
        return cls(len(images), int(greys.unlike(images.numpy()).sum()))

    @classmethod
    def of_batch(cls, batch: SliceBatch, greys: Greys | None) -> Looks:
        """Compare the images of a batch whose files name no modality."""
        if batch.images is None:
            return cls()
        silent = [item.scan.modality in SILENT for item in batch.shown]
        return cls.of(batch.images[torch.tensor(silent)], greys)

    @classmethod
    def noted(cls, entry: Mapping[str, Any]) -> Looks:
        """Return what the journal's entry of a unit holds."""
        return cls(**entry.get("looks", {}))

    def __add__(self, other: Looks) -> Looks:
        return Looks(self.compared + other.compared, self.unlike + other.unlike)

    def notes(self, modality: str) -> list[str]:
        """Return what to say where more than a third look unlike the modality's; sentences.

        Of a new patient's images, one in twenty does.
        """
        if 3 * self.unlike <= self.compared:
            return []
        return [
            f"{self.unlike} of {self.compared} images look unlike the {modality} that this model "
            "was trained on, by their grey values; no header names their modality. Are they "
            f"{modality}, and were they made in the same way?"
        ]


def total(looks: Iterable[Looks]) -> Looks:
    """Return the sum."""
    return sum(looks, Looks())
