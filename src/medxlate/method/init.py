"""Initial weights of the translator's networks."""

from __future__ import annotations

from torch import nn

STANDARD_DEVIATION = 0.02


def init_normal(module: nn.Module) -> None:
    """Draw all convolution weights from N(0, 0.02), biases 0 (Zhu et al. 2017, appendix 7.1)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and not layer.weight.is_meta:
            nn.init.normal_(layer.weight, 0.0, STANDARD_DEVIATION)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
