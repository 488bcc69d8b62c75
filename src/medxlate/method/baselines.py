"""One step of the baselines that share a backbone between the modalities (paper, section 4.3)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from medxlate.base.device import Compute, full_precision
from medxlate.config import BaselinesConfig, OptimizerConfig
from medxlate.dataset.loading import Batch
from medxlate.method.averages import Averages
from medxlate.method.buffer import ImageBuffer
from medxlate.method.label_transform import LabelTransform
from medxlate.method.learner import backward, predictor_adam
from medxlate.method.objective import Losses, l_pred
from medxlate.method.predictor import PredictorNetwork


class MultiTask:
    """One backbone, a last layer for each source and one for the target (MTL).

    Only the predictor, with the target's last layer, is validated and exported.

    Args:
        predictor: P, on the device; its own last layer is the target's.
        sources: The source modalities.
        target: The target modality.
        head: Takes the losses.
        optimizer: Learning rate.
        config: Weight of the sources' loss.
        compute: Device and precision.
    """

    def __init__(
        self,
        predictor: PredictorNetwork,
        *,
        sources: Sequence[str],
        target: str,
        head: LabelTransform,
        optimizer: OptimizerConfig,
        config: BaselinesConfig,
        compute: Compute,
    ) -> None:
        layers = {name: nn.Linear(predictor.feature_width, head.outputs) for name in sources}
        heads = nn.ModuleDict(layers).to(compute.device)
        self.modalities: tuple[str, ...] = (*sources, target)
        self.validates: tuple[str, ...] = (target,)
        self.predictor_batches = len(self.modalities)
        self.capturable = True
        self.networks = nn.ModuleDict({"predictor": predictor, "source_heads": heads})
        self.optimizers = {"predictor": predictor_adam(self.networks.parameters(), optimizer)}
        self.buffers: dict[str, ImageBuffer] = {}
        self.averages = Averages({}, decay=0)
        self.translates = False
        self._predictor = predictor
        self._heads = heads
        self._head = head
        self._weight = config.multitask_weight
        self._compute = compute

    def backward(
        self, batches: Mapping[str, Batch], *, share: float = 1.0, progress: float = 0.0
    ) -> Losses:
        """Add the gradients of the target's loss plus the weighted losses of the sources."""
        *sources, target = self.modalities
        with self._compute.autocast():
            features = self._predictor.features(_together(batches, self.modalities))
            *shared, own = torch.split(features, [len(batches[n].labels) for n in self.modalities])
            total = self._head.loss(self._predictor.classify(own), batches[target].labels)
            losses = {"predict_real": self._head.in_unit(total.detach())}
            for name, part in zip(sources, shared, strict=True):
                loss = self._head.loss(self._heads[name](part), batches[name].labels)
                losses[f"{name}.predict"] = self._head.in_unit(loss.detach())
                total = total + self._weight * loss
        backward(share * total)
        return losses


class ReverseGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by -weight (Ganin & Lempitsky 2015, eq. 12)."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: float) -> Tensor:
        """Return the features as they are."""
        ctx.weight = weight
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Return the reversed gradient."""
        return -ctx.weight * gradient, None


def reversal_weight(progress: float, config: BaselinesConfig) -> float:
    """Return lambda_p = 2 / (1 + exp(-gamma p)) - 1 (Ganin & Lempitsky 2015, eq. 14), weighted.

    Args:
        progress: p, from 0 to 1.
        config: gamma, and the highest weight (1 in the publication).
    """
    return config.dann_weight * (2 / (1 + math.exp(-config.dann_gamma * progress)) - 1)


class Dann:
    """Domain-adversarial training (DA; Ganin & Lempitsky 2015), with labels in both domains.

    P learns from the labels of sources and target; a classifier tells from P's features which
    images are the target's, and its gradient reaches P reversed.

    Args:
        predictor: P, on the device; its pooled features are the representation.
        sources: The source modalities; together they are the source domain.
        target: The target modality.
        head: Takes the label's loss.
        optimizer: Learning rate of P and of the domain classifier.
        config: Schedule of the reversed gradient, width of the domain classifier.
        compute: Device and precision.
    """

    def __init__(
        self,
        predictor: PredictorNetwork,
        *,
        sources: Sequence[str],
        target: str,
        head: LabelTransform,
        optimizer: OptimizerConfig,
        config: BaselinesConfig,
        compute: Compute,
    ) -> None:
        width = config.dann_width
        domain = nn.Sequential(
            nn.Linear(predictor.feature_width, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, 1),
        ).to(compute.device)
        self.modalities: tuple[str, ...] = (*sources, target)
        self.validates: tuple[str, ...] = (target,)
        self.predictor_batches = len(self.modalities)
        self.capturable = False  # the reversed gradient's weight changes from step to step
        self.networks = nn.ModuleDict({"predictor": predictor, "domain": domain})
        self.optimizers = {"predictor": predictor_adam(self.networks.parameters(), optimizer)}
        self.buffers: dict[str, ImageBuffer] = {}
        self.averages = Averages({}, decay=0)
        self.translates = False
        self._predictor = predictor
        self._domain = domain
        self._head = head
        self._config = config
        self._compute = compute

    def backward(
        self, batches: Mapping[str, Batch], *, share: float = 1.0, progress: float = 0.0
    ) -> Losses:
        """Add the gradients of the label's loss and the domain's; P gets the latter reversed."""
        weight = reversal_weight(progress, self._config)
        *sources, target = self.modalities
        fakes = {f"{name}.predict": batches[name] for name in sources}
        real = {"predict_real": batches[target]}
        counts = [len(batches[name].labels) for name in self.modalities]
        with self._compute.autocast():
            features = self._predictor.features(_together(batches, self.modalities))
            label_loss, losses = l_pred(
                lambda _: self._predictor.classify(features), fakes, real, self._head
            )
            judged = full_precision(self._domain(ReverseGradient.apply(features, weight)))
            domain_loss = _domain_loss(judged.squeeze(1), counts)
        backward(share * (label_loss + domain_loss))
        return {**losses, "domain": domain_loss.detach()}


def _domain_loss(judged: Tensor, counts: Sequence[int]) -> Tensor:
    """Return the cross-entropy of logits [N] for "is target", sources and target weighing alike."""
    real = judged[-counts[-1] :]
    other = judged[: -counts[-1]]
    as_target = F.binary_cross_entropy_with_logits(real, torch.ones_like(real))
    as_source = F.binary_cross_entropy_with_logits(other, torch.zeros_like(other))
    return (as_target + as_source) / 2


def _together(batches: Mapping[str, Batch], names: Sequence[str]) -> Tensor:
    return torch.cat([batches[name].images for name in names])
