"""MIND: what an image shows, whatever the grey values it shows it in.

Heinrich et al. 2012, "MIND: Modality independent neighbourhood descriptor for multi-modal
deformable registration" (equations 1 to 5). A pixel is described by how alike the patch around it
is to the patches around its neighbours, relative to how they vary; two modalities of the same head
have nearly the same descriptors. Yang et al. 2018 ("Unpaired Brain MR-to-CT Synthesis using a
Structure-Constrained CycleGAN") made a loss of it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

NEAR = ((0, 1), (1, 0), (0, -1), (-1, 0))  # by whose distances the variance is taken
SEARCH = (*NEAR, (2, 2), (-2, 2), (2, -2), (-2, -2))
PATCH = 3  # side, pixels
LEAST_VARIANCE = 2e-3  # about that of noise: where nothing is but noise, nothing is described


def mind(images: Tensor) -> Tensor:
    """Return the descriptors [B, 8, H, W], in (0, 1], of images [B, 1, H, W] in [-1, 1].

    exp(-D(x, x + r) / V(x)) for each r of the search region, where D is the mean squared difference
    of two patches and V the mean D of the four nearest. Beyond a border lies the opposite one; of a
    patch at a border, the part within the image is compared.
    """
    distances = torch.cat(
        [
            F.avg_pool2d(
                (images - torch.roll(images, shift, dims=(2, 3))).square(), PATCH, 1, PATCH // 2
            )
            for shift in SEARCH
        ],
        dim=1,
    )
    variance = distances[:, : len(NEAR)].mean(dim=1, keepdim=True).clamp(min=LEAST_VARIANCE)
    return torch.exp(-distances / variance)


def structure_loss(images: Tensor, wanted: Tensor) -> Tensor:
    """Return the mean absolute difference of the descriptors of two batches, a scalar."""
    return (mind(images.float()) - mind(wanted.float())).abs().mean()
