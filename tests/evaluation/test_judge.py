"""The judge against worlds of known truth: it is not fooled where the run's own predictor is."""

from __future__ import annotations

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor, nn

from medxlate.artifacts.runs import RunFolder, find_run
from medxlate.base.events import Event, Stage, Warned, silent
from medxlate.base.files import locked
from medxlate.cli.evaluate import tables
from medxlate.dataset.options import PrepareOptions
from medxlate.dataset.prepare import prepare
from medxlate.dataset.training_data import Data
from medxlate.evaluation import judge as judges
from medxlate.evaluation import tstr
from medxlate.evaluation.audit import audit_translators
from medxlate.evaluation.evaluate import evaluate
from medxlate.evaluation.judge import (
    Judge,
    Lesson,
    find_judge,
    load_or_train,
    made_from,
    small_config,
)
from medxlate.evaluation.results import Audit, read_results, write_results
from medxlate.evaluation.subject import Subject, TranslatedImages, open_subject
from medxlate.evaluation.tstr import tstr_metrics
from medxlate.report.run_comparison import Against
from medxlate.report.run_report import write_report
from medxlate.report.run_verdict import of_run
from medxlate.training.setup import RunInputs, TrainingSetup, set_up
from medxlate.training.stages import read_translated, write_translated
from medxlate.training.train import train
from tiny import KEY, SIZE, debug_config

PEOPLE = 50
CPU = torch.device("cpu")


def write_world(root: Path) -> Path:
    """Discs that grow with age, bright in mri and dark in ct: the negative translates rightly."""
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    random = np.random.default_rng(5)
    lines = ["patient,age"]
    for number in range(2 * PEOPLE):
        modality = ("mri", "ct")[number % 2]
        (root / "raw" / modality).mkdir(parents=True, exist_ok=True)
        age = float(random.uniform(20, 90))
        lines.append(f"p{number:03d},{age}")
        for cut in range(2):
            place = random.normal(0, 0.1, 2)
            disc = np.hypot(x - place[0], y - place[1]) < 0.15 + age / 150
            pixels = 60 + 120 * (disc if modality == "mri" else ~disc)
            pixels = np.clip(pixels + random.normal(0, 15, pixels.shape), 0, 255)
            path = root / "raw" / modality / f"p{number:03d}-{cut}.png"
            PIL.Image.fromarray(pixels.astype(np.uint8)).save(path)
    (root / "raw" / "labels.csv").write_text("\n".join(lines) + "\n")
    data = root / "data"
    data.mkdir()
    (data / "pseudonym.key").write_text(KEY)
    options = PrepareOptions(
        labels=root / "raw" / "labels.csv", label="age", patient=r"regex:(p\d+)",
        patient_column="patient", task="regression",
    )  # fmt: skip
    for modality in ("mri", "ct"):
        prepare(root / "raw" / modality, modality=modality, data=data, options=options, size=SIZE)
    return data


class Negative(nn.Module):
    """The right translation."""

    def forward(self, images: Tensor) -> Tensor:
        return -images


class Coded(nn.Module):
    """Noise, on which the size of the disc is written as a grey level: nothing that a CT shows."""

    def forward(self, images: Tensor) -> Tensor:
        code = images.mean(dim=(1, 2, 3), keepdim=True)
        return torch.sin(1000 * images) * 0.3 + code


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Subject]:
    """A run and its judge, whose translator is replaced in the tests."""
    root = tmp_path_factory.mktemp("judge")
    config = debug_config(
        write_world(root),
        split={"train": 0.5, "val": 0.1, "test": 0.4},
        optimizer={"epochs": 1, "steps_per_epoch": 2},
    )
    train(config, runs=root / "runs", name="joint")
    run = find_run(root / "runs" / "joint")
    opened = open_subject(run, run.model, None, None, "cpu", "fp32", silent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judges, "STEPS", (90, 90))
        yield run, replace(opened, judge=find_judge(run, opened.cohort, CPU, silent))


