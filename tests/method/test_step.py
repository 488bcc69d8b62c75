"""One step of training against the textbook reference in ``reference.py``.

Tolerances: both sides compute in float32 and differ only in the order of sums. A bias before an
instance norm does not change the output, so its gradient is zero but for rounding: gradients are
compared with an absolute tolerance of 1e-5 of the largest one in their network. For the same
reason Adam moves such biases by the sign of a rounding error, and they are left out where weights
are compared after several steps.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reference
import tiny
from medxlate.base.device import Compute
from medxlate.config import ObjectiveConfig, OptimizerConfig, resolve
from medxlate.dataset.labels import Task
from medxlate.dataset.loading import Batch
from medxlate.method.buffer import ImageBuffer
from medxlate.method.joint import Joint
from medxlate.method.label_transform import LabelTransform
from medxlate.method.learner import Learner
from medxlate.method.predictor import PredictorNetwork
from medxlate.method.schedule import phase_at, rate_factor
from medxlate.method.structure import mind
from medxlate.method.supervised import Supervised
from medxlate.method.translator import TranslatorNetworks
from medxlate.training.step import take_step
from reference import ReferenceAdam, ReferenceBuffer, ReferenceNetworks, reference_step

MEAN, STD = 47.0, 13.0
WIDTH, BLOCKS = 8, 2
CPU = Compute(torch.device("cpu"), "fp32")
PAPER = {"lambda_predict": 0.001, "predict_unit": "label"}
TERMS = ("adv_t", "adv_s", "cycle_s", "cycle_t", "predict_fake", "d_s", "d_t")


def make_head(task: Task) -> LabelTransform:
    return (
        LabelTransform(task=task, mean=MEAN, std=STD)
        if task.kind == "regression"
        else LabelTransform(task=task)
    )


def make_joint(
    task: Task = tiny.AGE,
    *,
    sources: tuple[str, ...] = ("mri",),
    buffer_size: int = 0,
    compute: Compute = CPU,
    **options: Any,
) -> Joint:
    """Build a learner whose weights are far from their small beginning, so that all terms count.

    The predictor's loss weighs as in the paper. In float64 where the precision is fp32, so that it
    can be held against the reference tightly.
    """
    torch.manual_seed(4)
    head = make_head(task)
    predictor = PredictorNetwork(architecture="test_resnet", outputs=head.outputs)
    one_sided = options.get("one_sided", False)
    translators = {
        name: TranslatorNetworks(
            width=WIDTH, blocks=BLOCKS, discriminator_width=WIDTH, one_sided=one_sided
        )
        for name in sources
    }
    with torch.no_grad():
        for translator in translators.values():
            for parameter in translator.parameters():
                parameter.copy_(torch.randn_like(parameter) * 0.1)
        for parameter in predictor.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    if compute == CPU:
        predictor.double()
        for translator in translators.values():
            translator.double()
    return Joint(
        {name: translator.to(compute.device) for name, translator in translators.items()},
        predictor.to(compute.device),
        target="ct",
        head=head,
        objective=ObjectiveConfig(
            **{**PAPER, **{k: v for k, v in options.items() if k in ObjectiveConfig.model_fields}}
        ),
        optimizer=OptimizerConfig(
            buffer_size=buffer_size,
            **{k: v for k, v in options.items() if k in OptimizerConfig.model_fields},
        ),
        compute=compute,
        seed=6,
        counts={**dict.fromkeys(sources, 40), "ct": 20},
    )


def make_batch(task: Task, size: int, seed: int) -> Batch:
    random = torch.Generator().manual_seed(seed)
    images = torch.rand(size, 1, 32, 32, generator=random) * 2 - 1
    if task.kind == "classification":
        return Batch(images, torch.randint(0, len(task.classes), (size,), generator=random))
    return Batch(images, 20 + 60 * torch.rand(size, generator=random))


def make_batches(learner: Learner, task: Task, size: int = 2, seed: int = 0) -> dict[str, Batch]:
    dtype = next(learner.networks.parameters()).dtype
    batches = {n: make_batch(task, size, seed + i) for i, n in enumerate(learner.modalities)}
    return {
        name: Batch(
            batch.images.to(dtype),
            batch.labels.to(dtype) if task.kind == "regression" else batch.labels,
        )
        for name, batch in batches.items()
    }


def predictor_of(learner: Learner) -> nn.Module:
    return learner.networks["predictor"]


def translator_of(learner: Learner, name: str = "mri") -> TranslatorNetworks:
    translator = learner.networks[name]
    assert isinstance(translator, TranslatorNetworks)
    return translator


def reference_networks(learner: Joint, name: str = "mri") -> ReferenceNetworks:
    """Return the reference's own networks with the learner's weights."""
    ours = translator_of(learner, name)
    theirs = ReferenceNetworks(
        g=reference.reference_generator(1, 1, WIDTH, BLOCKS),
        f=reference.reference_generator(1, 1, WIDTH, BLOCKS),
        d_s=reference.reference_discriminator(1, WIDTH),
        d_t=reference.reference_discriminator(1, WIDTH),
        predictor=copy.deepcopy(predictor_of(learner)),
    )
    for part in ("g", "f", "d_s", "d_t"):
        getattr(theirs, part).to(next(ours.parameters()).dtype)
        reference.copy_parameters(getattr(ours, part), getattr(theirs, part))
    return theirs


def reference_result(
    networks: ReferenceNetworks, batches: Mapping[str, Batch], task: Task, **options: Any
) -> reference.ReferenceResult:
    options = {"fakes_for_d_t": lambda fake: fake, "fakes_for_d_s": lambda fake: fake, **options}
    return reference_step(
        networks,
        batches["mri"].images,
        batches["mri"].labels,
        batches["ct"].images,
        batches["ct"].labels,
        label_mean=MEAN,
        label_std=STD,
        classification=task.kind == "classification",
        **options,
    )


def gradients(network: nn.Module) -> list[Tensor]:
    found = []
    for parameter in network.parameters():
        assert parameter.grad is not None
        found.append(parameter.grad)
    return found


def check_gradients(ours: nn.Module, theirs: list[Tensor], what: str) -> None:
    largest = max(float(gradient.abs().max()) for gradient in theirs)
    assert largest > 0, what
    for mine, wanted in zip(gradients(ours), theirs, strict=True):
        torch.testing.assert_close(
            mine, wanted, rtol=1e-9, atol=1e-10 * largest, msg=lambda text: f"{what}: {text}"
        )


# One step


@pytest.mark.parametrize("task", [tiny.AGE, tiny.GROUP], ids=lambda task: task.kind)
@pytest.mark.parametrize("identity", [0.0, 5.0])
@pytest.mark.parametrize("size", [1, 2])
def test_a_step_is_the_references(task: Task, identity: float, size: int):
    # A weight at which the predictor's gradient is as large as the translator's.
    weight = 0.05 if task.kind == "regression" else 2.0
    learner = make_joint(task, lambda_identity=identity, lambda_predict=weight, lambda_cycle=7.0)
    networks, batches = reference_networks(learner), make_batches(learner, task, size)
    wanted = reference_result(
        networks,
        batches,
        task,
        lambda_cycle=7.0,
        lambda_predict=weight,
        lambda_identity=identity,
    )
    losses = take_step(learner, batches)

    names = {f"mri.{term}" for term in (*TERMS, "gradient_ratio")} | {"predict_real"}
    assert set(losses) == names | ({"mri.identity"} if identity else set())
    for name, value in losses.items():
        assert not value.requires_grad, name
        assert value.item() == pytest.approx(wanted.losses[name.removeprefix("mri.")], rel=1e-9)
    for part in ("g", "f", "d_s", "d_t"):
        check_gradients(getattr(translator_of(learner), part), wanted.gradients[part], part)
    check_gradients(predictor_of(learner), wanted.gradients["predictor"], "predictor")


def test_the_papers_preset_is_the_papers():
    paper = resolve(preset="paper")
    learner = make_joint(**paper.objective.model_dump() | {"fake_weight": 1.0})
    batches = make_batches(learner, tiny.AGE)
    wanted = reference_result(reference_networks(learner), batches, tiny.AGE)  # its own defaults
    take_step(learner, batches)
    check_gradients(translator_of(learner).g, wanted.gradients["g"], "g")
    check_gradients(predictor_of(learner), wanted.gradients["predictor"], "predictor")
    rates = {name: each.param_groups[0] for name, each in learner.optimizers.items()}
    assert (rates["generators"]["lr"], rates["generators"]["betas"]) == (2e-4, (0.5, 0.999))
    assert (rates["discriminators"]["lr"], rates["discriminators"]["betas"]) == (2e-4, (0.5, 0.999))
    assert rates["predictor"]["lr"] == 1e-3


def test_batch_statistics_are_of_translated_and_real_images_together():
    learner = make_joint()
    networks, batches = reference_networks(learner), make_batches(learner, tiny.AGE)
    reference_result(networks, batches, tiny.AGE)
    take_step(learner, batches)
    theirs = dict(networks.predictor.named_buffers())
    moved = False
    for name, buffer in predictor_of(learner).named_buffers():
        torch.testing.assert_close(buffer, theirs[name], rtol=1e-4, atol=1e-5)
        moved = moved or "running_mean" in name
    assert moved


# Several sources


def test_without_the_predictor_each_source_is_a_cyclegan_of_its_own():
    learner = make_joint(sources=("mri", "pet"), lambda_predict=0.0)
    batches = make_batches(learner, tiny.AGE)
    results = {
        name: reference_result(
            reference_networks(learner, name),
            {"mri": batches[name], "ct": batches["ct"]},
            tiny.AGE,
            lambda_predict=0.0,
        )
        for name in ("mri", "pet")
    }
    losses = take_step(learner, batches)
    for name, wanted in results.items():
        for term in TERMS:
            if term != "predict_fake":  # it sees the other source's images in the batch statistics
                value = losses[f"{name}.{term}"].item()
                assert value == pytest.approx(wanted.losses[term], rel=1e-9)
        for part in ("g", "f", "d_s", "d_t"):
            network = getattr(translator_of(learner, name), part)
            check_gradients(network, wanted.gradients[part], f"{name}.{part}")


@pytest.mark.parametrize("task", [tiny.AGE, tiny.GROUP], ids=lambda task: task.kind)
def test_two_sources_add_up_and_real_images_count_once(task: Task):
    weight = 0.05 if task.kind == "regression" else 2.0
    learner = make_joint(task, sources=("mri", "pet"), lambda_predict=weight)
    batches = make_batches(learner, task)
    networks = {name: reference_networks(learner, name) for name in ("mri", "pet")}
    predictor = copy.deepcopy(predictor_of(learner)).train()

    x, total, fakes = batches["ct"].images, torch.zeros(()), []
    for name, each in networks.items():
        y = batches[name].images
        fake_t, fake_s = each.g(y), each.f(x)
        fakes.append(fake_t)
        adversarial = sum(
            (d(fake) - 1).square().mean() for d, fake in ((each.d_t, fake_t), (each.d_s, fake_s))
        )
        cycle = (each.f(fake_t) - y).abs().mean() + (each.g(fake_s) - x).abs().mean()
        total = total + adversarial + 10 * cycle
    outputs = predictor(torch.cat([*fakes, x])).split(2)
    labels = [batches[name].labels for name in ("mri", "pet", "ct")]
    if task.kind == "regression":
        parts = [
            (MEAN + STD * output[:, 0] - label).square().mean()
            for output, label in zip(outputs, labels, strict=True)
        ]
    else:
        parts = [
            nn.functional.cross_entropy(output, label)
            for output, label in zip(outputs, labels, strict=True)
        ]
    (total + weight * sum(parts)).backward()
    unit = STD**2 if task.kind == "regression" else 1.0
    for parameter in predictor.parameters():  # P's own gradient is that without lambda
        parameter.grad /= weight * unit

    losses = take_step(learner, batches)
    terms = ("mri.predict_fake", "pet.predict_fake", "predict_real")
    for name, part in zip(terms, parts, strict=True):
        assert losses[name].item() == pytest.approx(part.item(), rel=1e-9)
    for name, each in networks.items():
        for part in ("g", "f"):
            wanted = gradients(getattr(each, part))
            check_gradients(getattr(translator_of(learner, name), part), wanted, f"{name}.{part}")
    check_gradients(predictor_of(learner), gradients(predictor), "predictor")


# Who is taught by what


def generator_gradients(learner: Joint) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients(translator_of(learner).g)])


def test_the_predictors_loss_teaches_the_generator():
    found = {}
    for weight in (0.0, 0.001, 1.0):
        learner = make_joint(lambda_predict=weight)
        take_step(learner, make_batches(learner, tiny.AGE))
        found[weight] = generator_gradients(learner)
    small, large = found[0.001] - found[0.0], found[1.0] - found[0.0]
    assert small.norm() > 1e-4 * found[0.0].norm()  # far above rounding
    torch.testing.assert_close(1000 * small, large, rtol=0.05, atol=float(large.abs().max()) * 0.01)
    # F and the discriminators know nothing of the labels.
    zero, full = make_joint(lambda_predict=0.0), make_joint(lambda_predict=1.0)
    for learner in (zero, full):
        take_step(learner, make_batches(learner, tiny.AGE))
    for part in ("f", "d_s", "d_t"):
        pairs = zip(
            gradients(getattr(translator_of(zero), part)),
            gradients(getattr(translator_of(full), part)),
            strict=True,
        )
        assert all(torch.equal(a, b) for a, b in pairs), part


def test_without_its_weight_the_labels_change_nothing_in_g_but_teach_the_predictor():
    found, taught = [], []
    for seed in (0, 50):
        learner = make_joint(lambda_predict=0.0)
        batches = make_batches(learner, tiny.AGE)
        labels = make_batch(tiny.AGE, 2, seed).labels
        batches["mri"] = Batch(batches["mri"].images, labels)
        take_step(learner, batches)
        found.append(generator_gradients(learner))
        taught.append(torch.cat([g.flatten() for g in gradients(predictor_of(learner))]))
    assert torch.equal(*found)
    assert not torch.equal(*taught)


@pytest.mark.parametrize("task", [tiny.AGE, tiny.GROUP], ids=lambda task: task.kind)
def test_the_predictor_is_taught_as_one_that_is_trained_alone(task: Task):
    """Whatever lambda is: its gradient is that of equation 2 on the images that it is shown."""
    found = []
    for weight in (0.0, 1e-4, 3.0):
        learner = make_joint(task, lambda_predict=weight)
        batches = make_batches(learner, task)
        plain = copy.deepcopy(predictor_of(learner)).train()
        fake_t = translator_of(learner).g(batches["mri"].images).detach()
        take_step(learner, batches)
        found.append(gradients(predictor_of(learner)))
    outputs = plain(torch.cat([fake_t, batches["ct"].images]))
    labels = torch.cat([batches["mri"].labels, batches["ct"].labels])
    if task.kind == "regression":
        wanted = (outputs[:, 0] - (labels - MEAN) / STD).square().mean()
    else:
        wanted = nn.functional.cross_entropy(outputs, labels)
    (2 * wanted).backward()
    for each in found:
        for mine, theirs in zip(each, gradients(plain), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("scale", [12.0, 365.25])
def test_nothing_depends_on_the_labels_unit(scale: float):
    """Ages in years, months or days: the same networks and the same balance after three steps."""
    found = []
    for unit in (1.0, scale):
        learner = make_joint(lambda_predict=0.1, predict_unit="standardised")
        learner._head = LabelTransform(task=tiny.AGE, mean=MEAN * unit, std=STD * unit)
        for step in range(3):
            batches = {
                name: Batch(batch.images, batch.labels * unit)
                for name, batch in make_batches(learner, tiny.AGE, seed=10 * step).items()
            }
            losses = take_step(learner, batches)
        ratio, error = (losses[name].item() for name in ("mri.gradient_ratio", "predict_real"))
        found.append((ratio, error / unit**2, generator_gradients(learner), learner.networks))
    (ratio, error, gradient, one), (other_ratio, other_error, other_gradient, other) = found
    assert other_ratio == pytest.approx(ratio, rel=1e-6)
    assert other_error == pytest.approx(error, rel=1e-6)
    torch.testing.assert_close(other_gradient, gradient, rtol=1e-5, atol=1e-9)
    for part in ("mri.g", "mri.d_t"):
        mine, theirs = other.get_submodule(part), one.get_submodule(part)
        check_tracks(mine, theirs, matters(theirs), 6e-4, part)


def test_the_papers_weight_is_of_the_labels_own_unit():
    """lambda = 0.001 on years squared is 0.001 x 13^2 on standardised labels."""
    paper = make_joint()
    ours = make_joint(lambda_predict=0.001 * STD**2, predict_unit="standardised")
    for learner in (paper, ours):
        take_step(learner, make_batches(learner, tiny.AGE))
    one, other = generator_gradients(ours), generator_gradients(paper)
    torch.testing.assert_close(one, other, rtol=1e-9, atol=0)


@pytest.mark.parametrize(("weight", "share"), [(0.25, 0.2), (4.0, 0.8), ("count", 2 / 3)])
def test_translated_images_weigh_as_configured(weight: float | str, share: float):
    learner = make_joint(fake_weight=weight)
    batches = make_batches(learner, tiny.AGE)
    number = 2.0 if weight == "count" else weight  # 40 source images, 20 of the target
    wanted = reference_result(reference_networks(learner), batches, tiny.AGE, fake_weight=number)
    take_step(learner, batches)
    check_gradients(translator_of(learner).g, wanted.gradients["g"], "g")
    check_gradients(predictor_of(learner), wanted.gradients["predictor"], "predictor")
    assert number / (number + 1) == pytest.approx(share)


def test_the_predictor_learns_from_averaged_generators():
    """It is shown their translation; what it says of that reaches the generators themselves."""
    learner = make_joint(lambda_predict=1.0, ema_fakes=True, ema_decay=0.5)
    batches = make_batches(learner, tiny.AGE)
    translator = translator_of(learner)
    average = copy.deepcopy(translator.g)
    with torch.no_grad():
        for parameter in translator.g.parameters():
            parameter.mul_(1.1)  # the average is what it was
    shown = average(batches["mri"].images).detach().requires_grad_()
    plain = copy.deepcopy(predictor_of(learner)).train()
    outputs = plain(torch.cat([shown, batches["ct"].images]))[:, 0].split(2)
    errors = [
        (MEAN + STD * output - batches[name].labels).square().mean()
        for output, name in zip(outputs, ("mri", "ct"), strict=True)
    ]
    (wanted,) = torch.autograd.grad(sum(errors), shown, retain_graph=True)
    losses = take_step(learner, batches)
    assert losses["mri.predict_fake"].item() == pytest.approx(errors[0].item(), rel=1e-9)

    silent = make_joint(lambda_predict=0.0, ema_fakes=True, ema_decay=0.5)
    with torch.no_grad():
        for parameter in translator_of(silent).g.parameters():
            parameter.mul_(1.1)
    twin = copy.deepcopy(translator_of(silent).g)
    take_step(silent, batches)
    twin(batches["mri"].images).backward(wanted)
    through = torch.cat([gradient.flatten() for gradient in gradients(twin)])
    spoken = generator_gradients(learner) - generator_gradients(silent)
    torch.testing.assert_close(spoken, through, rtol=1e-6, atol=1e-9 * float(through.abs().max()))


# Phases


def names_of(losses: Mapping[str, Tensor]) -> set[str]:
    return {name.removeprefix("mri.") for name in losses}


PHASES = {
    "epochs": 10,
    "autoencode": 0.1,
    "warmup": 0.2,
    "translator_share": 0.6,
    "finetune_share": 0.1,
}


def test_who_learns_changes_over_the_steps():
    translation = {*TERMS} - {"predict_fake"}
    for progress, wanted, moves in (
        (0.05, {"reproduce"}, {"mri"}),
        (0.1, translation, {"mri"}),
        (
            0.35,
            translation | {"predict_fake", "predict_real", "gradient_ratio"},
            {"mri", "predictor"},
        ),
        (0.7, {"predict_fake", "predict_real"}, {"predictor"}),
        (0.95, {"predict_real"}, {"predictor"}),
    ):
        learner = make_joint(**PHASES)
        assert not learner.capturable  # a captured step would stay in its phase
        before = copy.deepcopy(learner.networks)
        losses = take_step(learner, make_batches(learner, tiny.AGE), progress=progress)
        assert names_of(losses) == wanted, progress
        moved = {
            name.partition(".")[0]
            for (name, new), old in zip(
                learner.networks.named_parameters(), before.parameters(), strict=True
            )
            if not torch.equal(new, old)
        }
        assert moved == moves, progress


def test_generators_learn_to_reproduce_both_modalities_before_they_translate():
    learner = make_joint(epochs=10, autoencode=0.5, warmup=0.5)
    batches = make_batches(learner, tiny.AGE)
    networks = copy.deepcopy(translator_of(learner))
    losses = take_step(learner, batches)
    assert networks.f is not None
    total = torch.zeros(())
    for generator in (networks.g, networks.f):
        for batch in batches.values():
            total = total + torch.mean(torch.abs(generator(batch.images) - batch.images))
    torch.autograd.backward(total)
    assert losses["mri.reproduce"].item() == pytest.approx(total.item(), rel=1e-6)
    own = dict(translator_of(learner).named_parameters())
    for name, parameter in networks.named_parameters():
        if name.startswith("d_"):
            assert own[name].grad is None
            continue
        assert parameter.grad is not None
        most = max(p.grad.abs().max().item() for p in networks.g.parameters() if p.grad is not None)
        torch.testing.assert_close(own[name].grad, parameter.grad, rtol=1e-4, atol=1e-5 * most)


def test_no_discriminator_is_shown_what_an_autoencoder_never_made():
    """Rows of the buffer that nothing was put into would be grey fakes."""
    learner = make_joint(epochs=10, autoencode=0.5, warmup=0.5, buffer_size=4)
    for _ in range(3):
        take_step(learner, make_batches(learner, tiny.AGE))
        assert "images" not in learner.buffers["mri.t"].state()
    take_step(learner, make_batches(learner, tiny.AGE), progress=0.5)
    assert len(learner.buffers["mri.t"].state()["images"]) == 2


def test_an_autoencoder_of_one_side_has_no_f():
    learner = make_joint(epochs=2, autoencode=0.5, warmup=0.5, one_sided=True, lambda_cycle=0)
    batches = make_batches(learner, tiny.AGE)
    g = copy.deepcopy(translator_of(learner).g)
    wanted = sum((g(b.images) - b.images).abs().mean().item() for b in batches.values())
    assert take_step(learner, batches)["mri.reproduce"].item() == pytest.approx(wanted, rel=1e-6)


def test_each_networks_rate_falls_while_it_learns():
    config = OptimizerConfig(**PHASES | {"constant_share": 0.5})
    phases = [phase_at(epoch / 10, config) for epoch in range(10)]
    learning = [phase.translator_rate for phase in phases if phase.translators]
    wanted = [rate_factor(epoch, epochs=6, constant_share=0.5) for epoch in range(6)]
    assert learning == wanted
    of_predictor = [phase.predictor_rate for phase in phases if phase.predictor]
    wanted = [rate_factor(epoch, epochs=8, constant_share=0.5) for epoch in range(8)]
    assert of_predictor == pytest.approx([*wanted[:-1], wanted[-1] * 0.1])
    whole = [phase_at(epoch / 10, OptimizerConfig(epochs=10)) for epoch in range(10)]
    plain = [rate_factor(epoch, epochs=10, constant_share=0.5) for epoch in range(10)]
    assert [phase.translator_rate for phase in whole] == plain
    assert [phase.predictor_rate for phase in whole] == plain


def test_frozen_translators_leave_their_buffers_alone():
    learner = make_joint(epochs=10, translator_share=0.5, buffer_size=2)
    take_step(learner, make_batches(learner, tiny.AGE), progress=0.4)
    kept = learner.buffers["mri.t"].state()["images"].clone()
    for _ in range(4):
        take_step(learner, make_batches(learner, tiny.AGE, seed=9), progress=0.6)
    assert torch.equal(learner.buffers["mri.t"].state()["images"], kept)


def test_a_predictor_is_finetuned_without_the_sources():
    learner = Supervised(
        PredictorNetwork(architecture="test_resnet"),
        sources=("mri",),
        target="ct",
        head=make_head(tiny.AGE),
        optimizer=OptimizerConfig(epochs=20, finetune_share=0.25, warmup=0.5),
        compute=CPU,
    )
    batches = {name: make_batch(tiny.AGE, 2, seed) for seed, name in enumerate(("mri", "ct"))}
    seen = {p: set(take_step(learner, batches, progress=p)) for p in (0.5, 0.74, 0.75)}
    assert seen[0.5] == seen[0.74] == {"mri.predict", "predict_real"}
    assert seen[0.75] == {"predict_real"}


def test_translations_that_were_made_before_get_the_targets_noise_too():
    """The method cyclegan; not so sources as they are."""
    smooth = Batch(torch.zeros(2, 1, 32, 32), torch.tensor([30.0, 50.0]))
    noisy = Batch(0.1 * torch.randn(2, 1, 32, 32), torch.tensor([40.0, 60.0]))
    seen: list[Tensor] = []
    for wanted in (False, True):
        learner = Supervised(
            PredictorNetwork(architecture="test_resnet"),
            sources=("mri",),
            target="ct",
            head=make_head(tiny.AGE),
            optimizer=OptimizerConfig(),
            compute=CPU,
            objective=ObjectiveConfig(noise="target"),
            translated=wanted,
        )
        predictor_of(learner).register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        take_step(learner, {"mri": smooth, "ct": noisy})
    plain, added = (shown[:2].std().item() for shown in seen)
    assert plain == 0
    assert added == pytest.approx(0.1, rel=0.15)
    assert all(torch.equal(shown[2:], noisy.images) for shown in seen)


# One-sided, with structure, apart


def test_one_sided_training_has_neither_f_nor_d_s():
    options = {"one_sided": True, "lambda_cycle": 0.0, "lambda_identity": 5.0}
    learner = make_joint(**options, lambda_predict=0.0, lambda_structure=2.0)
    translator, batches = translator_of(learner), make_batches(learner, tiny.AGE)
    assert translator.f is None
    assert translator.d_s is None
    g, d_t = copy.deepcopy(translator.g), copy.deepcopy(translator.d_t)
    losses = take_step(learner, batches)
    assert names_of(losses) == {
        "adv_t", "identity", "structure", "d_t", "predict_fake", "predict_real"
    }  # fmt: skip
    y, x = batches["mri"].images, batches["ct"].images
    fake_t = g(y)
    structure = (mind(fake_t.float()) - mind(y.float())).abs().mean()
    total = (d_t(fake_t) - 1).square().mean() + 5 * (g(x) - x).abs().mean() + 2 * structure
    total.backward()
    for mine, wanted in zip(gradients(translator.g), gradients(g), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-7 * float(wanted.abs().max()))


@pytest.mark.parametrize("kind", ["joint", "supervised"])
def test_apart_each_domain_has_its_own_batch_statistics(kind: str):
    """Real images are normalised by real ones, and the running statistics are theirs alone."""
    options = {"target": "ct", "head": make_head(tiny.AGE), "compute": CPU, "separate": True}
    torch.manual_seed(1)
    predictor = PredictorNetwork(architecture="test_resnet")
    plain = copy.deepcopy(predictor)
    batches = {name: make_batch(tiny.AGE, 4, seed) for seed, name in enumerate(("mri", "ct"))}
    if kind == "supervised":
        learner: Learner = Supervised(
            predictor, sources=("mri",), optimizer=OptimizerConfig(), **options
        )
        shown = batches["mri"].images
    else:
        translator = TranslatorNetworks(width=WIDTH, blocks=1, discriminator_width=WIDTH)
        shown = translator.g(batches["mri"].images).detach()
        learner = Joint(
            {"mri": translator},
            predictor,
            objective=ObjectiveConfig(),
            optimizer=OptimizerConfig(),
            seed=0,
            **options,
        )
    fake = copy.deepcopy(plain)(shown)  # its running statistics go nowhere
    real = plain(batches["ct"].images)
    losses = take_step(learner, batches)
    for name, output, batch in (("mri", fake, batches["mri"]), ("", real, batches["ct"])):
        key = next(k for k in losses if "predict" in k and k.startswith(name or "predict_real"))
        error = (MEAN + STD * output[:, 0] - batch.labels).square().mean()
        assert losses[key].item() == pytest.approx(error.item(), rel=1e-4)
    running = dict(plain.named_buffers())
    for name, buffer in predictor.named_buffers():
        if "running" in name:
            torch.testing.assert_close(buffer, running[name], rtol=1e-5, atol=1e-6)


# The optimizers


@pytest.mark.parametrize("steps", [1, 3])
def test_the_updates_are_adams(steps: int):
    """With the learner's own gradients: only the rule of the update is compared."""
    learner = make_joint()
    optimizers = {}
    for name, rate, betas, modules in (
        ("predictor", 1e-3, (0.9, 0.999), [predictor_of(learner)]),
        ("translator", 2e-4, (0.5, 0.999), [translator_of(learner)]),
    ):
        own = [parameter for module in modules for parameter in module.parameters()]
        copies = [parameter.detach().clone() for parameter in own]
        optimizers[name] = own, ReferenceAdam(copies, rate, betas)
    for step in range(steps):
        take_step(learner, make_batches(learner, tiny.AGE, seed=10 * step))
        for own, adam in optimizers.values():
            adam.step([parameter.grad for parameter in own if parameter.grad is not None])
            for mine, wanted in zip(own, adam.parameters, strict=True):
                torch.testing.assert_close(mine.detach(), wanted, rtol=1e-5, atol=1e-7)


