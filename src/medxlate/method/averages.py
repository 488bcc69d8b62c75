"""Moving averages of the generators' weights, which waver less than the weights themselves.

Exponential moving averages, as Yazici et al. 2019 take them ("The Unusual Effectiveness of
Averaging in GAN Training"). Training sees them only where the predictor learns
from their translations (``objective.ema_fakes``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

from medxlate.base.errors import ModelError
from medxlate.method.translator import TranslatorNetworks


class Averages:
    """Keeps e = decay * e + (1 - decay) * w of all weights w of G and F, beginning with e = w.

    All processes of a job hold the same weights, and so the same averages. Nothing waits for the
    device, and weights stay where they are in memory, where a captured step reads them.

    Args:
        networks: Of a learner; what is no translator is left alone.
        decay: In [0, 1); 0: there are no averages, and everything here does nothing.
    """

    def __init__(self, networks: Mapping[str, nn.Module], *, decay: float) -> None:
        self._share = 1 - decay
        weights: dict[str, Tensor] = {}
        for name, each in networks.items():
            if decay and isinstance(each, TranslatorNetworks):
                for side, generator in (("g", each.g), ("f", each.f)):
                    if generator is None:
                        continue
                    for key, weight in generator.named_parameters():
                        weights[f"{name}.{side}.{key}"] = weight.detach()
        self._names = list(weights)
        self._weights = list(weights.values())
        self._averages = [weight.clone() for weight in self._weights]

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights after a step into the averages."""
        if self._names:
            torch._foreach_lerp_(self._averages, self._weights, self._share)

    @torch.no_grad()
    def call(self, name: str, generator: nn.Module, images: Tensor) -> Tensor:
        """Return what a generator makes of images with its averaged weights, outside any graph.

        Args:
            name: Its name here, such as ``mri.g``.
            generator: The generator itself.
            images: [B, 1, S, S].
        """
        prefix = f"{name}."
        own = {k.removeprefix(prefix): v for k, v in self.state().items() if k.startswith(prefix)}
        output: Tensor = functional_call(generator, own, images)
        return output

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Put the averages into the networks for a while; the weights come back bit by bit."""
        kept = [weight.clone() for weight in self._weights]
        with torch.no_grad():
            _copy(self._averages, self._weights)
        try:
            yield
        finally:
            with torch.no_grad():
                _copy(kept, self._weights)

    def state(self) -> dict[str, Tensor]:
        """Return the averages by name, such as ``mri.g.layers.1.weight``; they are no copies."""
        return dict(zip(self._names, self._averages, strict=True))

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from averages that ``state`` gave.

        Raises:
            ModelError: They are of other networks, or of a training without averages.
        """
        own = self.state()
        if own.keys() != state.keys() or any(own[k].shape != state[k].shape for k in own):
            raise ModelError(
                "The averages in the checkpoint (optimizer.ema_decay) do not match these "
                "generators."
            )
        with torch.no_grad():
            for name, average in own.items():
                average.copy_(state[name])


def _copy(given: list[Tensor], taken: list[Tensor]) -> None:
    for one, other in zip(given, taken, strict=True):
        other.copy_(one)