def translating(subject: Subject, network: nn.Module, digest: str) -> Subject:
    """Return the subject with another G, and F left out."""
    translator = subject.translators["mri"]
    translator.network = network
    weights = subject.info.translators["mri"].weights.model_copy(update={"sha256": digest})
    info = subject.info.translators["mri"].model_copy(update={"weights": weights})
    return replace(
        subject,
        info=subject.info.model_copy(update={"translators": {"mri": info}}),
        translated={"mri": TranslatedImages(translator, subject.cohort.test["mri"], most=1 << 26)},
        backward={},
    )


def own_predictor(run: RunFolder, subject: Subject) -> Judge:
    """Return what a run's own predictor is: one that learned from real and translated images."""
    cohort = subject.cohort
    config = small_config(cohort, "raw-mix", ("mri",), 2 * PEOPLE, CPU)

    def prepare_(place: Path) -> TrainingSetup:
        tables = dict(cohort.tables)
        work = set_up(RunInputs(config, cohort.dataset, tables, cohort.split))
        network = subject.translators["mri"].network
        compute = subject.compute
        write_translated(place / "x.npy", work.data.train["mri"], network, compute, SIZE)
        fakes = work.data.train["mri"].with_images(read_translated(place / "x.npy"))
        return replace(work, data=Data({**work.data.train, "mri": fakes}, work.data.val))

    depends = {**made_from(cohort, config), "of": "its own"}
    return load_or_train(run, Lesson("own", config, depends, "both", prepare_), silent)


def preservation(subject: Subject, out: Path) -> Audit:
    return audit_translators(subject, out)[0]


def test_a_code_that_only_the_own_predictor_reads_is_caught(
    world: tuple[RunFolder, Subject], tmp_path: Path
) -> None:
    run, subject = world
    coded = translating(subject, Coded(), "coded")
    own = own_predictor(run, coded)
    fooled = preservation(replace(coded, judge=own), tmp_path / "own")
    caught = preservation(coded, tmp_path / "judge")
    assert fooled.kind == caught.kind == "label-preservation"
    assert (fooled.status, caught.status) == ("ok", "fires"), (fooled.sentence, caught.sentence)
    assert "for the judge on translated images" in caught.sentence
    sound = preservation(translating(subject, Negative(), "negative"), tmp_path / "sound")
    assert sound.status == "ok", sound.sentence


