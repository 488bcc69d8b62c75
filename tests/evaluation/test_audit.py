"""The audits of a trained run: what they look at and what they leave to be looked at."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medxlate.artifacts.runs import find_run
from medxlate.base.events import Event, Progress, Stage, silent
from medxlate.evaluation.audit import audit_translators
from medxlate.evaluation.judge import find_judge
from medxlate.evaluation.results import Audit, Example
from medxlate.evaluation.subject import Subject, open_subject
from medxlate.training.train import train
from tiny import SIZE, debug_config, write_dataset


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    root = tmp_path_factory.mktemp("audits")
    train(debug_config(write_dataset(root)), runs=root / "runs", name="joint")
    run = find_run(root / "runs" / "joint")
    opened = open_subject(run, run.model, None, None, "cpu", "fp32", silent)
    return replace(opened, judge=find_judge(run, opened.cohort, torch.device("cpu"), silent))


@pytest.fixture(scope="module")
def audited(
    subject: Subject, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, tuple[Audit, ...], list[Event]]:
    out, events = tmp_path_factory.mktemp("evaluation"), list[Event]()
    return out, audit_translators(subject, out, listener=events.append), events


def test_every_audit_is_there_and_says_why_it_knows_nothing(
    subject: Subject, audited: tuple[Path, tuple[Audit, ...], list[Event]]
) -> None:
    out, audits, events = audited
    assert [each.kind for each in audits] == [
        "label-preservation", "memorisation", "prevalence", "domain-gap", "identity", "inversion",
        "tissue", "jitter",
    ]  # fmt: skip
    assert {each.source for each in audits} == {"mri"}
    # Two test patients a modality: nothing can be said, and each sentence says so.
    assert {each.status for each in audits if each.kind != "prevalence"} == {"unknown"}
    assert all(each.sentence.endswith(".") and each.rule.endswith(".") for each in audits)
    assert isinstance(events[0], Stage)
    count = len(subject.cohort.test["mri"])
    batches = -(-count // subject.batch_size)
    assert events[-1] == Progress("audited mri batches", batches, batches)
    assert audit_translators(subject, out) == audits


def test_examples_are_the_test_images_and_what_the_networks_make_of_them(
    subject: Subject, audited: tuple[Path, tuple[Audit, ...], list[Event]]
) -> None:
    out, audits, _ = audited
    folder = out / "examples" / "mri"
    roles = {name: np.load(folder / f"{name}.npy") for name in
             ("source", "translated", "cycled", "nearest")}  # fmt: skip
    examples = [Example(**each) for each in json.loads((folder / "examples.json").read_text())]
    test = subject.cohort.test["mri"]
    count = min(12, len(test))
    assert len(examples) == count
    assert all(a.shape == (count, SIZE, SIZE) and a.dtype == np.uint16 for a in roles.values())
    kept = test.batch(range(len(test)))
    stored = np.rint((kept.images[:, 0].numpy() + 1) / 2 * 65535).astype(np.uint16)
    network = subject.translators["mri"].network
    for number, example in enumerate(examples):
        (row,) = np.flatnonzero((stored == roles["source"][number]).all(axis=(1, 2)))
        assert example.label == f"{kept.labels[row].item():.4g} years"
        with torch.no_grad():
            made = network(kept.images[[row]])
            again = subject.backward["mri"](made)
        error = float((again - kept.images[[row]]).abs().mean())
        assert example.cycle_error == pytest.approx(error, abs=1e-3)
        shown = roles["translated"][number] / 65535 * 2 - 1
        assert np.abs(shown - made[0, 0].numpy()).max() < 1e-2
    train_ = subject.cohort.train["ct"].stored(range(len(subject.cohort.train["ct"])))
    scaled = train_.astype(np.int64) * (65535 // np.iinfo(train_.dtype).max)
    for image in roles["nearest"]:  # all are real training images
        assert (np.abs(scaled - image.astype(np.int64)).max(axis=(1, 2)) <= 1).any()
    assert all(number < count for each in audits for number in each.worst)


def test_without_judge_or_backward_a_translator_is_audited_by_images(
    subject: Subject, tmp_path: Path
) -> None:
    (tmp_path / "examples" / "mri").mkdir(parents=True)
    bare = replace(subject, judge=None, backward={})
    audits = audit_translators(bare, tmp_path)
    assert "label-preservation" not in {each.kind for each in audits}
    assert len(audits) == 7
    assert not (tmp_path / "examples" / "mri" / "cycled.npy").exists()
    examples = json.loads((tmp_path / "examples" / "mri" / "examples.json").read_text())
    assert {each["predicted"] for each in examples} == {""}
    assert {each["cycle_error"] for each in examples} == {None}
