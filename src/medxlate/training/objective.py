"""The terms of the paper's objective (section 3, equations 1 to 3).

Images are [B, 1, S, S] in [-1, 1]; every loss is a float32 scalar. Expectations over the data are
means over the batch, and a norm over an image is a mean over its pixels, as in CycleGAN.
"""

from __future__ import annotations

from torch import Tensor

from medxlate.models.device import full_precision


def adversarial_loss(judgement: Tensor, *, real: bool) -> Tensor:
    """Least-squares adversarial loss (Mao et al. 2017): judgements should be 1 or 0."""
    wanted = 1.0 if real else 0.0
    return (full_precision(judgement) - wanted).square().mean()


def discriminator_loss(judged_real: Tensor, judged_fake: Tensor) -> Tensor:
    """Half the sum over real and fake, as CycleGAN slows D down (Zhu et al. 2017, 7.1)."""
    real = adversarial_loss(judged_real, real=True)
    return (real + adversarial_loss(judged_fake, real=False)) / 2


def l1_loss(images: Tensor, wanted: Tensor) -> Tensor:
    """The L1 norm of cycle and identity losses (equation 1)."""
    return (full_precision(images) - full_precision(wanted)).abs().mean()
