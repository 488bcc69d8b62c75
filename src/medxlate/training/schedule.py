"""The learning rate: constant, then linear to zero (paper, section 4.2)."""

from __future__ import annotations


def rate_factor(epoch: int, *, epochs: int, constant_share: float) -> float:
    """Return the factor on the initial rate in an epoch counted from 0.

    CycleGAN's rule with its scheduler moved at the end of an epoch: with 200 epochs and a
    constant share of 0.5, epochs 0 to 99 use the full rate, epoch 100 uses 100/101 of it, epoch
    199 uses 1/101.
    """
    constant = round(epochs * constant_share)
    return 1.0 - max(0, epoch + 1 - constant) / (epochs - constant + 1)