def matters(network: nn.Module) -> list[bool]:
    """Tell of each parameter whether the output depends on it: not so of biases before a norm."""
    last = [name for name, _ in network.named_parameters()][-1]
    first_of_d = "layers.0.bias" if isinstance(network.layers[0], nn.Conv2d) else ""
    return [
        not name.endswith("bias") or name in (last, first_of_d)
        for name, _ in network.named_parameters()
    ]


@pytest.mark.parametrize("buffer_size", [0, 2])
def test_three_steps_stay_with_the_reference(buffer_size: int):
    learner = make_joint(buffer_size=buffer_size, lambda_predict=0.01)
    networks = reference_networks(learner)
    buffers = {}
    for side in ("s", "t"):
        draws = FutureDraws(learner.buffers[f"mri.{side}"])
        buffers[side] = ReferenceBuffer(buffer_size, draws.coin, draws.pick)
    names = {"g": 2e-4, "f": 2e-4, "d_s": 2e-4, "d_t": 2e-4, "predictor": 1e-3}
    adams = {
        name: ReferenceAdam(
            list(getattr(networks, name).parameters()),
            rate,
            (0.9, 0.999) if name == "predictor" else (0.5, 0.999),
        )
        for name, rate in names.items()
    }
    for step in range(3):
        batches = make_batches(learner, tiny.AGE, seed=100 * step)
        wanted = reference_result(
            networks,
            batches,
            tiny.AGE,
            lambda_predict=0.01,
            fakes_for_d_t=buffers["t"],
            fakes_for_d_s=buffers["s"],
        )
        for name, adam in adams.items():
            adam.step(wanted.gradients[name])
        losses = take_step(learner, batches)
        for name, value in losses.items():
            # Step for step, the sums' rounding grows through Adam's normalised updates.
            wanted_loss = wanted.losses[name.removeprefix("mri.")]
            assert value.item() == pytest.approx(wanted_loss, rel=(1e-4, 1e-3, 3e-3)[step])
    for part in ("g", "f", "d_s", "d_t"):
        ours, theirs = getattr(translator_of(learner), part), getattr(networks, part)
        check_tracks(ours, theirs, matters(ours), 3 * 2e-4, part)
    ours, theirs = predictor_of(learner), networks.predictor
    check_tracks(ours, theirs, [True] * len(list(ours.parameters())), 3 * 1e-3, "predictor")


