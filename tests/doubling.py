"""Training in float64, where rounding does not hide whether two ways of computing are the same.

In float32 it grows about threefold from step to step.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medxlate.dataset.loading import Batch
from medxlate.method.learner import Learner
from medxlate.training import setup as work
from medxlate.training.loader import TrainLoader


def double(patch: pytest.MonkeyPatch) -> None:
    """Let trainings compute in float64, from weights that numpy draws (the same anywhere)."""
    build, take = work.build_learner, TrainLoader.take

    def doubled_batches(self: TrainLoader, step: int) -> dict[str, Batch]:
        return {
            name: Batch(batch.images.double(), batch.labels.double())
            for name, batch in take(self, step).items()
        }

    patch.setattr(work, "build_learner", lambda *a, **options: doubled(build(*a, **options)))
    patch.setattr(TrainLoader, "take", doubled_batches)


def doubled(learner: Learner) -> Learner:
    """Bring a learner to float64, with weights from numpy."""
    random = np.random.default_rng(0)
    learner.networks.double()
    for parameter in learner.networks.parameters():
        if parameter.ndim > 1:
            drawn = torch.from_numpy(random.normal(0, 0.02, parameter.shape))
            parameter.data.copy_(drawn)
    return learner
