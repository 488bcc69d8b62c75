"""Each method's step against a plain step written here, and what the registry refuses.

Everything is computed in float64, so that only the order of sums differs.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

import tiny
from medxlate.base.device import Compute
from medxlate.base.errors import ConfigError
from medxlate.config import parse
from medxlate.dataset.labels import Task
from medxlate.dataset.loading import Batch
from medxlate.method.augment import AUGMENTATIONS, build_augmentation
from medxlate.method.label_transform import LabelTransform
from medxlate.method.learner import Learner
from medxlate.method.predictor import PredictorNetwork
from medxlate.method.registry import (
    METHODS,
    STAGES,
    build_learner,
    find_method,
    first_stages,
    single_images,
)
from medxlate.method.schedule import is_constant, phase_at
from medxlate.training.step import take_step
from medxlate.training.train import train

MEAN, STD = 47.0, 13.0
CPU = Compute(torch.device("cpu"), "fp32")
SOURCES = ("mri", "pet")
TASKS = pytest.mark.parametrize("task", [tiny.AGE, tiny.GROUP], ids=lambda task: task.kind)

MIXED = [name for name, method in METHODS.items() if method.mixes]


def new_learner(
    method: str, task: Task = tiny.AGE, sources: tuple[str, ...] = SOURCES, **sections: Any
) -> Learner:
    """Build a method's learner through the registry, in float64, its weights off zero."""
    config = tiny.debug_config(
        Path("nowhere"), method=method, data={"sources": sources}, **sections
    )
    head = (
        LabelTransform(task=task, mean=MEAN, std=STD)
        if task.kind == "regression"
        else LabelTransform(task=task)
    )
    learner = build_learner(config, head, tiny.SIZE, CPU)
    learner.networks.double()
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in predictor_of(learner).parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=random))
    return learner


def predictor_of(learner: Learner) -> PredictorNetwork:
    predictor = learner.networks["predictor"]
    assert isinstance(predictor, PredictorNetwork)
    return predictor


def make_batches(task: Task, names: tuple[str, ...], seed: int = 0) -> dict[str, Batch]:
    """Return three images of each modality, of its own brightness."""
    random = torch.Generator().manual_seed(seed)
    batches = {}
    for number, name in enumerate(names):
        images = torch.rand(3, 1, tiny.SIZE, tiny.SIZE, generator=random, dtype=torch.float64)
        labels = 20 + 60 * torch.rand(3, generator=random, dtype=torch.float64)
        if task.kind == "classification":
            labels = torch.randint(0, len(task.classes), (3,), generator=random)
        batches[name] = Batch(images * 1.5 - 0.3 * number - 0.5, labels)
    return batches


