"""One step of the paper's method, and of CycleGAN alone."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

import torch
from torch import Tensor, nn
from torch.optim import Adam

from medxlate.config import ObjectiveConfig, OptimizerConfig
from medxlate.dataset.loading import Batch
from medxlate.models.device import Compute, full_precision
from medxlate.models.head import Head
from medxlate.models.predictor import PredictorNetwork
from medxlate.models.translator import TranslatorNetworks
from medxlate.training.augment import Augmentation
from medxlate.training.buffer import ImageBuffer
from medxlate.training.objective import adversarial_loss, discriminator_loss, l1_loss
from medxlate.training.step import (
    Losses,
    backward,
    prediction_loss,
    predictor_adam,
    target_parts,
    translator_adam,
)


class Joint:
    """The paper's method: translators and predictor trained together (equations 1 to 3).

    Every source has its own G, F, D_s and D_t; all share the predictor. Without a predictor it is
    CycleGAN alone (equation 1): no label is looked at.

    Args:
        translators: By source modality, on the device.
        predictor: P, on the device; None: translators only.
        target: The target modality.
        head: Takes the predictor's loss.
        objective: The weights.
        optimizer: Learning rates and buffer size.
        compute: Device and precision.
        seed: Of the image buffers.
        augment: Changes target images, which the predictor then sees as well; None: it does not.
        together: Whether images that one network sees in a step go through it as one batch, where
            that changes nothing (instance norm is per image): fewer calls, as GPUs like it.
    """

    def __init__(
        self,
        translators: Mapping[str, TranslatorNetworks],
        predictor: PredictorNetwork | None,
        *,
        target: str,
        head: Head,
        objective: ObjectiveConfig,
        optimizer: OptimizerConfig,
        compute: Compute,
        seed: int,
        augment: Augmentation | None = None,
        together: bool = False,
    ) -> None:
        self.modalities = (*translators, target)
        self.validates: tuple[str, ...] = () if predictor is None else (target,)
        self.capturable = augment is None
        self.predictor_batches = 0
        self.networks = nn.ModuleDict(dict(translators))
        self.optimizers: dict[str, Adam] = {}
        if predictor is not None:
            self.predictor_batches = len(self.modalities) + (augment is not None)
            self.networks = nn.ModuleDict({"predictor": predictor, **translators})
            self.optimizers["predictor"] = predictor_adam(predictor.parameters(), optimizer)
        self._translators = dict(translators)
        self._predictor = predictor
        self._target = target
        self._head = head
        self._weights = objective
        self._compute = compute
        self._augment = augment
        self._together = together
        self.optimizers |= {
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

    def backward(
        self, batches: Mapping[str, Batch], *, share: float = 1.0, progress: float = 0.0
    ) -> Losses:
        """Add the gradients of G, F and P of equation 3, and those of D_s and D_t.

        The discriminators see real images and buffered fakes.
        """
        losses: Losses = {}
        fakes = self._generators(batches, share, losses)
        self._discriminators(batches, fakes, share, losses)
        return losses

    def _generators(
        self, batches: Mapping[str, Batch], share: float, losses: Losses
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
            if self._predictor is not None:
                loss = self._prediction(self._predictor, batches, fakes, losses)
                total = total + self._weights.lambda_predict * loss
        backward(share * total)
        return fakes

    def _translation(
        self, networks: TranslatorNetworks, y: Tensor, x: Tensor, name: str, losses: Losses
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return L_trans (equation 1) of one source and its fakes (F(x), G(y))."""
        identity = self._weights.lambda_identity > 0
        fake_s, *same_s = self._each(networks.f, x, *([y] if identity else []))
        fake_t, cycled_t, *same_t = self._each(networks.g, y, fake_s, *([x] if identity else []))
        (cycled_s,) = self._each(networks.f, fake_t)
        terms = {
            "adv_t": adversarial_loss(networks.d_t(fake_t), real=True),
            "adv_s": adversarial_loss(networks.d_s(fake_s), real=True),
            "cycle_s": l1_loss(cycled_s, y),
            "cycle_t": l1_loss(cycled_t, x),
        }
        total = terms["adv_t"] + terms["adv_s"]
        total = total + self._weights.lambda_cycle * (terms["cycle_s"] + terms["cycle_t"])
        if identity:
            terms["identity"] = l1_loss(same_t[0], x) + l1_loss(same_s[0], y)
            total = total + self._weights.lambda_identity * terms["identity"]
        losses.update({f"{name}.{term}": value.detach() for term, value in terms.items()})
        return total, (fake_s, fake_t)

    def _each(self, network: nn.Module, *images: Tensor) -> list[Tensor]:
        """Return what the network makes of each batch."""
        if self._together and len(images) > 1:
            return list(network(torch.cat(images)).split([len(each) for each in images]))
        return [network(each) for each in images]

    def _prediction(
        self,
        predictor: PredictorNetwork,
        batches: Mapping[str, Batch],
        fakes: Mapping[str, tuple[Tensor, Tensor]],
        losses: Losses,
    ) -> Tensor:
        """Return L_pred (equation 2): every G(y) with its label, and x with its own."""
        parts = {
            f"{name}.predict_fake": Batch(fake_t, batches[name].labels)
            for name, (_, fake_t) in fakes.items()
        }
        parts |= target_parts(batches[self._target], self._augment)
        total, found = prediction_loss(predictor, parts, self._head)
        losses.update(found)
        return total

    def _discriminators(
        self,
        batches: Mapping[str, Batch],
        fakes: Mapping[str, tuple[Tensor, Tensor]],
        share: float,
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
                    loss = discriminator_loss(*self._each(judge, real, old))
                    losses[f"{name}.d_{side}"] = loss.detach()
                    total = total + loss
        backward(share * total)
