"""Test-time augmentation of predictions: the mean over small shifts.

A shift by a pixel or two is what differs between two examinations of one patient, and labels do not
depend on it. Flips are left out: they exchange a patient's left and right, which no examination
does; rotations and changes of contrast, for a recipe has already fixed these.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

SHARE = 1 / 64  # of the side, as the length of a shift


def shift_length(side: int) -> int:
    """Return how far images of this side are shifted, pixels: a 64th of it, at least one."""
    return max(1, round(side * SHARE))


def shifts(images: Tensor) -> list[Tensor]:
    """Return images [B, C, H, W] as they are, then shifted up, down, left and right.

    What comes in at a border repeats the border's pixels.
    """
    height, width = images.shape[-2:]
    far = shift_length(height)
    wide = F.pad(images, (far, far, far, far), mode="replicate")
    places = [(far, far), (2 * far, far), (0, far), (far, 2 * far), (far, 0)]
    return [wide[..., top : top + height, left : left + width] for top, left in places]


def shifted(network: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return a function that gives the mean of a network's outputs over the shifts of its images.

    Labels of a regression are averaged, and logits of a classification: the geometric mean of the
    probabilities.
    """

    def call(images: Tensor) -> Tensor:
        return torch.stack([network(each).float() for each in shifts(images)]).mean(0)

    return call