def check_tracks(
    ours: nn.Module, theirs: nn.Module, counted: list[bool], path: float, what: str
) -> None:
    """Compare weights on the scale of the path that Adam can go in the steps taken."""
    apart = torch.cat(
        [
            (mine - wanted).detach().abs().flatten() / path
            for mine, wanted, count in zip(
                ours.parameters(), theirs.parameters(), counted, strict=True
            )
            if count
        ]
    )
    # Where a gradient is nearly zero, rounding decides its sign; that happens to few weights.
    assert apart.quantile(0.99) < 0.02, what
    assert apart.mean() < 0.005, what


class FutureDraws:
    """Foretells what an image buffer will draw; both buffers ask coin, then perhaps pick."""

    def __init__(self, buffer: ImageBuffer) -> None:
        self._random = torch.Generator()
        self._random.set_state(buffer.state()["random"])
        self._pick = 0.0

    def coin(self) -> float:
        coin, self._pick = torch.rand(2, generator=self._random).tolist()
        return coin

    def pick(self, count: int) -> int:
        return int(self._pick * count)


# The predictor alone


@pytest.mark.parametrize("task", [tiny.AGE, tiny.GROUP], ids=lambda task: task.kind)
def test_target_only_is_plain_training(task: Task):
    torch.manual_seed(4)
    head = make_head(task)
    predictor = PredictorNetwork(architecture="test_resnet", outputs=head.outputs)
    plain = copy.deepcopy(predictor)
    learner = Supervised(
        predictor,
        sources=(),
        target="ct",
        head=head,
        optimizer=OptimizerConfig(),
        compute=CPU,
    )
    assert learner.modalities == ("ct",)
    optimizer = torch.optim.Adam(plain.parameters(), 1e-3)
    for step in range(3):
        batch = make_batch(task, 4, seed=step)
        losses = take_step(learner, {"ct": batch})
        output = plain(batch.images)
        unit = 1.0
        if task.kind == "regression":
            loss, unit = (MEAN + STD * output[:, 0] - batch.labels).square().mean(), STD**2
        else:
            loss = nn.functional.cross_entropy(output, batch.labels)
        optimizer.zero_grad()
        (loss / unit).backward()
        optimizer.step()
        assert set(losses) == {"predict_real"}
        assert losses["predict_real"].item() == pytest.approx(loss.item(), rel=1e-4)
    check_tracks(predictor, plain, [True] * len(list(plain.parameters())), 3e-3, "predictor")


