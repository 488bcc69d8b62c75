"""`export hub --push`: what reaches a hub, under which conditions, on a hub of our own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import hubs
import tiny
from medxlate import Translator, evaluate, export_hub, push_hub
from medxlate.artifacts.runs import RunFolder
from medxlate.base.errors import ModelError, OutputError, UsageError
from medxlate.cli.app import app
from medxlate.training.train import train

# huggingface_hub calls its HTTP client in a way that the client deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")
REPO = "lab/mri-to-ct"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    data = tiny.write_dataset(tmp_path_factory.mktemp("data"))
    config = tiny.debug_config(data, optimizer={"epochs": 1, "steps_per_epoch": 2})
    return RunFolder(train(config, runs=tmp_path_factory.mktemp("runs")).run)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[hubs.Hub]:
    with hubs.running() as hub:
        hubs.connect(monkeypatch, hub, tmp_path / "home")
        monkeypatch.setenv("HF_TOKEN", hubs.TOKEN)
        yield hub


def push(run: Path, out: Path, *more: str, repo: str = REPO) -> Any:
    words = ["export", "hub", str(run), "--out", str(out), "--license", "mit"]
    return CliRunner().invoke(app, [*words, "--push", repo, "--json", *more])


def test_the_folder_reaches_a_private_repository_and_comes_back(
    hub: hubs.Hub, run: RunFolder, tmp_path: Path
) -> None:
    done = push(run.path, tmp_path / "out")
    assert done.exit_code == 0, done.output
    repo = hub.repos[REPO]
    assert repo.private
    held = repo.commits[repo.main]
    assert held == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    pushed = json.loads(done.stdout)["pushed"]
    assert pushed == f"hf://{REPO}@{repo.main}"
    assert hubs.TOKEN not in done.stdout + done.stderr
    volume = np.random.default_rng(0).random((2, 32, 32)) * 255
    assert np.array_equal(Translator.load(pushed)(volume), Translator.load(run.path)(volume))


def test_a_public_repository_takes_two_words(hub: hubs.Hub, run: RunFolder, tmp_path: Path) -> None:
    hub.repos[REPO] = hubs.Repo(private=False)
    refused = push(run.path, tmp_path / "one")
    assert (refused.exit_code, "--public" in refused.output) == (2, True)
    assert hub.repos[REPO].commits == {}
    assert push(run.path, tmp_path / "two", "--public").exit_code == 0
    assert push(run.path, tmp_path / "three", "--public", repo="lab/new").exit_code == 0
    assert not hub.repos["lab/new"].private


def test_without_push_nothing_is_asked_of_the_hub(
    hub: hubs.Hub, run: RunFolder, tmp_path: Path
) -> None:
    export_hub(run.path, out=tmp_path / "out", license_="mit")
    assert hub.asked == []
    words = ["export", "hub", str(run.path), "--out", "out", "--license", "mit", "--public"]
    assert CliRunner().invoke(app, words).exit_code == 2


def test_what_identifies_a_patient_is_not_uploaded(
    hub: hubs.Hub, run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = tiny.patient_name(3)
    monkeypatch.setattr("medxlate.export.hub.model_card", lambda *_, **__: f"made from {name}\n")
    refused = push(run.path, tmp_path / "out")
    assert refused.exit_code == 1
    assert "README.md" in refused.output
    assert name not in refused.output
    assert hub.asked == []


def test_without_a_dataset_to_look_for_nothing_is_uploaded(
    hub: hubs.Hub, run: RunFolder, tmp_path: Path
) -> None:
    data = json.loads(run.config.read_text())["data"]["folder"]
    refused = push(run.model, tmp_path / "one")
    assert (refused.exit_code, "--data" in refused.output) == (2, True)
    assert not (tmp_path / "one").exists()
    named = str((run.path / data).resolve())
    assert push(run.model, tmp_path / "two", "--data", named).exit_code == 0


def test_without_a_token_or_a_connection_it_says_so(
    hub: hubs.Hub, run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_hub(run.path, out=tmp_path / "out", license_="mit")
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    with pytest.raises(OutputError, match="401"):
        push_hub(tmp_path / "out", REPO)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UsageError, match="token"):
        push_hub(tmp_path / "out", REPO)
    monkeypatch.setenv("HF_TOKEN", hubs.TOKEN)
    hubs.connect(monkeypatch, hub, tmp_path / "home", offline=True)
    monkeypatch.setenv("HF_TOKEN", hubs.TOKEN)
    with pytest.raises(OutputError, match="offline"):
        push_hub(tmp_path / "out", REPO)


def test_an_evaluation_that_may_open_no_connection_opens_none(
    hub: hubs.Hub, run: RunFolder
) -> None:
    with pytest.raises(ModelError, match="not in the cache"):
        evaluate(run.path, model=f"hf://{REPO}", offline=True)
    assert hub.asked == []
    with pytest.raises(ModelError, match="does not exist"):
        evaluate(run.path, model=f"hf://{REPO}")


def test_only_safetensors_json_and_markdown_are_uploaded(
    hub: hubs.Hub, run: RunFolder, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    export_hub(run.path, out=folder, license_="mit")
    (folder / "labels.csv").write_text("patient,age\n")
    (folder / "images").mkdir()
    (folder / "link.json").symlink_to(folder / "config.json")
    with pytest.raises(OutputError, match=r"images, labels\.csv, link\.json"):
        push_hub(folder, REPO)
    with pytest.raises(ModelError):
        push_hub(folder / "images", REPO)
    with pytest.raises(UsageError, match="OWNER/NAME"):
        push_hub(folder, "mri-to-ct")
    assert hub.asked == []