def plain_loss(task: Task, outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the mean squared error in years, or the cross-entropy."""
    if task.kind == "regression":
        return (MEAN + STD * outputs[:, 0] - labels).pow(2).mean()
    return -outputs.log_softmax(1)[torch.arange(len(labels)), labels].mean()


def plain_step(optimizer: torch.optim.Optimizer, loss: Tensor, task: Task) -> None:
    """Update by a loss in years squared, as that of standardised labels: for Adam's epsilon."""
    optimizer.zero_grad()
    (loss / STD**2 if task.kind == "regression" else loss).backward()
    optimizer.step()


def check_same(ours: nn.Module, wanted: nn.Module) -> None:
    """Compare weights and batch statistics."""
    state = wanted.state_dict()
    assert set(ours.state_dict()) == set(state)
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(
            value, state[name], rtol=1e-7, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
        )


def gradients(network: nn.Module) -> dict[str, Tensor]:
    found = {}
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        found[name] = parameter.grad.clone()
    return found


def through_backbone(predictor: PredictorNetwork, images: Tensor) -> Tensor:
    """Return what the last layer is given, fetched with a hook on that layer."""
    seen: list[Tensor] = []
    layer = predictor.backbone.get_submodule("fc")
    handle = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    predictor(images)
    handle.remove()
    return seen[0]


def all_images(batches: Mapping[str, Batch]) -> Tensor:
    return torch.cat([batch.images for batch in batches.values()])


# raw-mix


@TASKS
def test_raw_mix_is_plain_training_on_all_images(task: Task):
    learner = new_learner("raw-mix", task)
    assert learner.modalities == (*SOURCES, "ct")
    assert learner.validates == ("ct",)
    plain = copy.deepcopy(predictor_of(learner))
    optimizer = torch.optim.Adam(plain.parameters(), 1e-3)
    for step in range(3):
        batches = make_batches(task, learner.modalities, step)
        labels = torch.cat([batch.labels for batch in batches.values()])
        # Equation 2 adds the modalities' means; the batches are of equal size.
        plain_step(optimizer, 3 * plain_loss(task, plain(all_images(batches)), labels), task)
        losses = take_step(learner, batches)
        assert set(losses) == {"mri.predict", "pet.predict", "predict_real"}
    check_same(predictor_of(learner), plain)


# multitask


@TASKS
@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_multitask_is_a_shared_backbone_with_a_layer_for_each_modality(task: Task, weight: float):
    learner = new_learner("multitask", task, baselines={"multitask_weight": weight})
    plain = copy.deepcopy(predictor_of(learner))
    heads = copy.deepcopy(learner.networks["source_heads"])
    assert set(dict(heads.named_children())) == set(SOURCES)
    optimizer = torch.optim.Adam([*plain.parameters(), *heads.parameters()], 1e-3)
    for step in range(3):
        batches = make_batches(task, learner.modalities, step)
        mri, pet, ct = through_backbone(plain, all_images(batches)).split(3)
        parts = {
            "mri.predict": plain_loss(task, heads.get_submodule("mri")(mri), batches["mri"].labels),
            "pet.predict": plain_loss(task, heads.get_submodule("pet")(pet), batches["pet"].labels),
            "predict_real": plain_loss(
                task, plain.backbone.get_submodule("fc")(ct), batches["ct"].labels
            ),
        }
        sources = parts["mri.predict"] + parts["pet.predict"]
        plain_step(optimizer, parts["predict_real"] + weight * sources, task)
        losses = take_step(learner, batches)
        assert {name: value.item() for name, value in losses.items()} == pytest.approx(
            {name: value.item() for name, value in parts.items()}
        )
    check_same(predictor_of(learner), plain)
    check_same(learner.networks["source_heads"], heads)


def multitask_gradients(relabelled: str | None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the gradients of predictor and source heads; one modality has other labels."""
    learner = new_learner("multitask")
    batches = make_batches(tiny.AGE, learner.modalities)
    if relabelled:
        batches[relabelled] = Batch(batches[relabelled].images, batches[relabelled].labels + 9)
    take_step(learner, batches)
    return gradients(predictor_of(learner)), gradients(learner.networks["source_heads"])


def test_a_last_layer_learns_from_its_own_modality_alone():
    predictor, heads = multitask_gradients(None)
    with_mri, heads_with_mri = multitask_gradients("mri")
    assert torch.equal(predictor["backbone.fc.weight"], with_mri["backbone.fc.weight"])
    assert torch.equal(predictor["backbone.fc.bias"], with_mri["backbone.fc.bias"])
    assert torch.equal(heads["pet.weight"], heads_with_mri["pet.weight"])
    assert not torch.equal(heads["mri.weight"], heads_with_mri["mri.weight"])
    shared = "backbone.conv1.0.weight"
    assert not torch.equal(predictor[shared], with_mri[shared])  # the backbone is shared
    with_ct, heads_with_ct = multitask_gradients("ct")
    assert not torch.equal(predictor["backbone.fc.weight"], with_ct["backbone.fc.weight"])
    assert all(torch.equal(heads[name], heads_with_ct[name]) for name in heads)


# dann

SCHEDULE = [(0.0, 0.0), (0.5, 0.9866142981514303), (1.0, 0.9999092042625951)]  # tanh(5 p)


def domain_loss(networks: nn.ModuleDict, batches: Mapping[str, Batch]) -> Tensor:
    """Return the mean binary cross-entropy of "is CT", both domains weighing alike."""
    predictor = networks["predictor"]
    assert isinstance(predictor, PredictorNetwork)
    logits = networks["domain"](through_backbone(predictor, all_images(batches)))[:, 0]
    chance = 1 / (1 + torch.exp(-logits))
    is_target = torch.cat(
        [torch.full_like(batch.labels, name == "ct") for name, batch in batches.items()]
    )
    weights = torch.where(is_target == 1, 1.0, 1 / (len(batches) - 1)).double()
    entropy = -(is_target * chance.log() + (1 - is_target) * (1 - chance).log())
    return (weights * entropy).sum() / weights.sum()


def slope(
    networks: nn.ModuleDict, batches: Mapping[str, Batch], directions: Mapping[str, Tensor]
) -> float:
    """Return the domain loss's directional derivative, by central differences."""
    ends = []
    for sign in (1, -1):
        moved = copy.deepcopy(networks)
        with torch.no_grad():
            for name, parameter in moved.named_parameters():
                if name in directions:
                    parameter.add_(sign * 1e-6 * directions[name])
            ends.append(domain_loss(moved, batches).item())
    return (ends[0] - ends[1]) / 2e-6


def direction(networks: nn.Module, prefix: str, seed: int) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    found = {
        name: torch.randn(parameter.shape, generator=random, dtype=torch.float64)
        for name, parameter in networks.named_parameters()
        if name.startswith(prefix)
    }
    norm = math.sqrt(sum(float(value.pow(2).sum()) for value in found.values()))
    return {name: value / norm for name, value in found.items()}


def along(found: Mapping[str, Tensor], directions: Mapping[str, Tensor]) -> float:
    return sum(float((found[name] * value).sum()) for name, value in directions.items())


def dann_gradients(
    sources: tuple[str, ...], weight: float, progress: float
) -> tuple[dict[str, Tensor], Tensor]:
    learner = new_learner("dann", sources=sources, baselines={"dann_weight": weight})
    losses = take_step(learner, make_batches(tiny.AGE, learner.modalities), progress=progress)
    return gradients(learner.networks), losses["domain"]


@pytest.mark.parametrize("sources", [("mri",), SOURCES], ids="+".join)
@pytest.mark.parametrize(("progress", "share"), SCHEDULE)
def test_danns_domain_loss_reaches_the_backbone_reversed(
    sources: tuple[str, ...], progress: float, share: float
):
    learner = new_learner("dann", sources=sources)
    batches = make_batches(tiny.AGE, learner.modalities)
    without, loss = dann_gradients(sources, 0.0, progress)  # the label's loss alone, in P
    full, _ = dann_gradients(sources, 0.7, progress)
    assert loss.item() == pytest.approx(domain_loss(learner.networks, batches).item(), rel=1e-12)
    for seed in range(2):
        backbone = direction(learner.networks, "predictor.backbone", seed)
        wanted = slope(learner.networks, batches, backbone)
        assert abs(wanted) > 1e-5
        reversed_ = along(full, backbone) - along(without, backbone)
        assert reversed_ == pytest.approx(-0.7 * share * wanted, rel=1e-4, abs=1e-8)
        classifier = direction(learner.networks, "domain", seed)
        wanted = slope(learner.networks, batches, classifier)
        assert abs(wanted) > 1e-5
        for found in (full, without):  # its own gradient is neither reversed nor weighted
            assert along(found, classifier) == pytest.approx(wanted, rel=1e-4)


def test_danns_domain_loss_is_the_plain_one_for_one_source():
    learner = new_learner("dann", sources=("mri",))
    batches = make_batches(tiny.AGE, learner.modalities)
    logits = learner.networks["domain"](
        through_backbone(predictor_of(copy.deepcopy(learner)), all_images(batches))
    )
    is_ct = torch.tensor([0.0] * 3 + [1.0] * 3, dtype=torch.float64)
    wanted = F.binary_cross_entropy(logits[:, 0].sigmoid(), is_ct)
    assert take_step(learner, batches)["domain"].item() == pytest.approx(wanted.item(), rel=1e-9)


@pytest.mark.parametrize(("gamma", "share"), [(10.0, math.tanh(1.25)), (4.0, math.tanh(0.5))])
def test_danns_gamma_is_the_steepness(gamma: float, share: float):
    """At p = 1/4; the gradients for weight 1 minus those for none, against p = 1/4 of gamma."""
    found = {}
    for weight in (0.0, 1.0):
        learner = new_learner("dann", baselines={"dann_weight": weight, "dann_gamma": gamma})
        batches = make_batches(tiny.AGE, learner.modalities)
        take_step(learner, batches, progress=0.25)
        found[weight] = gradients(predictor_of(learner))["backbone.conv1.0.weight"]
    fresh = new_learner("dann")
    domain_loss(fresh.networks, batches).backward()
    true = gradients(predictor_of_without_fc(fresh))["conv1.0.weight"]
    torch.testing.assert_close(found[1.0] - found[0.0], -share * true, rtol=1e-5, atol=1e-9)


def predictor_of_without_fc(learner: Learner) -> nn.Module:
    backbone = predictor_of(learner).backbone
    backbone.fc = nn.Identity()
    return backbone


def test_dann_without_its_weight_is_raw_mix():
    """With labels of both domains."""
    mixed, adversarial = (
        new_learner(method, baselines={"dann_weight": 0.0}) for method in ("raw-mix", "dann")
    )
    batches = make_batches(tiny.AGE, mixed.modalities)
    losses = [take_step(learner, batches, progress=0.8) for learner in (mixed, adversarial)]
    assert all(torch.equal(losses[1][name], losses[0][name]) for name in losses[0])
    ours, wanted = (gradients(predictor_of(learner)) for learner in (adversarial, mixed))
    for name, gradient in wanted.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-7, atol=1e-9)

    mixed, adversarial = (
        new_learner(method, tiny.GROUP, baselines={"dann_weight": 0.0})
        for method in ("raw-mix", "dann")
    )
    for step in range(3):
        batches = make_batches(tiny.GROUP, mixed.modalities, step)
        for learner in (mixed, adversarial):
            take_step(learner, batches, progress=0.8)
    check_same(predictor_of(adversarial), predictor_of(mixed))


# Augmentations


@contextmanager
def asked(predictor: PredictorNetwork) -> Iterator[list[Tensor]]:
    """Give the images that go through the predictor, and its outputs for them."""
    seen: list[Tensor] = []
    handle = predictor.register_forward_hook(lambda _, given, out: seen.extend((given[0], out)))
    yield seen
    handle.remove()


def learn_augmented(method: str) -> tuple[dict[str, Batch], list[Tensor], list[Tensor], Learner]:
    """Return batches, what P was asked, what the augmentation should make, and the learner."""
    learner = new_learner(method, augment={"erase": 1.0, "flip": 1.0})
    batches = make_batches(tiny.AGE, learner.modalities)
    clean = copy.deepcopy(learner.networks)
    torch.manual_seed(8)
    with asked(predictor_of(learner)) as seen:
        losses = take_step(learner, batches)
    name = method.rpartition("+")[2]
    torch.manual_seed(8)
    config = tiny.debug_config(Path("nowhere"), augment={"erase": 1.0, "flip": 1.0})
    changed = build_augmentation(name, config.augment)(batches["ct"].images)
    shown = {source: batches[source].images for source in learner.modalities[:-1]}
    fakes = [clean[source].g(y) if source in clean else y for source, y in shown.items()]
    assert losses["predict_augmented"].item() == pytest.approx(
        plain_loss(tiny.AGE, seen[1][-6:-3], batches["ct"].labels).item()
    )
    assert losses["predict_real"].item() == pytest.approx(
        plain_loss(tiny.AGE, seen[1][-3:], batches["ct"].labels).item()
    )
    return batches, seen, [*fakes, changed], learner


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
@pytest.mark.parametrize("base", ["", *(f"{name}+" for name in MIXED)])
def test_augmented_images_are_added_to_the_originals(base: str, augmentation: str):
    batches, seen, added, learner = learn_augmented(base + augmentation)
    images = seen[0]
    assert len(images) == 3 * (4 if base else 2) == 3 * learner.predictor_batches
    assert torch.equal(images[-3:], batches["ct"].images)
    torch.testing.assert_close(images[:-3], torch.cat(added), rtol=1e-9, atol=1e-9)
    assert not torch.equal(images[-6:-3], images[-3:])


def test_random_erasing_keeps_the_rest_of_the_image():
    _, (images, _), _, _ = learn_augmented("random-erasing")
    same = (images[:3] == images[3:]).double().mean(dim=(1, 2, 3))
    assert ((same > 0.5) & (same < 1)).all()


# The registry


def test_every_method_begins_with_the_same_predictor():
    added = [f"{base}+{name}" for base in MIXED for name in AUGMENTATIONS]
    names = [*METHODS, *added, "source-only"]
    names.remove("constant")
    states = {name: predictor_of(new_learner(name)).state_dict() for name in names}
    first = states["target-only"]
    for name, state in states.items():
        assert all(torch.equal(state[key], first[key]) for key in first), name
    other = predictor_of(new_learner("dann", runtime={"seed": 1})).state_dict()
    assert not torch.equal(other["backbone.fc.weight"], first["backbone.fc.weight"])


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as found:
        call()
    return str(found.value)


COMBINATIONS = (
    "These go together, as in joint+autoaugment: joint, cyclegan, raw-mix, histogram, "
    "duplicate-real, oracle with +simple-augment, +autoaugment, +random-erasing"
)


@pytest.mark.parametrize(
    ("method", "text"),
    [
        ("targt-only", "Unknown method 'targt-only'. Did you mean 'target-only'?"),
        ("zzz", "Unknown method 'zzz'. Known: autoaugment, constant, cyclegan"),
        ("joint+nonsense", f"Unknown method 'joint+nonsense'. {COMBINATIONS}."),
        ("joint+", f"{COMBINATIONS}."),
        ("dann+autoaugment", f"Unknown method 'dann+autoaugment'. {COMBINATIONS}."),
        ("constant", "The method constant needs no training."),
        (
            "translator",
            "translator is a first stage, not a method of its own. Train cyclegan or transfer",
        ),
        ("source-only", "source-only is a first stage, not a method of its own."),
    ],
)
def test_what_cannot_be_trained_is_refused(tmp_path: Path, method: str, text: str):
    config = tiny.debug_config(tmp_path / "data", method=method)
    assert text in refusal(lambda: train(config, runs=tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("method", METHODS)
def test_only_methods_that_use_sources_ask_for_one(tmp_path: Path, method: str):
    config = tiny.debug_config(tmp_path, method=method, data={"sources": []})
    without = {"constant", "target-only", *AUGMENTATIONS}
    assert find_method(method).uses_sources == (method not in without)
    if method not in without:
        assert "needs a source modality" in refusal(lambda: train(config, runs=tmp_path))


def stages_of(method: str, share: float, epochs: int | None = None) -> Mapping[str, Any]:
    return first_stages(
        tiny.debug_config(
            Path("nowhere"),
            method=method,
            data={"sources": SOURCES, "target_fraction": share},
            baselines={"first_epochs": epochs},
        )
    )


def test_what_is_trained_first_can_be_shared_where_it_is_the_same():
    assert all(not stages_of(name, 1.0) for name in set(METHODS) - {"cyclegan", "transfer"})
    assert stages_of("transfer", 0.25) == stages_of("transfer", 1.0)  # it never sees the target
    some, all_ = stages_of("cyclegan", 0.25), stages_of("cyclegan", 1.0)
    for source in SOURCES:
        assert some[source] != all_[source]
        assert all_[source].data.sources == (source,)
    assert {name: each.method for name, each in all_.items()} == dict.fromkeys(
        SOURCES, "translator"
    )
    assert stages_of("transfer", 1.0)["sources"].method == "source-only"
    assert stages_of("transfer", 1.0)["sources"].data.sources == SOURCES
    assert all_["mri"].optimizer.epochs == 2  # as many as the method itself
    assert stages_of("cyclegan", 1.0, epochs=5)["mri"].optimizer.epochs == 5


@pytest.mark.parametrize("phases", [{}, {"warmup": 0.25, "finetune_share": 0.25}])
@pytest.mark.parametrize("first_epochs", [None, 6])
def test_a_first_stages_translators_learn_to_its_end(
    phases: Mapping[str, float], first_epochs: int | None
):
    """They get as many steps as those of `joint`, which stop at translator_share."""
    config = tiny.debug_config(
        Path("nowhere"),
        method="cyclegan",
        data={"sources": SOURCES},
        optimizer={"epochs": 20, "translator_share": 0.4, **phases},
        baselines={"first_epochs": first_epochs},
    )
    for stage in first_stages(config).values():
        epochs = stage.optimizer.epochs
        assert epochs == (first_epochs or 8)
        assert is_constant(stage.optimizer)
        learning = [phase_at(epoch / epochs, stage.optimizer) for epoch in range(epochs)]
        assert all(phase.translators for phase in learning)
        rates = [phase.translator_rate for phase in learning]
        assert rates[0] == 1
        assert rates[-1] == pytest.approx(1 / (epochs / 2 + 1))  # all of the decay


def test_a_first_stage_reproduces_images_for_as_many_epochs_as_joint_does():
    config = tiny.debug_config(
        Path("nowhere"),
        method="cyclegan",
        data={"sources": SOURCES},
        optimizer={"epochs": 20, "autoencode": 0.2, "warmup": 0.3, "translator_share": 0.4},
    )
    stage = first_stages(config)["mri"]
    assert parse(stage.model_dump(mode="json")) == stage  # as it is read again
    both = [(config.optimizer, 20), (stage.optimizer, 8)]
    for optimizer, epochs in both:
        phases = [phase_at(epoch / epochs, optimizer) for epoch in range(epochs)]
        assert [phase.reproduces for phase in phases] == [True] * 4 + [False] * (epochs - 4)


def test_the_registry_holds_the_papers_methods():
    assert set(METHODS) == {
        *("constant", "target-only", "joint", "cyclegan", "raw-mix", "transfer", "multitask"),
        *("dann", "simple-augment", "autoaugment", "random-erasing"),
        *("histogram", "duplicate-real", "oracle"),  # and what a sceptic asks for
    }
    assert set(STAGES) == {"translator", "source-only"}


# ----- Fairness -----


def stem_of(predictor: PredictorNetwork) -> nn.Module:
    return next(layer for layer in predictor.modules() if isinstance(layer, nn.Conv2d))


@pytest.mark.parametrize("method", [name for name, each in METHODS.items() if each.build])
def test_every_method_shows_as_many_target_images_and_makes_one_update_a_step(
    method: str, monkeypatch: pytest.MonkeyPatch
):
    """Walks the registry, so that a new method has to be as fair."""
    learner = new_learner(method, augment={"erase": 1.0})  # no copy is left as it is
    batches = make_batches(tiny.AGE, learner.modalities)
    assert learner.modalities.count("ct") == 1
    seen: list[Tensor] = []
    stem_of(predictor_of(learner)).register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    optimizer, updates = learner.optimizers["predictor"], []
    step = optimizer.step
    monkeypatch.setattr(optimizer, "step", lambda: updates.append(step()))
    take_step(learner, batches)
    shown = torch.cat([images.detach() for images in seen])
    target = batches["ct"].images
    times = [sum(torch.equal(image, each) for each in shown) for image in target]
    assert times == [1, 1, 1]
    assert len(updates) == 1


def test_transfer_is_fine_tuned_at_a_tenth_of_the_rate():
    rates = {
        name: new_learner(name).optimizers["predictor"].param_groups[0]["lr"]
        for name in ("target-only", "transfer", "source-only", "cyclegan")
    }
    assert rates["transfer"] == pytest.approx(0.1 * rates["target-only"])
    assert rates["source-only"] == rates["cyclegan"] == rates["target-only"]


@pytest.mark.parametrize(
    ("sections", "warned"),
    [
        ({"optimizer": {"batch_size": 1}}, "optimizer.batch_size = 1"),
        ({"optimizer": {"batch_size": 2}, "runtime": {"accumulate": 2}}, "runtime.accumulate = 2"),
        ({"optimizer": {"batch_size": 2}}, ""),
        ({"optimizer": {"batch_size": 1}, "model": {"predictor_norm": "group"}}, ""),
        ({"optimizer": {"batch_size": 1}, "model": {"predictor": "convnext_atto"}}, ""),
    ],
)
def test_batch_norm_of_single_images_is_warned_of(sections: dict[str, Any], warned: str):
    note = single_images(tiny.debug_config(Path("nowhere"), **sections))
    assert bool(note) == bool(warned)
    assert warned in note
    assert not note or "model.predictor_norm=group" in note


def test_group_norm_does_not_know_the_batch():
    """A training step of one image is possible, and gives what the image gives among others."""
    learner = new_learner(
        "target-only", model={"predictor_norm": "group"}, optimizer={"batch_size": 1}
    )
    predictor = predictor_of(learner).train()
    images = make_batches(tiny.AGE, ("ct",))["ct"].images
    together, alone = predictor(images), torch.cat([predictor(image[None]) for image in images])
    torch.testing.assert_close(alone, together)
    batch = predictor_of(new_learner("target-only")).train()
    with pytest.raises(ValueError, match="Expected more than 1 value"):
        batch(images[:1])
    names = set(predictor.state_dict())
    assert not any("running" in name for name in names)
    take_step(learner, make_batches(tiny.AGE, ("ct",)))


def test_group_norm_takes_over_scale_and_shift(tmp_path: Path):
    torch.manual_seed(0)
    batch = PredictorNetwork(architecture="test_resnet", norm="batch")
    torch.manual_seed(0)
    group = PredictorNetwork(architecture="test_resnet", norm="group")
    first = next(m for m in batch.modules() if isinstance(m, nn.BatchNorm2d))
    other = next(m for m in group.modules() if isinstance(m, nn.GroupNorm))
    assert other.num_channels == first.num_features
    assert torch.equal(other.weight, first.weight)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in group.modules())