# Image buffer


def swap(buffer: ImageBuffer, fakes: Tensor) -> Tensor:
    """Do with a buffer what a step does."""
    buffer.plan(len(fakes))
    shown = buffer.exchange(fakes)
    buffer.commit()
    return shown


def test_the_buffer_is_the_references():
    buffer = ImageBuffer(5, seed=3)
    draws = FutureDraws(buffer)
    theirs = ReferenceBuffer(5, draws.coin, draws.pick)
    random = torch.Generator().manual_seed(0)
    for _ in range(40):
        fakes = torch.rand(3, 1, 4, 4, generator=random)
        assert torch.equal(swap(buffer, fakes), theirs(fakes))


def numbers(buffer: ImageBuffer, count: int) -> Iterator[tuple[int, int]]:
    """Yield (given, returned) for images that hold their own number."""
    for given in range(count):
        yield given, int(swap(buffer, torch.full((1, 1, 2, 2), float(given)))[0, 0, 0, 0])


def test_a_full_buffer_swaps_half_of_the_time_and_any_image():
    swaps, ages = 0, []
    size, count = 50, 4050
    for given, shown in numbers(ImageBuffer(size, seed=1), count):
        if given < size:
            assert shown == given  # it is filled first
        elif shown != given:
            assert shown < given
            swaps += 1
            ages.append(given - shown)
    tries = count - size
    assert abs(swaps - tries / 2) < 4 * (tries / 4) ** 0.5  # four standard deviations
    # An image stays for 1 / (1/2 * 1/50) = 100 tries on average.
    assert sum(ages) / len(ages) == pytest.approx(100, rel=0.1)


