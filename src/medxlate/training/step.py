"""One optimizer step of each way of training.

A learner owns networks, optimizers and buffers; ``step`` takes a batch of every modality it asks
for and returns its losses as detached tensors on the device: nothing waits for the device here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Adam

from medxlate.config import ObjectiveConfig, OptimizerConfig
from medxlate.dataset.loading import Batch
from medxlate.models.device import Compute, full_precision
from medxlate.models.head import Head
from medxlate.models.predictor import PredictorNetwork
from medxlate.models.translator import TranslatorNetworks
from medxlate.training.buffer import ImageBuffer
from medxlate.training.objective import adversarial_loss, discriminator_loss, l1_loss

Losses = dict[str, Tensor]


class Learner(Protocol):
    """What the loop needs of a method.

    Attributes:
        modalities: Which modalities a step takes a batch of.
        networks: ``predictor``, and the translator of each source under its name.
        optimizers: By name.
        buffers: By name.
    """

    modalities: tuple[str, ...]
    networks: nn.ModuleDict
    optimizers: dict[str, Adam]
    buffers: dict[str, ImageBuffer]

    def step(self, batches: Mapping[str, Batch]) -> Losses:
        """Update every network once and return the losses before the update."""
        ...


class TargetOnly:
    """The predictor alone on real target images (PURE in the paper, section 4.4)."""

    def __init__(
        self,
        predictor: PredictorNetwork,
        *,
        target: str,
        head: Head,
        optimizer: OptimizerConfig,
        compute: Compute,
    ) -> None:
        self.modalities: tuple[str, ...] = (target,)
        self.networks = nn.ModuleDict({"predictor": predictor})
        self.optimizers = {"predictor": predictor_adam(predictor, optimizer)}
        self.buffers: dict[str, ImageBuffer] = {}
        self._predictor = predictor
        self._target = target
        self._head = head
        self._compute = compute

    def step(self, batches: Mapping[str, Batch]) -> Losses:
        """One step on l(P(x), r_t)."""
        batch = batches[self._target]
        with self._compute.autocast():
            loss = self._head.loss(self._predictor(batch.images), batch.labels)
        update(self.optimizers["predictor"], loss)
        return {"predict_real": loss.detach()}


class Joint:
    """The paper's method: translators and predictor trained together (equations 1 to 3).

    Every source has its own G, F, D_s and D_t; all share the predictor.
    """

    def __init__(
        self,
        translators: Mapping[str, TranslatorNetworks],
        predictor: PredictorNetwork,
        *,
        target: str,
        head: Head,
        objective: ObjectiveConfig,
        optimizer: OptimizerConfig,
        compute: Compute,
        seed: int,
    ) -> None:
        self.modalities = (*translators, target)
        self.networks = nn.ModuleDict({"predictor": predictor, **translators})
        self._translators = dict(translators)
        self._predictor = predictor
        self._target = target
        self._head = head
        self._weights = objective
        self._compute = compute
        self.optimizers = {
            "predictor": predictor_adam(predictor, optimizer),
            "generators": translator_adam(
                chain.from_iterable(t.generator_parameters() for t in translators.values()),
                optimizer,
            ),
            "discriminators": translator_adam(
                chain.from_iterable(t.discriminator_parameters() for t in translators.values()),
                optimizer,
            ),
        }
        self.buffers = {
            f"{name}.{side}": ImageBuffer(optimizer.buffer_size, seed=seed + i)
            for i, (name, side) in enumerate((n, s) for n in translators for s in ("s", "t"))
        }

    def step(self, batches: Mapping[str, Batch]) -> Losses:
        """Update G, F and P on equation 3, then D_s and D_t on real images and buffered fakes."""
        losses: Losses = {}
        fakes = self._update_generators(batches, losses)
        self._update_discriminators(batches, fakes, losses)
        return losses

    def _update_generators(
        self, batches: Mapping[str, Batch], losses: Losses
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Return (F(x), G(y)) of every source."""
        fakes: dict[str, tuple[Tensor, Tensor]] = {}
        with self._compute.autocast():
            total = torch.zeros((), device=self._compute.device)
            for name, networks in self._translators.items():
                y, x = batches[name].images, batches[self._target].images
                networks.d_s.requires_grad_(False)  # D is only asked here, not taught
                networks.d_t.requires_grad_(False)
                loss, fakes[name] = self._translation(networks, y, x, name, losses)
                total = total + loss
            total = total + self._weights.lambda_predict * self._prediction(batches, fakes, losses)
        update((self.optimizers["generators"], self.optimizers["predictor"]), total)
        return fakes

    def _translation(
        self, networks: TranslatorNetworks, y: Tensor, x: Tensor, name: str, losses: Losses
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return L_trans (equation 1) of one source and its fakes (F(x), G(y))."""
        g, f = networks.g, networks.f
        fake_t, fake_s = g(y), f(x)
        terms = {
            "adv_t": adversarial_loss(networks.d_t(fake_t), real=True),
            "adv_s": adversarial_loss(networks.d_s(fake_s), real=True),
            "cycle_s": l1_loss(f(fake_t), y),
            "cycle_t": l1_loss(g(fake_s), x),
        }
        total = terms["adv_t"] + terms["adv_s"]
        total = total + self._weights.lambda_cycle * (terms["cycle_s"] + terms["cycle_t"])
        if self._weights.lambda_identity > 0:
            terms["identity"] = l1_loss(g(x), x) + l1_loss(f(y), y)
            total = total + self._weights.lambda_identity * terms["identity"]
        losses.update({f"{name}.{term}": value.detach() for term, value in terms.items()})
        return total, (fake_s, fake_t)

    def _prediction(
        self,
        batches: Mapping[str, Batch],
        fakes: Mapping[str, tuple[Tensor, Tensor]],
        losses: Losses,
    ) -> Tensor:
        """Return L_pred (equation 2): every G(y) with its label, and x with its own.

        All go through P as one batch, so that its batch norm sees the combined training set.
        """
        x = batches[self._target]
        names = list(self._translators)
        outputs = self._predictor(torch.cat([*(fakes[n][1] for n in names), x.images]))
        parts = outputs.split([*(len(batches[n].labels) for n in names), len(x.labels)])
        total = self._head.loss(parts[-1], x.labels)
        losses["predict_real"] = total.detach()
        for name, part in zip(names, parts, strict=False):
            loss = self._head.loss(part, batches[name].labels)
            losses[f"{name}.predict_fake"] = loss.detach()
            total = total + loss
        return total

    def _update_discriminators(
        self,
        batches: Mapping[str, Batch],
        fakes: Mapping[str, tuple[Tensor, Tensor]],
        losses: Losses,
    ) -> None:
        x = batches[self._target].images
        with self._compute.autocast():
            total = torch.zeros((), device=self._compute.device)
            for name, networks in self._translators.items():
                fake_s, fake_t = fakes[name]
                networks.d_s.requires_grad_(True)
                networks.d_t.requires_grad_(True)
                sides = {
                    "s": (networks.d_s, batches[name].images, fake_s),
                    "t": (networks.d_t, x, fake_t),
                }
                for side, (judge, real, fake) in sides.items():
                    old = self.buffers[f"{name}.{side}"].exchange(full_precision(fake))
                    loss = discriminator_loss(judge(real), judge(old))
                    losses[f"{name}.d_{side}"] = loss.detach()
                    total = total + loss
        update(self.optimizers["discriminators"], total)


def predictor_adam(predictor: nn.Module, config: OptimizerConfig) -> Adam:
    """Return the predictor's optimizer."""
    parameters = list(predictor.parameters())
    return Adam(parameters, config.predictor_lr, betas=config.predictor_betas, fused=True)


def translator_adam(parameters: Iterable[nn.Parameter], config: OptimizerConfig) -> Adam:
    """Return the optimizer of the translators' generators or discriminators."""
    return Adam(list(parameters), config.translator_lr, betas=config.translator_betas, fused=True)


def update(optimizers: Adam | tuple[Adam, ...], loss: Tensor) -> None:
    """Take one step of the optimizers down the gradient of the loss."""
    several = optimizers if isinstance(optimizers, tuple) else (optimizers,)
    for optimizer in several:
        optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    for optimizer in several:
        optimizer.step()
