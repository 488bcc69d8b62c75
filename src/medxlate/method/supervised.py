"""The predictor alone, on labelled images of any modality (paper, sections 3, 4.3 and 4.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from medxlate.base.device import Compute
from medxlate.config import ObjectiveConfig, OptimizerConfig
from medxlate.dataset.loading import Batch
from medxlate.method.augment import Augmentation
from medxlate.method.averages import Averages
from medxlate.method.buffer import ImageBuffer
from medxlate.method.fakes import for_predictor
from medxlate.method.label_transform import LabelTransform
from medxlate.method.learner import backward, predictor_adam, target_parts
from medxlate.method.objective import Losses, fake_weight, l_pred
from medxlate.method.predictor import PredictorNetwork
from medxlate.method.schedule import is_constant, phase_at


class Supervised:
    """The predictor on labelled images, of the target or of anything put in its place.

    On the target alone it is PURE (paper, section 4.4); with source images, translated before or
    not, their batch goes through P together with the target's, each with its own mean loss
    (equation 2); an augmentation adds the changed target images as further training data
    (section 4.3).

    Args:
        predictor: P, on the device.
        sources: Modalities whose images it learns from beside the target's, or without them.
        target: The target modality, on which it is validated; None: there is none, and it is
            validated on the sources.
        head: Takes the loss.
        optimizer: Learning rate and schedule: the sources are left out where it fine-tunes.
        compute: Device and precision.
        objective: How the sources weigh beside the target.
        separate: Whether P's batch norm takes the statistics of sources and target apart.
        translated: Whether the sources' images are translations (``for_predictor``).
        counts: Training images by modality, where ``objective.fake_weight`` goes by them.
        augment: Changes the target's images; None: nothing is added.
    """

    def __init__(
        self,
        predictor: PredictorNetwork,
        *,
        sources: Sequence[str],
        target: str | None,
        head: LabelTransform,
        optimizer: OptimizerConfig,
        compute: Compute,
        objective: ObjectiveConfig | None = None,
        separate: bool = False,
        translated: bool = False,
        counts: Mapping[str, int] | None = None,
        augment: Augmentation | None = None,
    ) -> None:
        objective = objective or ObjectiveConfig()
        targets = () if target is None else (target,)
        self.modalities = (*sources, *targets)
        self.validates = targets or tuple(sources)
        self.predictor_batches = len(self.modalities) + (augment is not None)
        self.translates = False
        self.capturable = augment is None and is_constant(optimizer)
        self.averages = Averages({}, decay=0)
        self.networks = nn.ModuleDict({"predictor": predictor})
        self.optimizers = {"predictor": predictor_adam(predictor.parameters(), optimizer)}
        self.buffers: dict[str, ImageBuffer] = {}
        self._sources = tuple(sources)
        self._target = target
        self._predictor = predictor
        self._head = head
        self._compute = compute
        self._augment = augment
        self._schedule = optimizer
        self._objective = objective
        self._translated = translated
        self._aside = predictor.aside if separate and target is not None else None
        self._weights = {
            f"{name}.predict": fake_weight(objective, counts, name, target) for name in sources
        }

    def backward(
        self, batches: Mapping[str, Batch], *, share: float = 1.0, progress: float = 0.0
    ) -> Losses:
        """Add the gradients of the weighted sum of the modalities' mean losses (equation 2)."""
        fakes = {f"{name}.predict": batches[name] for name in self._sources}
        real: dict[str, Batch] = {}
        if self._target is None:  # the sources are all there is
            fakes, real = {}, fakes
        else:
            real = target_parts(batches[self._target], self._augment)
            if phase_at(progress, self._schedule).finetunes:
                fakes = {}
            if self._translated:
                x = batches[self._target].images
                fakes = {
                    name: Batch(for_predictor(batch.images, x, self._objective), batch.labels)
                    for name, batch in fakes.items()
                }
        with self._compute.autocast():
            total, losses = l_pred(
                self._predictor,
                fakes,
                real,
                self._head,
                weights=self._weights,
                aside=self._aside,
            )
        backward(share * total)
        return losses
