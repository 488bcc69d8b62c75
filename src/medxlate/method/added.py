"""Losses of plug-ins, added to the translators' objective with a weight of the configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from medxlate.base.plugins import PluginError, blamed, choose, described, with_settings
from medxlate.config import Config


@dataclass(frozen=True)
class StepImages:
    """One source's images of a step, in both directions: float32 [B, 1, S, S] in [-1, 1].

    Attributes:
        y: Source images.
        x: Target images, of other patients.
        fake_t: G(y), y translated to the target; a gradient reaches G through it.
        fake_s: F(x), x translated to the source; None where training is one-sided.
        cycled_s: F(G(y)); likewise.
        cycled_t: G(F(x)); likewise.
    """

    y: Tensor
    x: Tensor
    fake_t: Tensor
    fake_s: Tensor | None = None
    cycled_s: Tensor | None = None
    cycled_t: Tensor | None = None


@dataclass(frozen=True)
class Loss:
    """A term that a plug-in adds to equation 1 of every source.

    Attributes:
        compute: From the images of a step, and settings of its own as keywords, to a scalar that
            falls as the translations get better: a mean over the batch. It may not change the
            images, keep anything from one step to the next, or draw numbers other than torch's.
        capturable: Whether it does the same on the device each time and never waits for it, so
            that steps can be captured in a CUDA graph.
    """

    compute: Callable[..., Tensor]
    capturable: bool = False


LOSSES: Mapping[str, Loss] = {}  # the objective's own terms are functions in objective.py


@dataclass(frozen=True)
class AddedLoss:
    """A plug-in's loss in an objective.

    Attributes:
        name: Its name, which is also its label.
        weight: ``objective.losses``.
        compute: With its settings.
        capturable: See ``Loss``.
    """

    name: str
    weight: float
    compute: Callable[..., Tensor]
    capturable: bool

    def __call__(self, images: StepImages) -> Tensor:
        """Return the loss, a scalar.

        Raises:
            PluginError: The plug-in fails, or gives something else.
        """
        with blamed("losses", self.name), torch.autocast(images.y.device.type, enabled=False):
            loss = self.compute(images)
        if not (isinstance(loss, Tensor) and loss.shape == () and loss.is_floating_point()):
            what = list(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise PluginError(
                f"The {described('losses', self.name)} gave {what}, not a scalar tensor."
            )
        return loss


def added_losses(config: Config) -> tuple[AddedLoss, ...]:
    """Return the configured losses of plug-ins that have a weight.

    Raises:
        ConfigError: There is no such loss or setting.
        PluginError: A plug-in cannot be loaded.
    """
    found = []
    for name, weight in sorted(config.objective.losses.items()):
        if weight > 0:
            loss = choose("losses", name, LOSSES, Loss)
            compute = with_settings("losses", name, loss.compute, config.plugins.get(name, {}))
            found.append(AddedLoss(name, weight, compute, loss.capturable))
    return tuple(found)
