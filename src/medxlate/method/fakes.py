"""What is done to translations before the predictor sees them.

Images are [B, 1, S, S] in [-1, 1]; what is drawn comes from torch's generator of their device.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from medxlate.config import ObjectiveConfig
from medxlate.method.noise import with_noise_of

BLACK = -1.0


def for_predictor(fakes: Tensor, real: Tensor, objective: ObjectiveConfig) -> Tensor:
    """Return translations as the predictor sees them: rescaled, then with the target's noise.

    Noise comes last, because interpolation would smooth it.

    Args:
        fakes: Translations; gradients flow through.
        real: Target images of the same step, whose noise is taken.
        objective: ``rescale`` and ``noise``.
    """
    if objective.rescale > 0:
        fakes = rescaled(fakes, objective.rescale)
    return with_noise_of(fakes, real) if objective.noise == "target" else fakes


def rescaled(images: Tensor, most: float) -> Tensor:
    """Enlarge or reduce each image around its centre by a factor from [1 - most, 1 + most].

    A generator easily draws a head a little too large: where MRI shows the scalp, CT shows
    nothing. A predictor that has seen each translation in many sizes does not learn from that size
    (domain randomisation; Tobin et al. 2017). Interpolation is bicubic; black (-1) comes in.
    """
    factor = 1 + most * (2 * torch.rand(len(images), device=images.device) - 1)
    moves = torch.eye(2, 3, device=images.device) / factor.view(-1, 1, 1)
    grid = F.affine_grid(moves, list(images.shape), align_corners=False)
    above = images.float() - BLACK  # what comes in is 0
    moved = F.grid_sample(above, grid, mode="bicubic", padding_mode="zeros", align_corners=False)
    return (moved + BLACK).clamp(-1, 1).to(images.dtype)
