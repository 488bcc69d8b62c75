"""Each way of going wrong is told when it happens, and none of them when it does not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import tiny
from medxlate.base.device import Compute
from medxlate.base.events import Alarmed, Event
from medxlate.cli.console import Reporter
from medxlate.config import ObjectiveConfig, OptimizerConfig, keys
from medxlate.dataset.loading import Batch
from medxlate.inference.engine import run
from medxlate.method.joint import Joint
from medxlate.method.label_transform import LabelTransform
from medxlate.method.learner import set_rate
from medxlate.method.predictor import PredictorNetwork
from medxlate.method.supervised import Supervised
from medxlate.method.translator import TranslatorNetworks
from medxlate.phantoms.anatomy import draw_anatomy, render
from medxlate.training.monitor import (
    COLLAPSED,
    CONSTANT,
    COPIES,
    INVERTED,
    KINDS,
    SETTLED,
    TrainingMonitor,
    constant_error,
    image_values,
)
from medxlate.training.record import Recorder, read_events, rewind_record
from medxlate.training.step import take_step
from medxlate.training.validation import validation_metrics

CPU = Compute(torch.device("cpu"), "fp32")
HEAD = LabelTransform(task=tiny.AGE, mean=55.0, std=15.0)
PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "when-training-goes-wrong.md"


@cache
def patients(modality: str, first: int, count: int, size: int = 32) -> tuple[Tensor, Tensor]:
    """Generated patients: images [N, 1, S, S] in [-1, 1] and ages [N]."""
    low, high = {"ct": (-20, 100), "mri": (0, 2400), "pet": (0, 25000)}[modality]
    images, ages = [], []
    for number in range(first, first + count):
        random = np.random.default_rng(number)
        age = float(random.uniform(25, 85))
        pixels = render(
            draw_anatomy(random, age=age), modality, number % 4 / 4, size=size, rng=random
        )
        images.append(np.clip((pixels - low) / (high - low), 0, 1) * 2 - 1)
        ages.append(age)
    return torch.tensor(np.stack(images)).float().unsqueeze(1), torch.tensor(ages)


# Trainings


def make_joint(*, width: int = 8, blocks: int = 2, predictor: bool = True) -> Joint:
    torch.manual_seed(3)
    return Joint(
        {"mri": TranslatorNetworks(width=width, blocks=blocks, discriminator_width=8)},
        PredictorNetwork(architecture="test_resnet") if predictor else None,
        target="ct",
        head=HEAD,
        objective=ObjectiveConfig(),
        optimizer=OptimizerConfig(),
        compute=CPU,
        seed=0,
    )


def train(
    learner: Joint, steps: int, *, log_every: int = 10, look_every: int = 40
) -> list[Alarmed]:
    """Train on generated patients, two a step, and return what the monitor reports."""
    monitor, found, window = TrainingMonitor(), list[Alarmed](), list[dict[str, float]]()
    y, x = patients("mri", 0, 40), patients("ct", 100, 40)
    val_y, val_x = patients("mri", 200, 4)[0], patients("ct", 300, 4)
    constant = constant_error(x[1], val_x[1], HEAD)
    for step in range(1, steps + 1):
        chosen = [(2 * step + i) % 40 for i in range(2)]
        batches = {
            name: Batch(images[chosen], ages[chosen])
            for name, (images, ages) in (("mri", y), ("ct", x))
        }
        losses = take_step(learner, batches)
        window.append({name: float(loss) for name, loss in losses.items()})
        if step % log_every == 0:
            means = {k: float(np.mean([each[k] for each in window])) for k in window[0]}
            found += monitor.losses(step, means)
            window.clear()
        if step % look_every:
            continue
        fake = run(learner.networks["mri"].g, [val_y], compute=CPU)
        found += monitor.images(step, "mri", val_y, fake, val_x[0])
        if learner.validates:
            outputs = run(learner.networks["predictor"], [val_x[0]], compute=CPU)
            metrics = validation_metrics(np.asarray(HEAD.predictions(outputs)), val_x[1], HEAD)
            found += monitor.validation(step, "ct", metrics["val_error"], constant)
    return found


def kinds(alarms: list[Alarmed]) -> set[str]:
    return {alarm.kind for alarm in alarms}


@pytest.mark.parametrize("steps", [80, pytest.param(320, marks=pytest.mark.nightly)])
def test_a_sound_training_raises_no_alarm(steps: int):
    assert train(make_joint(), steps) == []


@pytest.mark.nightly
def test_a_discriminator_with_an_absurd_rate_explodes():
    learner = make_joint(width=4, blocks=1, predictor=False)
    set_rate(learner.optimizers["discriminators"], 0.1)
    alarms = train(learner, 250)
    assert "discriminator-exploded" in kinds(alarms)
    assert {alarm.modality for alarm in alarms} == {"mri"}


@pytest.mark.nightly
def test_a_discriminator_wins_against_generators_that_stand_still():
    learner = make_joint(width=4, blocks=1, predictor=False)
    set_rate(learner.optimizers["generators"], 0)
    assert "discriminator-won" in kinds(train(learner, 500))


def test_translators_with_a_rate_of_a_tenth_give_one_grey():
    learner = make_joint(predictor=False)
    for name in ("generators", "discriminators"):
        set_rate(learner.optimizers[name], 0.1)
    assert "constant-output" in kinds(train(learner, 160))


def test_a_predictor_goes_astray_at_an_absurd_rate():
    y, ages = patients("ct", 100, 40)
    val = patients("ct", 300, 8)
    torch.manual_seed(0)
    learner = Supervised(
        PredictorNetwork(architecture="test_resnet"),
        sources=(),
        target="ct",
        head=HEAD,
        optimizer=OptimizerConfig(predictor_lr=30.0),
        compute=CPU,
    )
    monitor, found = TrainingMonitor(), list[Alarmed]()
    for step in range(1, 401):
        chosen = [(4 * step + i) % 40 for i in range(4)]
        take_step(learner, {"ct": Batch(y[chosen], ages[chosen])})
        if step % 50 == 0:
            outputs = run(learner.networks["predictor"], [val[0]], compute=CPU)
            error = float((HEAD.predictions(outputs) - val[1]).square().mean())
            found += monitor.validation(step, "ct", error, constant_error(ages, val[1], HEAD))
    assert [alarm.kind for alarm in found] == ["predictor-astray"]


# Images


def look(fake: Callable[[Tensor, Tensor], Tensor], *, times: int = 4, count: int = 4) -> set[str]:
    """Return the kinds told of fakes made of (y, the same patients' x)."""
    y, own = patients("mri", 200, count)[0], patients("ct", 200, count)[0]
    x = patients("ct", 300, count)[0]
    monitor, found = TrainingMonitor(), list[Alarmed]()
    for number in range(times):
        found += monitor.images(SETTLED + 100 * number, "mri", y, fake(y, own), x)
    assert len(found) == len(kinds(found))  # each once
    return kinds(found)


@pytest.mark.parametrize("count", [1, 4, 16])
@pytest.mark.parametrize(
    ("fake", "wanted"),
    [
        (lambda y, own: own, set()),  # the perfect translation
        (lambda y, own: 0.7 * own, set()),  # pale
        (lambda y, own: (own + 0.3 * torch.randn_like(own)).clamp(-1, 1), set()),  # noisy
        (lambda y, own: own.roll(5, dims=3), set()),  # beside
        (lambda y, own: y, {"copies-input"}),
        (lambda y, own: (y + 0.02 * torch.randn_like(y)).clamp(-1, 1), {"copies-input"}),
        (lambda y, own: -y, {"contrast-inverted"}),
        (lambda y, own: -own, {"contrast-inverted"}),
        (lambda y, own: (-own).roll(5, dims=3), {"contrast-inverted"}),
    ],
)
def test_translations_of_phantoms_are_judged(
    fake: Callable[[Tensor, Tensor], Tensor], wanted: set[str], count: int
):
    torch.manual_seed(0)
    assert look(fake, count=count) == wanted


@pytest.mark.parametrize("grey", [-1.0, 0.0, 0.4, 1.0])
def test_one_grey_is_told_as_that_alone(grey: float):
    assert look(lambda y, own: torch.full_like(y, grey), count=1) == {"constant-output"}
    found = look(lambda y, own: torch.full_like(y, grey) + 0.01 * torch.randn_like(y))
    assert found - {"mode-collapse"} == {"constant-output"}  # it is that as well


def test_one_image_for_all_is_told():
    assert look(lambda y, own: own[:1].expand_as(own).clone()) == {"mode-collapse"}
    assert look(lambda y, own: own[:1] + 0.005 * torch.randn_like(own)) == {"mode-collapse"}


@pytest.mark.parametrize("pair", [("pet", "ct"), ("ct", "mri"), ("mri", "pet")])
def test_right_translations_between_all_modalities_are_sound(pair: tuple[str, str]):
    y, own = (patients(name, 200, 4)[0] for name in pair)
    values = image_values(y, own, patients(pair[1], 300, 4)[0])
    for kind, value in values.items():
        assert value < kind.well if kind.above else value > kind.well, kind.name
    assert values[INVERTED] < -0.7


def test_where_inverting_is_right_it_is_no_alarm_and_copying_is():
    """The tiny set's ct shows dark what its mri shows bright."""
    random = np.random.default_rng(0)
    y = torch.tensor(random.uniform(0, 1, (4, 1, 32, 32)) ** 3).float() * 1.6 - 0.8
    x = -torch.tensor(random.uniform(0, 1, (4, 1, 32, 32)) ** 3).float() * 1.6 + 0.8
    sound = image_values(y, -y, x)
    assert sound[INVERTED] < -0.8
    assert sound[COPIES] > 1
    copied = image_values(y, y, x)
    assert copied[INVERTED] > 0.8
    assert copied[COPIES] == 0


def test_alike_modalities_may_be_copied():
    y, x = patients("mri", 200, 8)[0], patients("mri", 300, 8)[0]
    assert COPIES not in image_values(y, y, x)


def test_no_translation_with_the_targets_greys_counts_as_a_copy():
    """Mean change divided by the distance of the grey values is at least 1 for it (Kantorovich)."""
    random = torch.Generator().manual_seed(0)
    y = torch.rand(2, 1, 16, 16, generator=random) * 2 - 1
    x = (torch.rand(2, 1, 16, 16, generator=random) ** 2) * 2 - 1
    ranks = y.flatten().argsort().argsort()
    nearest = x.flatten().sort().values[ranks].view_as(y)  # the smallest change there is
    assert image_values(y, nearest, x)[COPIES] == pytest.approx(1, abs=0.02)
    shuffled = nearest.flatten()[torch.randperm(512, generator=random)].view_as(y)
    assert image_values(y, shuffled, x)[COPIES] > 1.5


def test_values_are_their_formulas():
    random = np.random.default_rng(1)
    y, fake, x = (random.uniform(-1, 1, (3, 1, 8, 8)).astype(np.float32) for _ in range(3))
    x, y = x**3, y / 3
    assert y.std(axis=0).mean() < x.std(axis=0).mean()
    values = image_values(*(torch.tensor(each) for each in (y, fake, x)))
    contrast = fake.reshape(3, -1).std(axis=1).mean() / x.reshape(3, -1).std(axis=1).mean()
    assert values[CONSTANT] == pytest.approx(contrast, rel=1e-5)
    variety = fake.std(axis=0).mean() / min(x.std(axis=0).mean(), y.std(axis=0).mean())
    assert values[COLLAPSED] == pytest.approx(variety, rel=1e-5)

    def distance(one: np.ndarray, other: np.ndarray) -> float:
        return float(np.abs(np.sort(one.ravel()) - np.sort(other.ravel())).mean())

    right, turned = distance(fake, x), distance(-fake, x)
    assert values[INVERTED] == pytest.approx((right - turned) / (right + turned), abs=0.03)
    assert values[COPIES] == pytest.approx(np.abs(fake - y).mean() / distance(y, x), rel=0.05)


def test_images_are_not_judged_before_translators_can_have_learned():
    y, x = patients("mri", 200, 4)[0], patients("ct", 300, 4)[0]
    monitor = TrainingMonitor()
    for step in range(SETTLED):
        assert monitor.images(step, "mri", y, y, x) == []
    assert monitor.images(SETTLED, "mri", y, y, x) == []  # the first look
    assert kinds(monitor.images(SETTLED + 1, "mri", y, y, x)) == {"copies-input"}


def test_large_images_and_bf16_are_judged_alike():
    y, x = (patients(name, 200, 2, 600)[0] for name in ("mri", "ct"))
    small = image_values(y[..., ::2, ::2], y[..., ::2, ::2], x[..., ::2, ::2])
    large = image_values(y.bfloat16(), y.bfloat16(), x.bfloat16())
    for kind, value in large.items():
        assert value == pytest.approx(small[kind], abs=0.05), kind.name


def test_images_that_are_not_finite_raise_no_alarm():
    y, x = patients("mri", 200, 4)[0], patients("ct", 300, 4)[0]
    monitor = TrainingMonitor()
    for step in (300, 400, 500):
        assert monitor.images(step, "mri", y, torch.full_like(y, torch.nan), x) == []


# Losses


def judge(values: list[float], *, every: int = 50, name: str = "mri.d_t") -> list[int]:
    """Return the steps at which windows of these losses are told."""
    monitor = TrainingMonitor()
    return [
        alarm.step
        for number, value in enumerate(values, start=1)
        for alarm in monitor.losses(every * number, {name: value, "mri.adv_t": 50.0})
    ]


WELL = [0.25] * 4  # to step 200


@pytest.mark.parametrize(
    ("values", "steps"),
    [
        ([0.25, 0.2, 0.15, 0.25] * 10, []),
        ([*WELL, 2.0], [250]),
        ([*WELL, 900.0], [250]),
        ([*WELL, 1.2, 0.25, 1.2, 0.25], []),
        ([*WELL, 1.2, 1.2], [300]),
        ([*WELL, 2.0, 3.0, 9.0], [250]),  # once
        ([*WELL, 2.0, 0.7, 2.0], [250]),  # not well between
        ([*WELL, 2.0, 0.1, 0.1, 2.0], [250, 400]),  # well between
        ([*WELL, 900.0, 0.1, 0.1, 2.0], [250, 400]),  # a spike is soon forgotten
        ([*WELL, float("nan"), float("inf"), 2.0], [350]),
        ([*WELL, *[0.01] * 6, 0.2, *[0.01] * 5], []),  # below 0.02 from step 400 on
        ([*WELL, *[0.01] * 20], [550]),
        ([*WELL, *[0.01] * 8, 0.05, *[0.01] * 10], [550]),  # not well between
        ([*WELL, *[0.01] * 8, 0.2, *[0.01] * 10], [550, 950]),
    ],
)
def test_discriminators_are_told_once_until_they_are_well(values: list[float], steps: list[int]):
    assert judge(values) == steps


def test_the_window_between_two_looks_may_be_of_any_length():
    losses = [0.25] * 300 + [1.6] * 300
    told = {every: judge(losses[::every], every=every) for every in (1, 10, 50, 100)}
    assert all(len(steps) == 1 for steps in told.values())
    assert all(330 < steps[0] <= 400 for steps in told.values()), told


def test_wild_first_steps_are_no_alarm():
    assert judge([2.5] * 40 + [0.7] * 60 + [0.3] * 200, every=1) == []
    assert judge([2.5] * 201, every=1) == [200]


def test_having_won_takes_200_judged_steps_and_two_windows():
    assert judge([0.01] * 7) == []  # judged from step 200 on
    assert judge([0.01] * 8) == [400]
    assert judge([0.01], every=1000) == []
    assert judge([0.01, 0.01], every=1000) == [2000]


def test_each_discriminator_is_judged_by_itself():
    monitor = TrainingMonitor()
    found = monitor.losses(1000, {"mri.d_s": 1.5, "mri.d_t": 0.2, "pet.d_t": 1.5})
    assert [(alarm.modality, alarm.kind) for alarm in found] == [
        ("mri", "discriminator-exploded"),
        ("pet", "discriminator-exploded"),
    ]
    assert found[0].value == pytest.approx(1.5)
    assert "mri.d_s averages 1.5" in found[0].text
    assert [alarm.text for alarm in monitor.losses(2000, {"mri.d_t": 1.5, "mri.d_s": 1.5})] == [
        found[0].text.replace("mri.d_s", "mri.d_t")
    ]


# Predictor


def test_the_constant_error_is_the_loops_own_of_a_constant():
    train_ages, val_ages = torch.tensor([20.0, 40, 90]), torch.tensor([30.0, 60])
    found = constant_error(train_ages, val_ages, HEAD)
    constant = np.full(2, 50.0)
    assert found == pytest.approx(validation_metrics(constant, val_ages, HEAD)["val_error"])
    head = LabelTransform(task=tiny.GROUP)
    groups = torch.tensor([0, 0, 1])  # never the third
    val_groups = torch.tensor([0, 1, 2])
    shares = np.tile([2 / 3, 1 / 3, 0], (3, 1))
    wanted = validation_metrics(shares, val_groups, head)["val_error"]
    assert constant_error(groups, val_groups, head) == pytest.approx(wanted)


def test_a_predictor_is_told_after_three_bad_validations_in_a_row():
    def told(ratios: list[float], every: int = 100) -> list[int]:
        monitor = TrainingMonitor()
        return [
            alarm.step
            for number, ratio in enumerate(ratios, start=1)
            for alarm in monitor.validation(every * number, "ct", 100 * ratio, 100)
        ]

    assert told([0.9, 4, 4, 0.9, 4, 4, 2.9, 4, 4]) == []
    assert told([0.9, 4, 5, 6, 7]) == [400]
    assert told([4, 4, 4, 2, 4, 4, 4, 1, 4, 4, 4]) == [300, 1100]
    assert told([27, 27, 17, 9, 2], every=10) == []  # batch norm's first steps
    assert TrainingMonitor().validation(1000, "ct", 5.0, 0.0) == []


# State


def test_a_monitor_goes_on_from_its_state_wherever_it_was_kept():
    y, x = patients("mri", 200, 4)[0], patients("ct", 300, 4)[0]
    losses = [*WELL, 0.25, 2.0, 0.7, 2.0, 0.1, *[0.01] * 10, 0.2, *[0.01] * 10]

    def step(monitor: TrainingMonitor, number: int) -> list[Alarmed]:
        found = monitor.losses(50 * number, {"mri.d_t": losses[number], "mri.d_s": 0.2})
        found += monitor.images(50 * number, "mri", y, -y if number % 7 else y, x)
        return found + monitor.validation(50 * number, "ct", 4.0 if number % 9 else 1.0, 1.0)

    whole = TrainingMonitor()
    wanted = [alarm for number in range(len(losses)) for alarm in step(whole, number)]
    assert len(wanted) > 5
    for cut in range(len(losses)):
        first, second = TrainingMonitor(), TrainingMonitor()
        found = [alarm for number in range(cut) for alarm in step(first, number)]
        kept = json.dumps(first.state(), allow_nan=False)
        second.load_state(json.loads(kept))
        found += [alarm for number in range(cut, len(losses)) for alarm in step(second, number)]
        assert found == wanted


# What is said


def test_advice_names_keys_that_exist():
    for kind in KINDS:
        named = re.findall(r"\b[a-z]+\.[a-z_]+\b", kind.advice)
        assert named, kind.name
        assert set(named) <= set(keys())
        assert kind.advice.endswith(".")
        assert kind.well <= kind.limit if kind.above else kind.well >= kind.limit


@pytest.mark.parametrize(
    ("ratio", "kind", "key"),
    [(0.001, "guidance-unheard", "Raise"), (0.3, None, ""), (4.0, "guidance-overrules", "Lower")],
)
def test_a_predictor_that_guides_too_little_or_too_much_is_told(
    ratio: float, kind: str | None, key: str
):
    monitor, alarms = TrainingMonitor(), []
    for step in range(50, 650, 50):
        alarms += monitor.losses(step, {"mri.gradient_ratio": ratio})
    assert [alarm.kind for alarm in alarms] == ([kind] if kind else [])
    assert monitor.ratios() == {"mri.gradient_ratio": pytest.approx(ratio)}
    if kind:
        assert alarms[0].advice == f"{key} objective.lambda_predict."
        assert alarms[0].modality == "mri"


def test_guidance_is_judged_within_the_presets_hundred_steps_of_it():
    """Its predictor begins at step 500, its translators end at 600."""
    monitor, alarms = TrainingMonitor(), []
    for step in range(510, 610, 10):
        alarms += monitor.losses(step, {"mri.gradient_ratio": 5.0, "predict_real": 1.0})
    assert [alarm.kind for alarm in alarms] == ["guidance-overrules"]
    assert set(monitor.ratios()) == {"mri.gradient_ratio"}
    again = TrainingMonitor()
    again.load_state(monitor.state())
    assert again.ratios() == monitor.ratios()
    for each in (monitor, again):
        each.losses(620, {"predict_real": 1.0})  # the translators are frozen
        assert each.ratios() == {}


def test_every_kind_is_on_the_page_with_its_limit():
    table = PAGE.read_text(encoding="utf-8").split("## What to do")[0]
    rows = dict(re.findall(r"^\| `([a-z-]+)` \|.*\| ([^|]*) \|$", table, re.MULTILINE))
    assert list(rows) == [kind.name for kind in KINDS]
    for kind in KINDS:
        first = re.search(r"[\d.]+", rows[kind.name])
        assert first is not None
        assert float(first[0]) == pytest.approx(kind.limit, abs=0.01), kind.name


def test_alarms_are_shown_and_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (alarm,) = TrainingMonitor().losses(1000, {"mri.d_t": 1.234})
    Reporter(json=True)(alarm)
    shown = capsys.readouterr()
    assert shown.out == ""
    said = " ".join(shown.err.split())
    assert "Step 1000, discriminator-exploded: the discriminator loss mri.d_t averages 1.23" in said
    assert said.endswith("Lower optimizer.translator_lr.")
    heard: list[Event] = []
    recorder = Recorder(tmp_path / "metrics.jsonl", heard.append)
    recorder(alarm)
    recorder(replace(alarm, step=2000))
    assert heard == [alarm, replace(alarm, step=2000)]
    events = read_events(tmp_path / "metrics.jsonl")
    assert [(e["event"], e["kind"], e["step"]) for e in events] == [
        ("alarm", "discriminator-exploded", 1000),
        ("alarm", "discriminator-exploded", 2000),
    ]
    rewind_record(tmp_path / "metrics.jsonl", 1000, 0)
    assert len(read_events(tmp_path / "metrics.jsonl")) == 1