def test_no_fake_is_shown_twice():
    shown = [number for _, number in numbers(ImageBuffer(4, seed=1), 500)]
    kept = shown[:4]  # while it fills, an image is shown and kept
    later = shown[4:]
    assert len(set(later)) == len(later)
    assert set(kept) & set(later)


def test_the_buffer_keeps_no_graph_and_no_view():
    buffer = ImageBuffer(2, seed=0)
    fakes = torch.zeros(2, 1, 2, 2, requires_grad=True) * 1
    assert not swap(buffer, fakes).requires_grad
    with torch.no_grad():
        fakes += 7  # what is kept must not change with it
    assert not buffer.state()["images"].any()
    for number in range(20):  # nor what is swapped in later
        fakes = torch.full((1, 1, 2, 2), float(number))
        swap(buffer, fakes)
        fakes.fill_(-1)
        assert (buffer.state()["images"] >= 0).all()
    assert buffer.state()["images"].any()
    fakes = torch.zeros(1, 1, 2, 2, requires_grad=True) * 1
    assert not swap(ImageBuffer(0, seed=0), fakes).requires_grad


def test_the_buffer_continues_where_its_state_was_taken():
    buffer = ImageBuffer(3, seed=1)
    list(numbers(buffer, 20))
    other = ImageBuffer(3, seed=99)
    other.load_state(buffer.state(), torch.device("cpu"))
    assert list(numbers(buffer, 60)) == list(numbers(other, 60))