def test_train_on_translated_test_on_real_tells_a_code_from_a_translation(
    world: tuple[RunFolder, Subject],
) -> None:
    run, subject = world
    events: list[Event] = []
    coded = tstr_metrics(run, translating(subject, Coded(), "coded"), listener=events.append)
    sound = tstr_metrics(run, translating(subject, Negative(), "negative"), listener=silent)
    lost, kept = (next(m for m in each if m.of == "translated") for each in (coded, sound))
    real, constant = (next(m for m in sound if m.of == of) for of in ("judge", "constant"))
    assert kept.value < 0.5 * constant.value
    assert real.value < 0.5 * constant.value
    assert lost.value > 0.9 * constant.value
    assert {m.n for m in sound} == {PEOPLE * 2 // 5}
    assert all(m.low < m.value < m.high for m in sound)
    assert (kept.name, kept.source, kept.unit, kept.level) == ("tstr", "mri", "years²", "patient")
    assert real.source == ""
    assert "50 translated mri images of 25 patients" in kept.notes[0]
    # By hand: the judge's mean over each patient's images.
    test = subject.cohort.test["ct"]
    said = subject.judge.predict(batch.images for batch in test.batches(7))
    names, labels = np.array(test.patients), test.labels.numpy()
    errors = [
        (said[names == name].mean() - labels[names == name][0]) ** 2 for name in set(test.patients)
    ]
    assert real.value == pytest.approx(np.mean(errors), rel=1e-4)
    assert any("Translating 60 mri" in e.text for e in events if isinstance(e, Stage))
    again: list[Event] = []
    for network, digest in ((Negative(), "negative"), (Coded(), "coded")):
        assert tstr_metrics(run, translating(subject, network, digest), listener=again.append)
    assert again == []  # both are kept with the run


def test_the_judge_depends_on_real_images_and_the_split_alone(
    world: tuple[RunFolder, Subject], tmp_path: Path
) -> None:
    _, subject = world
    config = subject.cohort.config.model_copy(update={"method": "target-only"})
    train(config, runs=tmp_path, name="alone")
    other = find_run(tmp_path / "alone")
    evaluated = find_judge(other, subject.cohort, CPU, silent)
    for name, weights in subject.judge.network.state_dict().items():
        assert torch.equal(weights, evaluated.network.state_dict()[name]), name
    kept = sorted(path.name for path in (other.path / "judge").iterdir())
    assert kept == ["real.json", "real.safetensors"]
    stamp = (other.path / "judge" / "real.safetensors").stat().st_mtime_ns
    find_judge(other, subject.cohort, CPU, silent)
    assert (other.path / "judge" / "real.safetensors").stat().st_mtime_ns == stamp
    record = other.path / "judge" / "real.json"
    values = json.loads(record.read_text())
    assert values["made_from"]["image_size"] == SIZE
    assert values["made_from"]["fingerprints"] == {"ct": subject.cohort.tables["ct"].fingerprint()}
    settings = values["made_from"]["config"]
    assert settings["model.predictor"] == "test_resnet"
    assert not [key for key in settings if "folder" in key or "device" in key]
    other_settings = {**settings, "optimizer.predictor_lr": 0.5}
    for key, changed in (("image_size", 64), ("split", "x"), ("config", other_settings)):
        found = {**values["made_from"], key: changed}
        record.write_text(json.dumps({**values, "made_from": found}))
        events: list[Event] = []
        find_judge(other, subject.cohort, CPU, events.append)
        assert isinstance(events[0], Stage), key
        assert json.loads(record.read_text()) == values


def test_who_comes_second_waits_and_takes_the_judge_of_the_first(
    world: tuple[RunFolder, Subject], tmp_path: Path
) -> None:
    run, subject = world
    second, events = RunFolder(tmp_path / "run"), list[Event]()
    folder = second.path / "judge"
    with ThreadPoolExecutor(1) as pool:
        with locked(folder / ".real.lock"):
            waiting = pool.submit(find_judge, second, subject.cohort, CPU, events.append)
            time.sleep(0.5)
            assert not waiting.done()
            for name in ("real.safetensors", "real.json"):
                shutil.copy(run.path / "judge" / name, folder / name)
        found = waiting.result(timeout=60)
    assert events == []
    for name, weights in subject.judge.network.state_dict().items():
        assert torch.equal(weights, found.network.state_dict()[name]), name


@pytest.mark.parametrize(("features", "is_asked"), [(["inception"], False), (["predictor"], True)])
def test_a_foreign_model_is_not_audited_so_its_features_alone_ask_for_the_judge(
    world: tuple[RunFolder, Subject],
    monkeypatch: pytest.MonkeyPatch,
    features: list[str],
    is_asked: bool,
) -> None:
    run, _ = world
    asked = []

    def finding(*given: Any) -> Judge:
        asked.append(given)
        return find_judge(*given)

    monkeypatch.setattr("medxlate.evaluation.evaluate.find_judge", finding)
    monkeypatch.setattr(tstr, "CHEAP", 0)
    evaluate(run.path, model=run.model, extractors=features)
    assert bool(asked) == is_asked


def test_a_damaged_judge_is_told_of_and_trained_again(
    world: tuple[RunFolder, Subject], tmp_path: Path
) -> None:
    run, subject = world
    copy = RunFolder(tmp_path / "run")
    shutil.copytree(run.path / "judge", copy.path / "judge")
    with (copy.path / "judge" / "real.safetensors").open("r+b") as stream:
        stream.seek(-4, 2)
        stream.write(b"\0\1\2\3")
    events: list[Event] = []
    again = find_judge(copy, subject.cohort, CPU, events.append)
    assert isinstance(events[0], Warned)
    assert "real.safetensors is damaged" in events[0].text
    for name, weights in subject.judge.network.state_dict().items():
        assert torch.equal(weights, again.network.state_dict()[name]), name


def test_figures_that_the_own_predictor_took_do_not_stay_beside_the_judges(
    world: tuple[RunFolder, Subject],
) -> None:
    run, _ = world
    found = evaluate(run.path)
    whole = found.results
    page = write_report(run.path).path.read_text(encoding="utf-8")
    assert "Train on translated, test on real" in page
    assert "real images (the judge)" in page
    assert whole.judge in page
    titles = [str(each.title) for each in tables(found)]
    assert any("20 real test patients" in title for title in titles), titles
    assert "real ct images of 25 patients" in whole.judge
    assert {m.of for m in whole.metrics if m.name == "tstr"} == {"translated", "judge", "constant"}
    said = " ".join(of_run(whole, "patient").sentences)
    assert "Over 20 real test patients, the mean squared error of a small predictor is " in said
    assert "when trained on translated mri images, " in said
    assert " and " in said.partition("when trained on real images (the judge)")[2][:5]
    assert said.endswith("when trained on nothing (constant prediction).")
    old = whole.model_copy(update={"judge": "", "audits": whole.audits})
    write_results(run.evaluation, old)  # as an older medxlate left it
    values = json.loads((run.evaluation / "evaluation.json").read_text())
    del values["judge"]
    (run.evaluation / "evaluation.json").write_text(json.dumps(values))
    assert read_results(run.evaluation).judge == ""
    again = evaluate(run.path, metrics=["mse"]).results  # asks no judge
    assert again.judge == ""
    assert {m.label for m in again.metrics} == {m.label for m in whole.metrics}
    assert again.audits == whole.audits
    events: list[Event] = []
    mixed = evaluate(run.path, metrics=["fid"], listener=events.append).results
    assert mixed.judge == whole.judge
    assert {m.label for m in mixed.metrics if m.features == "predictor"} == {"fid[predictor]"}
    assert [a for a in whole.audits if a.kind != "label-preservation"] == list(mixed.audits)
    (warned,) = [e.text for e in events if isinstance(e, Warned) and "judge" in e.text]
    assert "kid[predictor], label-preservation" in warned
    assert "tstr" in warned
    events.clear()
    kept = evaluate(run.path, metrics=["mse", "kid"], listener=events.append).results
    assert kept.judge == whole.judge
    assert {"fid[predictor]", "kid[predictor]"} <= {m.label for m in kept.metrics}
    assert not [e for e in events if isinstance(e, Warned) and "judge" in e.text]


def test_what_is_dear_is_taken_only_when_it_is_asked_for(
    world: tuple[RunFolder, Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = world
    monkeypatch.setattr(tstr, "CHEAP", 1000)
    shutil.rmtree(run.evaluation, ignore_errors=True)
    assert evaluate(run.path).figure("tstr", level="patient", source="mri") is None
    asked = evaluate(run.path, metrics=["tstr"])
    assert asked.figure("tstr", level="patient", source="mri") is not None
    assert asked.figure("tstr", level="patient", of="judge") is not None


def test_a_run_that_is_judged_lost_is_no_good_news(
    world: tuple[RunFolder, Subject],
) -> None:
    run, _ = world
    results = evaluate(run.path).results
    skill = [
        m.model_copy(update={"value": 0.5, "low": 0.2, "high": 0.7})
        for m in results.metrics
        if (m.name, m.of) == ("skill", "model")
    ]
    lost = Audit(kind="label-preservation", source="mri", status="fires", rule="r", sentence="s")
    kept = lost.model_copy(update={"status": "ok"})
    other = Against("alone", "target-only", ("mri",), -0.3, -0.5, -0.1, 20, None, ())
    tones = [
        of_run(
            results.model_copy(update={"metrics": tuple(skill), "audits": (a,)}),
            "patient",
            against=other,
        ).tone
        for a in (kept, lost)
    ]
    assert tones == ["good", "unsure"]
