"""The fast path against the textbook over 200 steps of a training.

Two such trainings drift apart whatever is done well: Adam divides by gradients that are nearly
zero, and rounding grows about threefold a step (the golden losses of the training's tests). So the
textbook trains on its own, and before each step the fast path is given its weights: then the losses
of all 200 steps, and the updates, are compared at the weights of a real training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reference
import tiny
from medxlate.base.device import Compute, has_native_bf16
from medxlate.config import OptimizerConfig, resolve
from medxlate.dataset.loading import Batch
from medxlate.method import cpu_kernels as winograd_module
from medxlate.method.joint import Joint
from medxlate.method.label_transform import LabelTransform
from medxlate.method.placing import place
from medxlate.method.predictor import PredictorNetwork
from medxlate.method.translator import TranslatorNetworks
from medxlate.training.step import take_step
from reference import ReferenceAdam, ReferenceBuffer, ReferenceNetworks, reference_step

CPU = torch.device("cpu")
STEPS = 200
MEAN, STD = 50.0, 15.0
RATES = {"g": 2e-4, "f": 2e-4, "d_s": 2e-4, "d_t": 2e-4, "predictor": 1e-3}
BUFFER = 5


@dataclass
class Shape:
    size: int
    batch: int
    width: int


class Textbook:
    """The reference's training: its step, its Adam, its buffers."""

    def __init__(self, shape: Shape, draws: dict[str, Draws]) -> None:
        torch.manual_seed(1)
        generator = lambda: reference.reference_generator(1, 1, shape.width, 2)  # noqa: E731
        self.networks = ReferenceNetworks(
            generator(),
            generator(),
            reference.reference_discriminator(1, 8),
            reference.reference_discriminator(1, 8),
            PredictorNetwork(architecture="test_resnet"),
        )
        for name in RATES:
            if name != "predictor":
                for parameter in getattr(self.networks, name).parameters():
                    nn.init.normal_(parameter, 0, 0.05)
        self.adams = {
            name: ReferenceAdam(
                list(getattr(self.networks, name).parameters()),
                rate,
                (0.9, 0.999) if name == "predictor" else (0.5, 0.999),
            )
            for name, rate in RATES.items()
        }
        self.buffers = {side: ReferenceBuffer(BUFFER, d.coin, d.pick) for side, d in draws.items()}

    def step(self, batches: dict[str, Batch]) -> dict[str, float]:
        y, x = batches["mri"], batches["ct"]
        found = reference_step(
            self.networks,
            y.images,
            y.labels,
            x.images,
            x.labels,
            fakes_for_d_t=self.buffers["t"],
            fakes_for_d_s=self.buffers["s"],
            label_mean=MEAN,
            label_std=STD,
        )
        for name, adam in self.adams.items():
            adam.step(found.gradients[name])
        return found.losses


class Draws:
    """Foretells what a buffer of the fast path will draw."""

    def __init__(self, state: Tensor) -> None:
        self._random = torch.Generator()
        self._random.set_state(state)
        self._pick = 0.0

    def coin(self) -> float:
        coin, self._pick = torch.rand(2, generator=self._random).tolist()
        return coin

    def pick(self, count: int) -> int:
        return int(self._pick * count)


def make_fast(shape: Shape, precision: Any) -> Joint:
    compute = Compute(CPU, precision)
    return Joint(
        {
            "mri": place(
                TranslatorNetworks(width=shape.width, blocks=2, discriminator_width=8), compute
            )
        },
        place(PredictorNetwork(architecture="test_resnet"), compute),
        target="ct",
        head=LabelTransform(task=tiny.AGE, mean=MEAN, std=STD),
        objective=resolve(preset="paper").objective.model_copy(update={"fake_weight": 1.0}),
        optimizer=OptimizerConfig(buffer_size=BUFFER),
        compute=compute,
        seed=0,
    )


def parts(fast: Joint) -> dict[str, nn.Module]:
    translator = fast.networks["mri"]
    found = {name: getattr(translator, name) for name in ("g", "f", "d_s", "d_t")}
    return {**found, "predictor": fast.networks["predictor"]}