def test_the_buffers_of_a_learner_draw_independently():
    learner = make_joint(sources=("mri", "pet"), buffer_size=4)
    assert set(learner.buffers) == {"mri.s", "mri.t", "pet.s", "pet.t"}
    shown = [tuple(numbers(buffer, 60)) for buffer in learner.buffers.values()]
    assert len(set(shown)) == 4


# Schedule


@pytest.mark.parametrize("epochs", [200, 60, 2])
def test_the_rate_falls_as_cyclegans(epochs: int):
    half = epochs // 2
    for epoch in range(epochs):
        factor = rate_factor(epoch, epochs=epochs, constant_share=0.5)
        wanted = reference.reference_lr(epoch, 2e-4, half, epochs - half)
        assert 2e-4 * factor == pytest.approx(wanted, rel=1e-12)
        assert 0 < factor <= 1
    assert rate_factor(0, epochs=200, constant_share=0.5) == 1


@pytest.mark.parametrize(("share", "last"), [(1.0, 1.0), (0.0, 1 / 11)])
def test_the_rate_at_the_ends_of_the_constant_share(share: float, last: float):
    assert rate_factor(9, epochs=10, constant_share=share) == pytest.approx(last)


# Waiting for the device

WAITS = ("item", "tolist", "cpu", "numpy", "__float__", "__int__", "__bool__", "__array__")


