"""A small joint learner, its batches and a runner of its steps, for tests of several files."""

from __future__ import annotations

from typing import Any

import torch

import tiny
from medxlate.base.device import Compute
from medxlate.base.events import Event, silent
from medxlate.config import ObjectiveConfig, OptimizerConfig, RuntimeConfig
from medxlate.dataset.loading import Batch
from medxlate.method.joint import Joint
from medxlate.method.label_transform import LabelTransform
from medxlate.method.placing import place
from medxlate.method.predictor import PredictorNetwork
from medxlate.method.translator import TranslatorNetworks
from medxlate.training.step_runner import StepRunner

CPU = Compute(torch.device("cpu"), "fp32")
HEAD = LabelTransform(task=tiny.AGE, mean=50.0, std=12.0)


def make_joint(
    *,
    predictor: bool = True,
    together: bool = False,
    compute: Compute = CPU,
    identity: float = 0.0,
    architecture: str = "test_resnet",
) -> Joint:
    torch.manual_seed(3)
    translator = TranslatorNetworks(width=8, blocks=2, discriminator_width=8)
    network = PredictorNetwork(architecture=architecture) if predictor else None
    return Joint(
        {"mri": place(translator, compute)},
        network if network is None else place(network, compute),
        target="ct",
        head=HEAD,
        objective=ObjectiveConfig(lambda_identity=identity),
        optimizer=OptimizerConfig(buffer_size=3),
        compute=compute,
        seed=0,
        together=together,
    )


def batches(size: int = 4, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Batch]:
    random = torch.Generator().manual_seed(seed)
    return {
        name: Batch(
            (torch.rand(size, 1, 32, 32, generator=random) * 2 - 1).to(dtype),
            (20 + 60 * torch.rand(size, generator=random)).to(dtype),
        )
        for name in ("mri", "ct")
    }


def make_step_runner(
    learner: Joint, heard: list[Event] | None = None, /, *, compute: Compute = CPU, **runtime: Any
) -> StepRunner:
    listener = silent if heard is None else heard.append
    return StepRunner(learner, compute=compute, runtime=RuntimeConfig(**runtime), listener=listener)
