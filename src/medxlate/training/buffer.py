"""The buffer of earlier fakes that discriminators learn from (Shrivastava et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor


class ImageBuffer:
    """Keeps up to ``size`` fakes; afterwards swaps a new one for an old one half of the time.

    Args:
        size: Images kept; 0 hands every fake straight on.
        seed: Seed of its own random draws.
    """

    def __init__(self, size: int, *, seed: int) -> None:
        self._size = size
        self._images: list[Tensor] = []
        self._random = torch.Generator().manual_seed(seed)

    def exchange(self, fakes: Tensor) -> Tensor:
        """Return as many fakes [B, C, H, W] as are given, detached; some may be older ones."""
        if self._size == 0:
            return fakes.detach()
        return torch.stack([self._exchange_one(fake) for fake in fakes.detach()])

    def _exchange_one(self, fake: Tensor) -> Tensor:
        if len(self._images) < self._size:
            self._images.append(fake.clone())
            return fake
        coin, pick = torch.rand(2, generator=self._random).tolist()
        if coin <= 0.5:
            return fake
        index = int(pick * self._size)
        old, self._images[index] = self._images[index], fake.clone()
        return old

    def state(self) -> dict[str, Tensor]:
        """Return everything that decides future draws, as tensors."""
        state = {"random": self._random.get_state()}
        if self._images:
            state["images"] = torch.stack(self._images).cpu()
        return state

    def load_state(self, state: dict[str, Tensor], device: torch.device) -> None:
        """Take over what ``state`` returned."""
        self._random.set_state(state["random"])
        images = state.get("images")
        self._images = [] if images is None else list(images.to(device))
