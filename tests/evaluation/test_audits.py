"""Each audit fires on what it is for, and leaves a sound translator in peace."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from auditing import AGE, BROKEN, CT, SOUND, World, audit, make_world
from medxlate.dataset.labels import Task
from medxlate.evaluation.audits.domain import prevalence
from medxlate.evaluation.audits.jitter import roughness
from medxlate.evaluation.audits.label import Answers, label_preservation, table
from medxlate.evaluation.audits.memorisation import Neighbours, shown
from medxlate.evaluation.audits.probes import agreement, auc, chance_of, fit_ridge, separability
from medxlate.evaluation.audits.sample import CENTRES, look, transport
from medxlate.evaluation.audits.tissue import tissue
from medxlate.evaluation.examples import choose, write_examples
from medxlate.evaluation.results import Example
from medxlate.images.recipes import Recipe

KINDS = {
    "label-preservation", "memorisation", "prevalence", "domain-gap", "identity", "inversion",
    "tissue", "jitter",
}  # fmt: skip


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(0)


@pytest.mark.parametrize("name", BROKEN)
def test_an_audit_fires_on_what_it_is_for(world: World, name: str) -> None:
    kind, translate = BROKEN[name]
    found = audit(world, translate(world))[kind]
    assert found.status == "fires", found.sentence
    assert found.advice
    assert found.picture is not None


@pytest.mark.parametrize("name", SOUND)
def test_all_are_silent_on_a_sound_translator(world: World, name: str) -> None:
    found = audit(world, SOUND[name](world))
    assert found.keys() == KINDS
    assert {kind: each.status for kind, each in found.items()} == dict.fromkeys(KINDS, "ok")
    assert not any(each.advice for each in found.values())


def test_prevalence_fires_on_younger_source_patients(world: World) -> None:
    labels = np.linspace(20, 50, 60), np.linspace(20, 88, 60)
    patients = tuple(np.array([f"{k}{i}" for i in range(60)], dtype=object) for k in "yx")
    found = prevalence("mri", "ct", labels, (patients[0], patients[1]), AGE)
    # The empirical distributions differ most at 50 years, where 26 of 60 are younger.
    assert found.status == "fires"
    assert found.value == pytest.approx(1 - 27 / 60, abs=1 / 60)
    alike = prevalence("mri", "ct", (labels[1], labels[1]), (patients[0], patients[1]), AGE)
    assert (alike.status, alike.value) == ("ok", 0)


def test_prevalence_counts_patients_not_images_and_classes() -> None:
    task = Task(kind="classification", name="kind", classes=("a", "b"))
    own = np.repeat([0, 1], [15, 15])
    other = np.repeat([0, 1], [3, 27])
    names = np.array([f"p{i}" for i in range(30)], dtype=object)
    once = prevalence("mri", "ct", (own, other), (names, names), task)
    often = prevalence("mri", "ct", (np.repeat(own, 9), other), (np.repeat(names, 9), names), task)
    assert once.status == "fires"
    assert once.value == pytest.approx(0.4)
    assert often.value == once.value
    assert often.sentence == once.sentence


def test_few_patients_make_audits_unknown(world: World) -> None:
    few = replace(
        world,
        source={k: replace(v, pixels=v.pixels[:20], anatomies=v.anatomies[:4])
                for k, v in world.source.items()},
        target={k: replace(v, pixels=v.pixels[:20], anatomies=v.anatomies[:4])
                for k, v in world.target.items()},
    )  # fmt: skip
    found = audit(few, few.source["test"].pixels)
    assert {each.status for each in found.values()} == {"unknown"}
    assert all(" few" in each.sentence or "needed" in each.sentence for each in found.values())


def test_label_preservation_is_unknown_without_a_signal_to_keep() -> None:
    random = np.random.default_rng(0)
    label = table(random.uniform(20, 80, 30), AGE)
    noise = table(random.uniform(20, 80, 30), AGE)
    names = np.array([f"p{i}" for i in range(30)], dtype=object)
    read = Answers(label, label, label[:0], names)
    unread = Answers(label, noise, label[:0], names)
    blind = label_preservation("mri", Answers(label, label, noise, names), read, AGE)
    deaf = label_preservation("mri", Answers(label, noise, label, names), unread, AGE)
    lost = label_preservation("mri", Answers(label, noise, label, names), read, AGE)
    assert (blind.status, deaf.status, lost.status) == ("unknown", "unknown", "fires")
    assert "probe" in blind.sentence
    assert "real target images" in deaf.sentence


def test_label_preservation_of_classes() -> None:
    task = Task(kind="classification", name="kind", classes=("a", "b", "c"))
    label = table(np.arange(30) % 3, task)
    names = np.array([f"p{i}" for i in range(30)], dtype=object)
    real = Answers(label, label, label[:0], names)
    kept = label_preservation("mri", Answers(label, label, label, names), real, task)
    rolled = np.roll(label, 1, axis=0)
    lost = label_preservation("mri", Answers(label, rolled, label, names), real, task)
    assert (kept.status, kept.value) == ("ok", 1.0)
    assert lost.status == "fires"


def test_tissue_is_unknown_without_units_or_window(world: World) -> None:
    sample = world.target["test"].sample()
    plain = tissue("xray", sample, sample, Recipe(kind="mr", percentiles=(0.5, 99.5)))
    bone = Recipe(kind="ct", window=(600, 800), unit="HU", output_range=(200, 1000))
    outside = tissue("xray", sample, sample, bone)
    assert (plain.status, outside.status) == ("unknown", "unknown")
    assert "not in HU" in plain.sentence
    assert "200 to 1000 HU" in outside.sentence
    assert tissue("xray", sample, sample, CT).value == 0


def test_nearest_neighbours_are_the_most_correlated_and_never_empty() -> None:
    random = np.random.default_rng(1)
    train = random.uniform(-1, 1, (40, 8, 8)).astype(np.float32)
    train[5] = -1  # empty: near to nothing
    mean = train.mean(axis=0)
    nothing = np.full((1, 8, 8), -0.99, np.float32)
    own = np.concatenate([np.clip(0.5 * train[[30, 7]] + 0.1, -1, 1), nothing])
    near = Neighbours(mean, own)
    for start in (0, 16, 32):
        rows = np.arange(start, min(start + 16, 40))
        near.see(train[rows], rows)
    full = np.delete(train, 5, axis=0)
    both = (np.concatenate([own, full]) - mean).reshape(42, -1)
    correlations = np.corrcoef(both)[:3, 3:]
    assert near.index[:2].tolist() == [30, 7]
    assert near.index[2] != 5
    np.testing.assert_allclose(near.distance, 1 - correlations.max(axis=1), atol=1e-5)
    assert shown(train).sum() == 39


def test_probe_figures_against_closed_forms() -> None:
    random = np.random.default_rng(2)
    x = random.normal(size=(200, 3))
    y = x @ np.array([[1.0], [2.0], [0.0]]) + 4
    np.testing.assert_allclose(fit_ridge((x, y), (x, y))(x), y, atol=0.05)
    assert auc(np.array([0.0, 1, 2]), np.array([1.0, 3])) == pytest.approx(4.5 / 6)
    assert agreement(x[:, :1], y) == pytest.approx(np.corrcoef(x[:, 0], y[:, 0])[0, 1])
    each = np.arange(len(y))
    assert chance_of(y, y, each) < 0.001 < 0.2 < chance_of(-y, y, each)
    bins = np.zeros((2, 256))
    bins[0, 10] = bins[1, 30] = 1
    assert transport(bins[0], bins[1]) == pytest.approx(CENTRES[30] - CENTRES[10])


def test_a_classifier_cannot_recognise_patients_it_has_not_seen() -> None:
    """Features that tell patients apart, but nothing of the modality: an area of about 0.5."""
    random = np.random.default_rng(3)
    features = np.repeat(random.normal(size=(40, 20)), 10, axis=0)
    who = np.repeat([f"p{i}" for i in range(40)], 10).astype(object)
    scores = separability(features[:200], features[200:], (who[:200], who[200:]))
    assert 0.25 < auc(*scores) < 0.75
    apart = separability(features[:200], features[200:] + 9, (who[:200], who[200:]))
    assert auc(*apart) == 1


def test_roughness_of_lines_and_of_unrelated_slices() -> None:
    """A volume that changes evenly has none; slices without any relation sqrt(3)."""
    random = np.random.default_rng(4)
    even = np.linspace(-1, 1, 12)[:, None, None] * np.ones((1, 16, 16))
    noise = random.normal(0, 0.2, (12, 16, 16))
    for volume, expected in ((even, 0.0), (noise, 3**0.5)):
        order = random.permutation(12)
        sample = look(
            [torch.from_numpy(volume[order]).float().unsqueeze(1)],
            patients=["p"] * 12, labels=np.zeros(12), series=["s"] * 12,
            positions=order.tolist(),
        )  # fmt: skip
        assert roughness(sample)["s"] == pytest.approx(expected, abs=0.1)


def test_examples_are_chosen_once_and_kept_as_stored_values(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    apart, distance = random.random((2, 50))
    chosen = choose(apart, distance)
    assert len({each.row for each in chosen}) == len(chosen) == 12
    assert [each.row for each in chosen[:4]] == np.argsort(-apart)[:4].tolist()
    assert len(choose(None, distance[:3])) == 3
    (tmp_path / "cycled.npy").write_bytes(b"of an evaluation before")
    image = np.array([[[-1.0, 0.0], [1.0, 7.0]]])
    write_examples(tmp_path, {"source": image}, [Example(why="evenly spaced", label="63 years")])
    assert np.load(tmp_path / "source.npy").tolist() == [[[0, 32768], [65535, 65535]]]
    assert not (tmp_path / "cycled.npy").exists()
    assert json.loads((tmp_path / "examples.json").read_text())[0]["label"] == "63 years"


def levels(seed: int, people: int, slices: int) -> tuple[np.ndarray, np.ndarray]:
    """The level of each slice, which differs within a patient, and whose it is."""
    random = np.random.default_rng(seed)
    names = np.repeat([f"p{i}" for i in range(people)], slices).astype(object)
    return table(random.uniform(0, 100, people * slices), AGE), names


def test_slices_with_labels_of_their_own_are_no_patients() -> None:
    label, names = levels(0, 4, 10)
    seen = Answers(label, label, label, names)
    few = label_preservation("mri", seen, seen, AGE)
    assert (few.status, few.sentence[:21]) == ("unknown", "Too few test patients")
    label, names = levels(0, 12, 10)
    seen = Answers(label, label, label, names)
    noise = Answers(label, table(np.random.default_rng(1).uniform(0, 100, 120), AGE), label, names)
    kept, lost = (label_preservation("mri", each, seen, AGE) for each in (seen, noise))
    assert (kept.status, lost.status) == ("ok", "fires")
    assert "over 12 patients" in kept.sentence
    labels = label[:, 0]
    alike = prevalence("mri", "ct", (labels, labels), (names, names), AGE)
    assert "12 mri and 12 ct training patients" in alike.sentence
    assert alike.picture is not None
    assert alike.picture.lines[0].x == pytest.approx(
        [labels[names == f"p{i}"].mean() for i in np.argsort([f"p{i}" for i in range(12)])],
        rel=1e-3,
    )


@pytest.mark.nightly
def test_the_test_over_patients_holds_its_level_where_labels_differ_within_them() -> None:
    """Slices of a patient err together: a test that takes each for a patient is wrong too often."""
    random, ours, naive = np.random.default_rng(0), 0, 0
    for _ in range(200):
        names = np.repeat(np.arange(12), 8)
        both = [
            np.repeat(random.normal(size=12), 8) + 0.3 * random.normal(size=96) for _ in range(2)
        ]
        said, truth = (each[:, None] for each in both)
        ours += chance_of(said, truth, names) <= 0.05
        naive += chance_of(said, truth, np.arange(96)) <= 0.05
    assert ours <= 20  # of 200: 5 %, and three deviations more
    assert naive > 40


def test_a_patient_of_two_classes_counts_in_equal_parts() -> None:
    task = Task(kind="classification", name="kind", classes=("a", "b"))
    names = np.array([f"p{i}" for i in range(20)] * 2, dtype=object)
    mixed = np.repeat([0, 1], 20)  # each patient has slices of both
    found = prevalence("mri", "ct", (mixed, mixed), (names, names), task)
    assert "20 mri and 20 ct training patients" in found.sentence
    assert found.picture is not None
    assert found.picture.lines[0].y == (0.5, 0.5)
