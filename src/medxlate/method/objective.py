"""The paper's objective (section 3): its three equations, a function each, in its symbols.

y is a source image with label r_s, x a target image with label r_t, [B, 1, S, S] in [-1, 1]; G and
F translate to the target and back, D_t and D_s judge, P predicts. Every loss is a float32 scalar.
Expectations over the data are means over the batch, and a norm over an image is a mean over its
pixels, as in CycleGAN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from medxlate.base.device import full_precision
from medxlate.config import ObjectiveConfig
from medxlate.dataset.loading import Batch
from medxlate.method.added import AddedLoss, StepImages
from medxlate.method.label_transform import LabelTransform
from medxlate.method.structure import structure_loss
from medxlate.method.terms import ADDED
from medxlate.method.translator import TranslatorNetworks

Losses = dict[str, Tensor]
NO_WEIGHTS: Mapping[str, float] = MappingProxyType({})
SMALLEST = 1e-12  # of a gradient that another one is divided by
Apply = Callable[[nn.Module, tuple[Tensor, ...]], list[Tensor]]  # a network on several batches


@dataclass(frozen=True)
class Translation:
    """One source's images in both directions.

    Attributes:
        loss: L_trans.
        fake_t: G(y).
        shown_t: G(y) as D_t receives it, with noise where that is added.
        fake_s: F(x); None where training is one-sided.
        terms: The parts of L_trans, detached and unweighted.
    """

    loss: Tensor
    fake_t: Tensor
    shown_t: Tensor
    fake_s: Tensor | None
    terms: Losses


def l_trans(
    networks: TranslatorNetworks,
    y: Tensor,
    x: Tensor,
    weights: ObjectiveConfig,
    *,
    judged: Callable[[Tensor], Tensor],
    noisy: Callable[[Tensor], Tensor],
    apply: Apply,
    added: Sequence[AddedLoss] = (),
) -> Translation:
    """Return L_trans(G, F, D_t, D_s) of one source (equation 1).

    L_adv(D_t, G) + L_adv(D_s, F) + lambda_cyc (|F(G(y)) - y|_1 + |G(F(x)) - x|_1), and the identity
    loss of Zhu et al. 2017 (section 5.2), a structure loss and those of plug-ins where these have
    a weight. Without F and D_s, what concerns G alone.

    Args:
        networks: G, F, D_s and D_t; the discriminators get no gradient.
        y: Source images.
        x: Target images.
        weights: lambda_cyc and the other weights.
        judged: What the discriminators are shown of a batch of images (DiffAugment).
        noisy: Adds noise of the target's kind to G(y), for D_t, which compares it with x.
        apply: How a network takes several batches.
        added: Losses of plug-ins.
    """
    g, d_t = networks.g, networks.d_t
    d_t.requires_grad_(False)
    identity = weights.lambda_identity > 0
    terms: Losses = {}
    fake_s = cycled_s = cycled_t = None
    loss = torch.zeros((), device=y.device)
    if networks.f is not None and networks.d_s is not None:
        f, d_s = networks.f, networks.d_s
        d_s.requires_grad_(False)
        fake_s, *same_s = apply(f, (x, y) if identity else (x,))
        fake_t, cycled_t, *same_t = apply(g, (y, fake_s, x) if identity else (y, fake_s))
        (cycled_s,) = apply(f, (fake_t,))
        terms["adv_s"] = l_adv(d_s(judged(fake_s)), real=True)
        terms["cycle_s"], terms["cycle_t"] = l1(cycled_s, y), l1(cycled_t, x)
        loss = terms["adv_s"] + weights.lambda_cycle * (terms["cycle_s"] + terms["cycle_t"])
    else:
        same_s = []
        fake_t, *same_t = apply(g, (y, x) if identity else (y,))
    shown_t = noisy(fake_t)
    terms["adv_t"] = l_adv(d_t(judged(shown_t)), real=True)
    loss = loss + terms["adv_t"]
    if identity:
        same = [l1(same_t[0], x), *(l1(image, y) for image in same_s)]
        terms["identity"] = torch.stack(same).sum()
        loss = loss + weights.lambda_identity * terms["identity"]
    if weights.lambda_structure > 0:
        terms["structure"] = structure_loss(fake_t, y)
        if fake_s is not None:
            terms["structure"] = terms["structure"] + structure_loss(fake_s, x)
        loss = loss + weights.lambda_structure * terms["structure"]
    images = StepImages(y, x, fake_t, fake_s, cycled_s, cycled_t)
    for each in added:
        terms[ADDED + each.name] = each(images)
        loss = loss + each.weight * terms[ADDED + each.name]
    found = {name: value.detach() for name, value in terms.items()}
    return Translation(loss, fake_t, shown_t, fake_s, found)


def l_reproduce(networks: TranslatorNetworks, y: Tensor, x: Tensor, *, apply: Apply) -> Tensor:
    """Return the L1 norm by which G and F, as autoencoders, miss images of both modalities.

    Not in the paper. Generators that have learned to reproduce an image keep its detail when they
    begin to translate (Hinton and Salakhutdinov 2006, "Reducing the Dimensionality of Data with
    Neural Networks", on autoencoders as a beginning).
    """
    generators = [g for g in (networks.g, networks.f) if g is not None]
    found = [
        l1(same, image)
        for g in generators
        for same, image in zip(apply(g, (y, x)), (y, x), strict=True)
    ]
    return torch.stack(found).sum()


def l_pred(
    p: Callable[[Tensor], Tensor],
    fakes: Mapping[str, Batch],
    real: Mapping[str, Batch],
    head: LabelTransform,
    *,
    weights: Mapping[str, float] = NO_WEIGHTS,
    aside: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Losses]:
    """Return L_pred(G, P) (equation 2), and what each part of it loses.

    Sum over the sources of weight x mean of l(P(G(y)), r_s), plus the mean of l(P(x), r_t). All
    images go through P as one batch, so that its batch norm sees the combined training set; with
    ``aside``, those of each source go through P by themselves.

    Args:
        p: The predictor.
        fakes: G(y) with its labels, of each source; or what stands in its place.
        real: x with its labels, and what an augmentation makes of it.
        head: Takes l, of standardised labels.
        weights: Of parts of ``fakes``; 1 where a part is not named.
        aside: P for ``fakes``, by their own statistics; None: as for all others.

    Returns:
        L_pred, and the mean of l in each part, detached, in the label's own unit.
    """
    outputs: dict[str, Tensor] = {}
    together = {**fakes, **real}
    if aside is not None:
        outputs = {name: aside(batch.images) for name, batch in fakes.items()}
        together = dict(real)
    joined = p(torch.cat([batch.images for batch in together.values()]))
    pieces = torch.split(joined, [len(batch.labels) for batch in together.values()])
    outputs |= dict(zip(together, pieces, strict=True))
    losses = {
        name: head.loss(outputs[name], batch.labels) for name, batch in {**fakes, **real}.items()
    }
    total = torch.stack([weights.get(name, 1.0) * loss for name, loss in losses.items()]).sum()
    return total, {name: head.in_unit(loss.detach()) for name, loss in losses.items()}


def fake_weight(
    objective: ObjectiveConfig, counts: Mapping[str, int] | None, source: str, target: str | None
) -> float:
    """Return the weight of a source's mean loss in equation 2, beside 1 for the target's.

    Args:
        objective: ``fake_weight``.
        counts: Training images by modality.
        source: The source.
        target: The target; None: there is none to weigh against.
    """
    if target is None:
        return 1.0
    if objective.fake_weight != "count":
        return objective.fake_weight
    assert counts, "equation 2 weighs by them"
    return counts[source] / counts[target]


def objective(trans: Tensor, pred: Tensor) -> Tensor:
    """Return L = L_trans + lambda L_pred (equation 3), lambda applied where G meets P.

    P minimises L_pred whatever lambda is, so it takes its gradient as it is: with the paper's
    lambda of 0.001 Adam's epsilon, which is added to the size of a gradient, would slow it down.
    To G the gradient of L_pred comes through ``Guidance``, which multiplies it by lambda.
    """
    return trans + pred


def l_adv(judgement: Tensor, *, real: bool) -> Tensor:
    """Return the least-squares adversarial loss (Mao et al. 2017): judgements are to be 1 or 0."""
    wanted = 1.0 if real else 0.0
    return (full_precision(judgement) - wanted).square().mean()


def discriminator_loss(judged_real: Tensor, judged_fake: Tensor) -> Tensor:
    """Return half the sum over real and fake, as CycleGAN slows D down (Zhu et al. 2017, 7.1)."""
    return (l_adv(judged_real, real=True) + l_adv(judged_fake, real=False)) / 2


def l1(images: Tensor, wanted: Tensor) -> Tensor:
    """Return the L1 norm of cycle and identity losses (equation 1)."""
    return (full_precision(images) - full_precision(wanted)).abs().mean()


class Guidance:
    """What P's loss says to G at G(y): its gradient there, times lambda.

    Args:
        fake_t: G(y), part of the graph of L_trans where that is taken.
        shown: What goes to P in its place, [B, 1, S, S], such as the translation of averaged
            weights: its gradient is taken for that at G(y). None: G(y) itself.
        weight: lambda, for the loss of the standardised label; 0: P says nothing.

    Attributes:
        shown: What goes to P, part of the graph.
    """

    def __init__(self, fake_t: Tensor, *, shown: Tensor | None = None, weight: float = 0.0) -> None:
        self._fake_t = fake_t
        self._weight = weight
        self._gradients: list[Tensor] = []
        self.shown = (fake_t if shown is None else shown).detach()
        if weight > 0:
            fake_t.retain_grad()
            self.shown = _Guided.apply(fake_t, self.shown, weight)
            # The hook holds the list alone: with self the graph would be kept alive by a cycle.
            keep = self._gradients.append
            self.shown.register_hook(lambda gradient: keep(gradient.detach()))  # type: ignore[no-untyped-call]

    def ratio(self) -> Tensor | None:
        """Return |gradient of lambda L_pred| / |gradient of L_trans| at G(y), after backward.

        Euclidean norms over the batch; None where P says nothing.
        """
        if not self._gradients or self._fake_t.grad is None:
            return None
        pred = self._weight * full_precision(self._gradients[-1])
        trans = full_precision(self._fake_t.grad) - pred
        ratio: Tensor = pred.norm() / trans.norm().clamp(min=SMALLEST)
        return ratio


class _Guided(torch.autograd.Function):
    """Images in place of others, to which the gradient goes, times a weight."""

    @staticmethod
    def forward(ctx: Any, fake_t: Tensor, shown: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return shown.view_as(shown)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return ctx.weight * gradient, None, None
