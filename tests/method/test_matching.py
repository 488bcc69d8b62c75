"""Label-matched sampling, held against counting and against a plain search for the nearest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance

import tiny
from conftest import noise
from datasets_on_disk import AGE, write_dataset
from medxlate.base.distributed import Ranks
from medxlate.base.errors import ConfigError
from medxlate.base.events import Event, Warned
from medxlate.config import resolve
from medxlate.dataset.labels import Task
from medxlate.dataset.loading import Batch, Order, Slices
from medxlate.dataset.training_data import Data
from medxlate.method.matching import MatchedOrder, label_groups, matched, orders
from medxlate.study.study import Study, cell_config, cells
from medxlate.training.loader import TrainLoader
from medxlate.training.setup import check_config
from medxlate.training.train import train
from medxlate.training.verify import verify_resume

CPU = torch.device("cpu")
GROUP = Task(kind="classification", name="group", classes=("a", "b", "c", "d"))
RANDOM = np.random.default_rng(7)
CT = RANDOM.choice(4, 37, p=[0.6, 0.3, 0.1, 0])  # no d
MRI = np.r_[RANDOM.choice(4, 150, p=[0.1, 0.2, 0.3, 0.4]), 0, 1, 2, 3]


def matched_order(source: Any, target: Any, *, seed: int = 3, name: str = "mri") -> MatchedOrder:
    labels = (torch.as_tensor(np.asarray(each)) for each in (source, target))
    return MatchedOrder(*labels, seed=seed, name=name, target_name="ct")


def drawn(order: Order, count: int, *, batch_size: int = 1) -> list[int]:
    return [i for step in range(count // batch_size) for i in order.take(step, batch_size)]


# ----- Classes -----


@pytest.mark.parametrize("batch_size", [1, 4, 37])
def test_each_step_shows_the_targets_classes(batch_size: int) -> None:
    order, target = matched_order(MRI, CT), Order(len(CT), seed=3, name="ct")
    for step in range(60):
        sources, targets = (each.take(step, batch_size) for each in (order, target))
        assert MRI[sources].tolist() == CT[targets].tolist()


def test_passes_have_the_targets_proportions_and_show_a_classs_images_as_often() -> None:
    passes = 100
    found = drawn(matched_order(MRI, CT), passes * len(CT))
    assert Counter(MRI[found]) == {k: passes * n for k, n in Counter(CT).items()}
    times = np.bincount(found, minlength=len(MRI))
    sources, targets = Counter(MRI), Counter(CT)
    for time, k in zip(times, MRI, strict=True):
        assert abs(time - passes * targets[k] / sources[k]) < 1  # never for a class of MRI alone


def test_an_order_depends_on_seed_names_and_labels_alone() -> None:
    order = matched_order(MRI, CT)
    truth = [order.take(step, 5) for step in range(40)]
    again = matched_order(MRI, CT)
    for step in np.random.default_rng(0).permutation(40):
        assert again.take(int(step), 5) == truth[step]
    plain = drawn(matched_order(MRI, CT), 200)
    assert plain == [*chain(*truth)]
    assert plain != drawn(matched_order(MRI, CT, seed=4), 200)
    assert plain != drawn(matched_order(MRI, CT, name="pet"), 200)
    within = MRI[plain[:37]] == 0  # the order of a class's images is shuffled as well
    assert np.asarray(plain[:37])[within].tolist() != sorted(np.asarray(plain[:37])[within])


@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_share_what_one_shows(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    whole = matched_order(MRI, CT)
    parts = []
    for rank in range(count):
        monkeypatch.setattr("medxlate.dataset.loading.ranks", lambda r=rank: Ranks(r, count))
        parts.append(matched_order(MRI, CT))
    for step in range(30):
        assert [*chain(*(part.take(step, 7) for part in parts))] == whole.take(step, 7)


# ----- Values -----


def plain_groups(target: Sequence[float], source: Sequence[float]) -> list[set[int]]:
    """Return who may be shown with each target: a search through all, one by one."""

    def nearest(among: Sequence[float], value: float) -> float:
        return min(sorted(among), key=lambda other: abs(other - value))

    inside = [y for y in source if min(target) <= y <= max(target)]
    cells = {y: nearest(target, y) for y in inside}
    found = []
    for x in target:
        centre = x if x in cells.values() else cells[nearest(inside, x)]
        found.append({i for i, y in enumerate(source) if cells.get(y) == centre})
    return found


@pytest.mark.parametrize("seed", range(40))
def test_values_go_with_the_nearest(seed: int) -> None:
    random = np.random.default_rng(seed)
    sizes = random.integers(2, 30, 2)
    target, source = (random.integers(0, 40, size).astype(np.float32) for size in sizes)
    target[:2] = 5, 30
    source[0] = 20
    of_target, of_source = label_groups(target, source)
    found = [set(np.flatnonzero(of_source == group).tolist()) for group in of_target]
    assert found == plain_groups(target.tolist(), source.tolist())
    inside = (source >= target.min()) & (source <= target.max())
    assert set().union(*found) == set(np.flatnonzero(inside).tolist())  # each has its chance


def test_drawn_values_are_distributed_as_the_targets() -> None:
    """Nearest labels are off by half a gap between target labels at most."""
    random = np.random.default_rng(1)
    target = random.uniform(20, 60, 60).astype(np.float32)
    source = (18 + 72 * random.beta(2, 1, 3000)).astype(np.float32)  # older
    found = drawn(matched_order(source, target), 200 * len(target))
    half_a_gap = np.diff(np.sort(target)).max() / 2
    assert wasserstein_distance(source[found], target) < half_a_gap < 2
    assert wasserstein_distance(source, target) > 15
    shown = target[drawn(Order(len(target), seed=3, name="ct"), len(found))]
    assert abs(source[found] - shown).max() < half_a_gap
    assert set(found) == set(np.flatnonzero((source >= target.min()) & (source <= target.max())))


def test_values_that_both_have_are_matched_exactly() -> None:
    target = np.repeat(np.float32([30, 40, 50, 55]), [4, 1, 1, 2])
    source = np.repeat(np.float32([30, 40, 50, 55, 80]), [1, 3, 5, 20, 9])
    found = drawn(matched_order(source, target), 8 * 15)
    assert Counter(source[found].tolist()) == {30: 60, 40: 15, 50: 15, 55: 30}


def test_a_single_value_is_matched() -> None:
    target, source = np.float32([50, 50]), np.float32([50, 49, 50])
    assert set(drawn(matched_order(source, target), 20)) == {0, 2}


# ----- The feed -----


def slices_of(folder: Path, labels: Any, task: Task = GROUP) -> Slices:
    images = noise(len(labels), 32, 32, dtype=np.uint8)
    named = [task.classes[k] for k in labels] if task.classes else labels
    modality = write_dataset(folder, images, named, task=task, shard_bytes=20 * 1024)
    return Slices(modality, range(len(labels)), task=task, image_size=32)


def batch_of(slices: Slices, order: Order, step: int) -> Batch:
    return slices.batch(order.take(step, 4))


@pytest.mark.parametrize("room", [0, 1 << 30])
def test_the_feed_matches_every_source_and_leaves_the_target_alone(
    tmp_path: Path, room: int
) -> None:
    slices = {"ct": slices_of(tmp_path / "ct", CT), "mri": slices_of(tmp_path / "mri", MRI)}
    slices["pet"] = slices["mri"].picked(range(len(MRI) - 1, 20, -1))
    plain = {name: Order(len(some), seed=3, name=name) for name, some in slices.items()}
    options = {"batch_size": 4, "seed": 3, "device": CPU, "room": room}
    for follow in ("ct", ""):
        with TrainLoader(slices, **options, follow=follow) as feed:
            for step in [*range(25), 90, 91, 7]:  # as after a resume
                found = feed.take(step)
                same = {
                    name: torch.equal(found[name].images, batch_of(some, plain[name], step).images)
                    for name, some in slices.items()
                }
                assert same == {"ct": True, "mri": not follow, "pet": not follow}
                for name in ("mri", "pet"):
                    equal = torch.equal(found[name].labels, found["ct"].labels)
                    assert equal or not follow
                assert not torch.equal(found["mri"].images, found["pet"].images)


def test_without_it_every_order_is_the_plain_one(tmp_path: Path) -> None:
    slices = {"ct": slices_of(tmp_path / "ct", CT), "mri": slices_of(tmp_path / "mri", MRI)}
    for name, order in orders(slices, seed=5).items():
        assert type(order) is Order
        assert drawn(order, 300) == drawn(Order(len(slices[name]), seed=5, name=name), 300)


# ----- What is left out, and what is refused -----


def data_of(root: Path, target: Any, source: Any, task: Task) -> Data:
    train = {"ct": slices_of(root / "ct", target, task), "mri": slices_of(root / "m", source, task)}
    return Data(train, {})


CONFIG = resolve(overrides={"data": {"sources": ["mri"], "target": "ct", "match_labels": True}})


def test_sources_that_can_never_be_shown_are_left_out_and_counted(tmp_path: Path) -> None:
    heard: list[Event] = []
    before = data_of(tmp_path, CT, MRI, GROUP)
    data = matched(before, CONFIG, GROUP, heard.append)
    assert data.train["mri"].labels.tolist() == MRI[MRI != 3].tolist()
    assert data.train["ct"] is before.train["ct"]
    assert data.follow == "ct"
    assert data.steps_per_epoch(CONFIG.optimizer) == before.steps_per_epoch(CONFIG.optimizer)
    count = int(np.sum(MRI == 3))
    assert [e.text for e in heard if isinstance(e, Warned)] == [
        f"data.match_labels leaves out {count} of {len(MRI)} mri images: no ct training image "
        "has a matching label."
    ]


def test_target_values_beyond_the_sources_are_told(tmp_path: Path) -> None:
    heard: list[Event] = []
    data = data_of(tmp_path, [20.0, 40.0, 50.0, 90.0, 90.0], [30.0, 45.0, 60.0], AGE)
    data = matched(data, CONFIG, AGE, heard.append)
    assert len(data.train["mri"]) == 3
    (warned,) = heard
    assert isinstance(warned, Warned)
    assert warned.text.startswith("3 of 5 ct images have labels outside the range of mri")


@pytest.mark.parametrize(
    ("target", "source", "task", "said"),
    [
        ([0, 1, 2, 1], [0, 0, 3], GROUP, "ct has training images of b, c, and mri has none"),
        ([0, 1], [2, 3], GROUP, "ct has training images of a, b, and mri has none"),
        ([30.0, 40.0], [41.0, 29.0], AGE, "no mri training image has a label within the range"),
    ],
)
def test_labels_that_cannot_be_matched_are_refused(
    tmp_path: Path, target: Any, source: Any, task: Task, said: str
) -> None:
    with pytest.raises(ConfigError, match=f"data.match_labels cannot be used: {said}"):
        matched(data_of(tmp_path, target, source, task), CONFIG, task)


@pytest.mark.parametrize("name", ["target-only", "duplicate-real", "transfer", "autoaugment"])
def test_methods_that_show_no_source_patients_beside_the_target_refuse_it(name: str) -> None:
    config = CONFIG.model_copy(update={"method": name})
    with pytest.raises(ConfigError, match=f"data.match_labels has no effect on {name}"):
        check_config(config)


def test_in_a_study_it_is_for_the_methods_that_it_concerns() -> None:
    study = Study(
        medxlate="0",
        methods=("target-only", "duplicate-real", "transfer", "raw-mix", "joint"),
        source_sets=(("mri",),),
        repeats=1,
        target_fractions=(1.0,),
        source_fractions=(1.0,),
        config=CONFIG,
        fingerprints={},
    )
    configs = [cell_config(study, cell) for cell in cells(study)]
    assert [c.method for c in configs if c.data.match_labels] == ["raw-mix", "joint"]
    for config in configs:
        check_config(config)


# ----- Trainings -----


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_dataset(tmp_path_factory.mktemp("groups"), "classification")


SECTIONS: dict[str, Any] = {
    "data": {"match_labels": True},
    "optimizer": {"epochs": 1, "steps_per_epoch": 8, "batch_size": 3},
}


@pytest.mark.parametrize("method", ["joint", "cyclegan", "dann"])
def test_every_step_of_a_training_is_matched_and_a_stopped_one_goes_on_exactly(
    data: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    shown: list[bool] = []
    take = TrainLoader.take

    def recording(self: TrainLoader, step: int) -> dict[str, Batch]:
        batches = take(self, step)
        shown.append(torch.equal(batches["mri"].labels, batches["ct"].labels))
        return batches

    monkeypatch.setattr(TrainLoader, "take", recording)
    assert verify_resume(tiny.debug_config(data, method=method, **SECTIONS)).differences == ()
    assert len(shown) >= 8
    assert all(shown)


def test_the_target_is_shown_as_without_it_and_the_split_stays(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[bool, list[list[float]]] = {True: [], False: []}
    take = TrainLoader.take
    for match, targets in seen.items():

        def recording(self: TrainLoader, step: int, kept: list[list[float]] = targets) -> Any:
            batches = take(self, step)
            kept.append(batches["ct"].images.flatten().tolist())
            return batches

        monkeypatch.setattr(TrainLoader, "take", recording)
        sections = {**SECTIONS, "data": {"match_labels": match}}
        train(tiny.debug_config(data, **sections), runs=tmp_path, name=str(match))
    assert seen[True] == seen[False]
    runs = [tmp_path / name / "split.json" for name in ("True", "False")]
    assert runs[0].read_bytes() == runs[1].read_bytes()
