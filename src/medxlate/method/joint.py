"""One step of the paper's method, and of CycleGAN alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain

import torch
from torch import Tensor, nn
from torch.optim import Adam

from medxlate.base.device import Compute, full_precision
from medxlate.config import ObjectiveConfig, OptimizerConfig
from medxlate.dataset.loading import Batch
from medxlate.method.added import AddedLoss
from medxlate.method.augment import Augmentation
from medxlate.method.averages import Averages
from medxlate.method.buffer import ImageBuffer
from medxlate.method.diffaugment import diffaugment
from medxlate.method.fakes import for_predictor
from medxlate.method.label_transform import LabelTransform
from medxlate.method.learner import backward, predictor_adam, target_parts, translator_adam
from medxlate.method.noise import with_noise_of
from medxlate.method.objective import (
    Guidance,
    Losses,
    Translation,
    discriminator_loss,
    fake_weight,
    l_pred,
    l_reproduce,
    l_trans,
    objective,
)
from medxlate.method.predictor import PredictorNetwork
from medxlate.method.schedule import is_constant, phase_at
from medxlate.method.translator import TranslatorNetworks


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
        optimizer: Learning rates, schedule and buffer size.
        compute: Device and precision.
        seed: Of the image buffers.
        separate: Whether P's batch norm takes the statistics of translated and real images apart.
        counts: Training images by modality, where ``objective.fake_weight`` goes by them.
        augment: Changes target images, which the predictor then sees as well; None: it does not.
        added: Losses of plug-ins.
        together: Whether images that one network sees in a step go through it as one batch, where
            that changes nothing (instance norm is per image): fewer calls, as GPUs like it.
    """

    def __init__(
        self,
        translators: Mapping[str, TranslatorNetworks],
        predictor: PredictorNetwork | None,
        *,
        target: str,
        head: LabelTransform,
        objective: ObjectiveConfig,
        optimizer: OptimizerConfig,
        compute: Compute,
        seed: int,
        separate: bool = False,
        counts: Mapping[str, int] | None = None,
        augment: Augmentation | None = None,
        added: Sequence[AddedLoss] = (),
        together: bool = False,
    ) -> None:
        self.modalities = (*translators, target)
        self.validates: tuple[str, ...] = () if predictor is None else (target,)
        self.translates = True
        self.capturable = augment is None and is_constant(optimizer)
        self.capturable &= all(each.capturable for each in added)
        self.predictor_batches = 0
        self.networks = nn.ModuleDict(dict(translators))
        self.optimizers: dict[str, Adam] = {}
        if predictor is not None:
            self.predictor_batches = len(self.modalities) + (augment is not None)
            self.networks = nn.ModuleDict({"predictor": predictor, **translators})
            self.optimizers["predictor"] = predictor_adam(predictor.parameters(), optimizer)
        self.averages = Averages(translators, decay=optimizer.ema_decay)
        self._translators = dict(translators)
        self._predictor = predictor
        self._target = target
        self._head = head
        self._objective = objective
        self._schedule = optimizer
        self._lambda = objective.lambda_predict * (
            head.loss_unit if objective.predict_unit == "label" else 1 / head.constant_loss
        )
        self._weights = {
            f"{name}.predict_fake": fake_weight(objective, counts, name, target)
            for name in translators
        }
        self._aside = predictor.aside if separate and predictor is not None else None
        self._compute = compute
        self._augment = augment
        self._added = tuple(added)
        self._apply = _as_one_batch if together else _each_alone
        self._judged = partial(diffaugment, policy=objective.diffaugment)
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
        """Add the gradients of G, F and P of equation 3, and those of D_s and D_t."""
        phase = phase_at(progress, self._schedule)
        losses: Losses = {}
        trans = pred = torch.zeros((), device=self._compute.device)
        guidances: dict[str, Guidance] = {}
        with self._compute.autocast():
            if phase.reproduces:
                trans = self._reproduce(batches, losses)
            translations = self._translate(batches, losses) if phase.translates else {}
            for each in translations.values():
                trans = trans + each.loss
            if self._predictor is not None and phase.predictor:
                guidances = {} if phase.finetunes else self._guide(batches, translations)
                pred = self._predict(self._predictor, batches, guidances, losses)
            total = objective(trans, pred)
        backward(share * total)
        for name, guidance in guidances.items():
            if (ratio := guidance.ratio()) is not None:
                losses[f"{name}.gradient_ratio"] = ratio
        if translations:
            backward(share * self._judge(batches, translations, losses))
        else:
            for buffer in self.buffers.values():
                buffer.forget()
        return losses

    def _reproduce(self, batches: Mapping[str, Batch], losses: Losses) -> Tensor:
        """Return how far the generators of all sources are from reproducing their images."""
        x, found = batches[self._target].images, []
        for name, networks in self._translators.items():
            loss = l_reproduce(networks, batches[name].images, x, apply=self._apply)
            losses[f"{name}.reproduce"] = loss.detach()
            found.append(loss)
        return torch.stack(found).sum()

    def _translate(self, batches: Mapping[str, Batch], losses: Losses) -> dict[str, Translation]:
        """Return equation 1 of every source."""
        x, found = batches[self._target].images, {}
        for name, networks in self._translators.items():
            found[name] = l_trans(
                networks,
                batches[name].images,
                x,
                self._objective,
                judged=self._judged,
                noisy=partial(self._noisy, real=x),
                apply=self._apply,
                added=self._added,
            )
            losses.update({f"{name}.{term}": value for term, value in found[name].terms.items()})
        return found

    def _guide(
        self, batches: Mapping[str, Batch], translations: Mapping[str, Translation]
    ) -> dict[str, Guidance]:
        """Return what passes from G(y) of every source to P and back."""
        found = {}
        for name in self._translators:
            made, y = translations.get(name), batches[name].images
            if made is None:
                found[name] = Guidance(self._retranslated(name, y))
            else:
                shown = self._retranslated(name, y) if self._objective.ema_fakes else None
                found[name] = Guidance(made.fake_t, shown=shown, weight=self._lambda)
        return found

    @torch.no_grad()
    def _retranslated(self, name: str, y: Tensor) -> Tensor:
        """Return the translation that P learns from, outside the graph."""
        g = self._translators[name].g
        fake_t: Tensor = (
            self.averages.call(f"{name}.g", g, y) if self._objective.ema_fakes else g(y)
        )
        return full_precision(fake_t)

    def _noisy(self, fake_t: Tensor, real: Tensor) -> Tensor:
        return with_noise_of(fake_t, real) if self._objective.noise == "target" else fake_t

    def _predict(
        self,
        predictor: PredictorNetwork,
        batches: Mapping[str, Batch],
        guidances: Mapping[str, Guidance],
        losses: Losses,
    ) -> Tensor:
        """Return L_pred (equation 2): every G(y) with its label, and x with its own."""
        x = batches[self._target].images
        fakes = {
            f"{name}.predict_fake": Batch(
                for_predictor(guidance.shown, x, self._objective), batches[name].labels
            )
            for name, guidance in guidances.items()
        }
        total, found = l_pred(
            predictor,
            fakes,
            target_parts(batches[self._target], self._augment),
            self._head,
            weights=self._weights,
            aside=self._aside,
        )
        losses.update(found)
        return total

    def _judge(
        self,
        batches: Mapping[str, Batch],
        translations: Mapping[str, Translation],
        losses: Losses,
    ) -> Tensor:
        """Return the discriminators' loss on real images and buffered fakes."""
        found = []
        with self._compute.autocast():
            for name, networks in self._translators.items():
                made = translations[name]
                sides = {
                    "s": (networks.d_s, batches[name].images, made.fake_s),
                    "t": (networks.d_t, batches[self._target].images, made.shown_t),
                }
                for side, (d, real, fake) in sides.items():
                    if d is None or fake is None:
                        continue
                    old = self.buffers[f"{name}.{side}"].exchange(fake)
                    d.requires_grad_(True)
                    shown = (self._judged(real), self._judged(old))
                    loss = discriminator_loss(*self._apply(d, shown))
                    losses[f"{name}.d_{side}"] = loss.detach()
                    found.append(loss)
        return torch.stack(found).sum()


# Between networks images are float32: a network that met two types would be compiled twice.


def _each_alone(network: nn.Module, batches: tuple[Tensor, ...]) -> list[Tensor]:
    return [full_precision(network(batch)) for batch in batches]


def _as_one_batch(network: nn.Module, batches: tuple[Tensor, ...]) -> list[Tensor]:
    made = full_precision(network(torch.cat(batches)))
    return list(torch.split(made, [len(batch) for batch in batches]))
