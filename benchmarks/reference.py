"""The textbook's training: plain, eager, in float32, as codes of the method usually do it.

Networks, losses and image buffer are those of ``tests/reference.py``, written from the paper. A
step calls each network for each batch on its own, toggles ``requires_grad`` of the discriminators,
uses torch's Adam as it comes, and fetches its losses for the log. Nothing here imports medxlate.
"""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from reference import (
    ReferenceBuffer,
    _l1,
    _least_squares,
    reference_discriminator,
    reference_generator,
)


@dataclass
class Sizes:
    """The networks' sizes; the defaults are the paper's at 256 px."""

    width: int = 64
    blocks: int = 9
    discriminator_width: int = 64
    predictor: str = "resnet50"


class ReferenceTraining:
    """G, F, D_s, D_t and P, and a step of equation 3.

    Args:
        sizes: Of the networks.
        device: Where they are.
        mean: Mean label, years.
        std: Its standard deviation.
    """

    def __init__(self, sizes: Sizes, device: torch.device, *, mean: float, std: float) -> None:
        generator = lambda: reference_generator(1, 1, sizes.width, sizes.blocks).to(device)  # noqa: E731
        judge = lambda: reference_discriminator(1, sizes.discriminator_width).to(device)  # noqa: E731
        self.g, self.f, self.d_s, self.d_t = generator(), generator(), judge(), judge()
        self.predictor: nn.Module = timm.create_model(
            sizes.predictor, in_chans=1, num_classes=1
        ).to(device)
        for network in (self.g, self.f, self.d_s, self.d_t):
            for parameter in network.parameters():
                nn.init.normal_(parameter, 0.0, 0.02)
        betas = (0.5, 0.999)
        self.adam_g = torch.optim.Adam(
            chain(self.g.parameters(), self.f.parameters()), 2e-4, betas=betas
        )
        self.adam_d = torch.optim.Adam(
            chain(self.d_s.parameters(), self.d_t.parameters()), 2e-4, betas=betas
        )
        self.adam_p = torch.optim.Adam(self.predictor.parameters(), 1e-3)
        draws = random.Random(0)
        self.buffers = [ReferenceBuffer(50, draws.random, draws.randrange) for _ in range(2)]
        self.mean, self.std = mean, std

    def step(
        self, y: Tensor, label_s: Tensor, x: Tensor, label_t: Tensor, *, log: bool = True
    ) -> dict[str, float]:
        """Take a step on source images y and target images x, both [B, 1, S, S] in [-1, 1].

        Returns:
            Its losses, under medxlate's names without the source's; none where ``log`` is off.
        """
        for network in (self.d_s, self.d_t):
            network.requires_grad_(False)
        fake_t, fake_s = self.g(y), self.f(x)
        losses = {
            "adv_t": _least_squares(self.d_t(fake_t), 1.0),
            "adv_s": _least_squares(self.d_s(fake_s), 1.0),
            "cycle_s": _l1(self.f(fake_t), y),
            "cycle_t": _l1(self.g(fake_s), x),
        }
        outputs = self.mean + self.std * self.predictor(torch.cat([fake_t, x]))[:, 0]
        losses["predict_fake"] = (outputs[: len(y)] - label_s).square().mean()
        losses["predict_real"] = (outputs[len(y) :] - label_t).square().mean()
        total = losses["adv_t"] + losses["adv_s"] + 10 * (losses["cycle_s"] + losses["cycle_t"])
        total = total + 0.001 * (losses["predict_fake"] + losses["predict_real"])
        self.adam_g.zero_grad()
        self.adam_p.zero_grad()
        total.backward()
        self.adam_g.step()
        self.adam_p.step()
        self.adam_d.zero_grad()
        for name, network, real, fake, buffer in (
            ("d_s", self.d_s, y, fake_s, self.buffers[0]),
            ("d_t", self.d_t, x, fake_t, self.buffers[1]),
        ):
            network.requires_grad_(True)
            old = buffer(fake.detach())
            loss = (_least_squares(network(real), 1.0) + _least_squares(network(old), 0.0)) / 2
            loss.backward()
            losses[name] = loss
        self.adam_d.step()
        return {name: loss.item() for name, loss in losses.items()} if log else {}