def make_batches(shape: Shape, step: int) -> dict[str, Batch]:
    """Discs whose size is the age, dark in one modality and bright in the other."""
    random = torch.Generator().manual_seed(step)
    grid = torch.linspace(-1, 1, shape.size)
    radius = torch.hypot(grid.view(-1, 1), grid.view(1, -1))
    found = {}
    for name, sign in (("mri", 1.0), ("ct", -1.0)):
        labels = 20 + 60 * torch.rand(shape.batch, generator=random)
        disc = (radius < labels.view(-1, 1, 1, 1) / 100).float() - 0.5
        noise = 0.1 * torch.randn(disc.shape, generator=random)
        found[name] = Batch((sign * disc + noise).clamp(-1, 1), labels)
    return found


def distances(
    shape: Shape, precision: str, steps: int
) -> tuple[dict[str, list[float]], list[float]]:
    """Return the relative distance of each loss in each step, and that of the updates."""
    fast = make_fast(shape, precision)
    draws = {side: Draws(fast.buffers[f"mri.{side}"].state()["random"]) for side in ("s", "t")}
    textbook = Textbook(shape, draws)
    losses: dict[str, list[float]] = {}
    updates = []
    for step in range(steps):
        before = {}
        for name, network in parts(fast).items():
            theirs = getattr(textbook.networks, name)
            reference.copy_parameters(theirs, network)
            before[name] = [parameter.detach().clone() for parameter in network.parameters()]
        batches = make_batches(shape, step)
        wanted = textbook.step(batches)
        for key, value in take_step(fast, batches).items():
            expected = wanted[key.removeprefix("mri.")]
            losses.setdefault(key, []).append(abs(value.item() - expected) / abs(expected))
        apart, path = 0.0, 0.0
        for name, network in parts(fast).items():
            rows = zip(
                network.parameters(),
                getattr(textbook.networks, name).parameters(),
                before[name],
                strict=True,
            )
            for mine, other, old in rows:
                apart += float((mine.detach() - other.detach()).abs().sum()) / RATES[name]
                path += float((other.detach() - old).abs().sum()) / RATES[name]
        updates.append(apart / path)
    return losses, updates


def test_in_float32_each_step_is_the_textbooks():
    losses, updates = distances(Shape(size=32, batch=2, width=8), "fp32", STEPS)
    ratio = losses.pop("mri.gradient_ratio")  # of two gradients
    assert max(ratio) < 1e-3
    assert sum(ratio) / STEPS < 1e-5
    for name, apart in losses.items():
        assert len(apart) == STEPS
        assert max(apart) < 3e-4, name
        assert sum(apart) / STEPS < 1e-5, name
    assert sum(updates) / STEPS < 0.01  # of the way that Adam goes


@pytest.mark.nightly
def test_in_float32_with_winograds_algorithm_too(monkeypatch: pytest.MonkeyPatch):
    used = []
    whole = winograd_module.winograd
    monkeypatch.setattr(winograd_module, "winograd", lambda *a: used.append(1) or whole(*a))
    width = winograd_module.FEWEST_CHANNELS // 4
    losses, updates = distances(Shape(size=64, batch=4, width=width), "fp32", steps=20)
    assert len(used) == 20 * 4 * 4  # four calls of a generator, each of two blocks of two
    assert max(losses.pop("mri.gradient_ratio")) < 1e-3  # of two gradients
    assert max(max(apart) for apart in losses.values()) < 1e-4
    assert sum(updates) / len(updates) < 0.01


@pytest.mark.nightly
@pytest.mark.skipif(not has_native_bf16(CPU), reason="emulated bf16 takes minutes here")
def test_in_bf16_each_step_is_near_the_textbooks():
    """Mean distance over 200 steps: cycle losses 1 %, adversarial 5 %, what P says 10 %."""
    losses, _ = distances(Shape(size=32, batch=2, width=8), "bf16", STEPS)
    of_predictor = ("predict", "gradient_ratio")
    for name, apart in losses.items():
        assert len(apart) == STEPS
        most = 0.01 if "cycle" in name else 0.05
        most = 0.1 if any(part in name for part in of_predictor) else most
        assert sum(apart) / STEPS < most, name