@contextmanager
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forbid every way of fetching a tensor, but for the buffers' draws, which are on the host."""

    def guarded(name: str) -> Any:
        whole = getattr(Tensor, name)

        def method(self: Tensor, *args: Any, **options: Any) -> Any:
            caller = sys._getframe(1).f_globals["__name__"]
            if caller == "medxlate.method.buffer" and name == "tolist" and self.shape == (2,):
                return whole(self, *args, **options)
            raise AssertionError(f"Tensor.{name} waits for the device (called in {caller})")

        return method

    with monkeypatch.context() as patch:
        for name in WAITS:
            patch.setattr(Tensor, name, guarded(name))
        yield


@pytest.mark.parametrize("task", [tiny.AGE, tiny.GROUP], ids=lambda task: task.kind)
def test_a_step_does_not_wait_for_the_device(monkeypatch: pytest.MonkeyPatch, task: Task):
    learner = make_joint(task, buffer_size=2, lambda_identity=1.0)
    alone = Supervised(
        PredictorNetwork(architecture="test_resnet", outputs=make_head(task).outputs),
        sources=(),
        target="ct",
        head=make_head(task),
        optimizer=OptimizerConfig(),
        compute=CPU,
    )
    batches, single = make_batches(learner, task), make_batch(task, 2, seed=0)
    with no_waiting(monkeypatch):
        for _ in range(3):
            losses = take_step(learner, batches)
            take_step(alone, {"ct": single})
        with pytest.raises(AssertionError, match="waits for the device"):
            losses["predict_real"].item()  # the guard is in force


def test_a_step_in_bf16_is_near_one_in_float32_and_keeps_float32_weights():
    exact, rough = make_joint(), make_joint(compute=Compute(torch.device("cpu"), "bf16"))
    ours, theirs = (take_step(each, make_batches(each, tiny.AGE)) for each in (rough, exact))
    for name, value in theirs.items():
        assert ours[name].dtype == torch.float32
        assert ours[name].item() == pytest.approx(value.item(), rel=0.1, abs=0.02), name
    assert {p.dtype for p in rough.networks.parameters()} == {torch.float32}
    differ = [not torch.equal(ours[name], theirs[name].float()) for name in theirs]
    assert any(differ)  # it did compute in bf16
