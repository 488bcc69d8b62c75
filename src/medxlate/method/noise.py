"""Noise of the target's kind for translations, which are smoother than real images.

A predictor that learns from smooth translations relies on detail that noise hides in real images,
and a discriminator that compares smooth with noisy images looks at nothing else. With the noise
added before both, G need not invent any.

Images are [B, 1, S, S] in [-1, 1].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

_MASK_NORM = 6.0  # Euclidean, of Immerkaer's mask (1 -2 1)' (1 -2 1)
_MEDIAN_OF_NORMAL = 0.6745  # of the absolute value
TISSUE = 0.6  # an intensity beyond it may be cut off by the window, with its noise
FADE = 0.1  # distance from the end of the window within which noise fades out
FEWEST = 30  # pixels of tissue by which a level is taken


def noise_level(images: Tensor) -> Tensor:
    """Return the standard deviation of each image's noise [B]; 0 where too little is tissue.

    Immerkaer 1996, "Fast Noise Variance Estimation", with the median in place of the mean (as
    Donoho takes it of wavelets), over pixels whose neighbourhood lies well within the window.
    """
    images = images.detach().float()
    response = images.diff(n=2, dim=2).diff(n=2, dim=3).abs().flatten(1)
    tissue = F.max_pool2d(images.abs(), 3, stride=1).flatten(1) < TISSUE
    counted = torch.where(tissue, response, torch.nan)
    level = counted.nanmedian(dim=1).values / (_MEDIAN_OF_NORMAL * _MASK_NORM)
    return torch.where(tissue.sum(dim=1) >= FEWEST, level, 0.0)


def with_noise_of(fakes: Tensor, real: Tensor) -> Tensor:
    """Return translations with white noise of the level that real images have.

    The level is that of a real image drawn by chance; gradients flow through as if nothing was
    added. Where the window cuts grey values off, real images have no noise, and none is added.
    What noise of the source a translation still has is not subtracted: with it, G would be
    rewarded for keeping it.

    Args:
        fakes: Translations [B, 1, S, S].
        real: Target images [N, 1, S, S] of the same step.
    """
    drawn = torch.randint(0, len(real), (len(fakes),), device=fakes.device)
    level = noise_level(real)[drawn].view(-1, 1, 1, 1)
    shape = fakes.detach().float()
    room = ((1 - shape.abs()) / FADE).clamp(0, 1)
    noise = torch.randn_like(shape) * level * room
    noisy = (shape + noise).clamp(-1, 1)
    return fakes + (noisy - shape).to(fakes.dtype)
