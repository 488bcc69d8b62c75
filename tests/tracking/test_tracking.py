"""Trackers: what they keep, that a continued training tells nothing twice, and what may go out."""

from __future__ import annotations

import socket
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import medxlate
from medxlate.base.errors import ConfigError, StoppedError
from medxlate.base.events import (
    Alarmed,
    EpochEnded,
    Event,
    SamplesWritten,
    StepLogged,
    Warned,
    silent,
)
from medxlate.config import Config
from medxlate.tracking import tracker as tracking
from medxlate.tracking.tracker import Tracking, check_trackers, settings_of
from tiny import PREFIX, debug_config, write_dataset


@pytest.fixture
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was opened")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)


class Notes:
    """A tracker that remembers."""

    def __init__(self, fails_at: int = 10**9) -> None:
        self.scalar: list[tuple[int, tuple[str, ...]]] = []
        self.pictures: list[int] = []
        self.sentences: list[tuple[int, str, str]] = []
        self.fails_at = fails_at
        self.finished = 0

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        if step >= self.fails_at:
            raise ConnectionError("the server is gone")
        self.scalar.append((step, tuple(values)))

    def text(self, step: int, name: str, text: str) -> None:
        self.sentences.append((step, name, text))

    def image(self, step: int, name: str, path: Path) -> None:
        self.pictures.append(step)

    def finish(self) -> None:
        self.finished += 1


def events(last: int) -> Iterator[Event]:
    for step in range(2, last + 1, 2):
        yield StepLogged(step, 1, {"predict_real": float(step)}, 5.0, 0.1)
        if step % 4 == 0:
            yield EpochEnded(step, step // 4, 5, {"val_mse": 3.0}, False)
            yield SamplesWritten(step, step // 4, {"mri": Path("a.png")})


def told(
    monkeypatch: pytest.MonkeyPatch, root: Path, tracker: Notes, heard: list[Event], last: int
) -> None:
    monkeypatch.setattr(
        tracking, "import_module", lambda _: SimpleNamespace(start=lambda _: tracker)
    )
    with Tracking(
        ["wandb"], root, run="r", settings={}, offline=True, then=heard.append
    ) as listener:
        for event in events(last):
            listener(event)


def test_a_continued_training_tells_nothing_twice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first, second = Notes(), Notes()
    told(monkeypatch, tmp_path, first, [], 6)
    told(monkeypatch, tmp_path, second, [], 8)  # as after a kill: from the beginning
    assert [step for step, _ in first.scalar] == [2, 4, 4, 6]
    assert [step for step, _ in second.scalar] == [8, 8]
    assert (first.pictures, second.pictures) == ([4], [8])
    assert first.finished == second.finished == 1


def test_all_alarms_of_a_step_are_told_and_none_twice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    alarms = [
        Alarmed(4, kind, modality, 1.0, "it says", "do")
        for kind, modality in (("collapse", "mri"), ("collapse", "pet"), ("diverging", "mri"))
    ]
    first, second = Notes(), Notes()
    alarmed(monkeypatch, tmp_path, first, alarms)
    alarmed(monkeypatch, tmp_path, second, [*alarms, replace(alarms[0], step=6)])
    assert first.sentences == [
        (4, "alarm/collapse", "mri: it says. do"),
        (4, "alarm/collapse", "pet: it says. do"),
        (4, "alarm/diverging", "mri: it says. do"),
    ]
    assert second.sentences == [(6, "alarm/collapse", "mri: it says. do")]


def alarmed(
    monkeypatch: pytest.MonkeyPatch, root: Path, tracker: Notes, alarms: list[Alarmed]
) -> None:
    monkeypatch.setattr(
        tracking, "import_module", lambda _: SimpleNamespace(start=lambda _: tracker)
    )
    with Tracking(["wandb"], root, run="r", settings={}, offline=True, then=silent) as listener:
        for alarm in alarms:
            listener(alarm)


def test_a_tracker_that_fails_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    heard: list[Event] = []
    notes = Notes(fails_at=4)
    told(monkeypatch, tmp_path, notes, heard, 8)
    warnings_ = [event.text for event in heard if isinstance(event, Warned)]
    assert warnings_ == ["Tracking with wandb stopped for this training: the server is gone"]
    assert [event for event in heard if not isinstance(event, Warned)] == list(events(8))
    assert [step for step, _ in notes.scalar] == [2]


def test_a_library_that_is_missing_is_said_before_training(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="sqlalchemy") as problem:
        check_trackers(["mlflow"])
    assert "pip install 'medxlate[mlflow]'" in problem.value.hint
    with pytest.raises(ConfigError, match="tensorboard"):
        medxlate.train(config(tmp_path, "tensorboard"), runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_settings_hold_no_path() -> None:
    values = {"data.folder": "/secret", "model.pretrained": "/w", "optimizer.epochs": 3}
    assert settings_of(values) == {"optimizer.epochs": 3}


def config(data: Path, *trackers: str) -> Config:
    return debug_config(data, runtime={"trackers": trackers})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("tracked"))


def trained(data: Path, runs: Path, tracker: str) -> Path:
    """Train, stopped after some steps and continued."""
    asked = iter([""] * 6 + ["a test"])
    with pytest.raises(StoppedError):
        medxlate.train(config(data, tracker), runs=runs, name="r", stop=lambda: next(asked))
    heard: list[Event] = []
    medxlate.resume(runs / "r", listener=heard.append)
    assert not [event.text for event in heard if isinstance(event, Warned)]
    return runs / "r" / "tracking" / tracker


def recorded(run: Path, kind: str) -> list[dict[str, Any]]:
    from medxlate.training.record import read_events

    return [event for event in read_events(run / "metrics.jsonl") if event["event"] == kind]


@pytest.mark.usefixtures("no_sockets")
def test_tensorboard_keeps_what_the_record_says(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    place = trained(data, tmp_path, "tensorboard")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        found = EventAccumulator(str(place))
        found.Reload()
    steps, epochs = recorded(tmp_path / "r", "step"), recorded(tmp_path / "r", "epoch")
    kept = [(e.step, e.value) for e in found.Scalars("loss/predict_real")]
    assert [step for step, _ in kept] == [event["step"] for event in steps]
    wanted = [event["losses"]["predict_real"] for event in steps]
    assert [value for _, value in kept] == pytest.approx(wanted, rel=1e-6)
    assert [e.value for e in found.Scalars("validation/mse")] == pytest.approx(
        [event["metrics"]["val_mse"] for event in epochs], rel=1e-6
    )
    assert len(found.Images("samples/mri")) == len(epochs)


@pytest.mark.usefixtures("no_sockets")
def test_mlflow_keeps_one_run_of_a_continued_training(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        place = trained(data, tmp_path, "mlflow")
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=f"sqlite:///{place / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("medxlate")
        (run,) = client.search_runs([experiment.experiment_id])
        history = client.get_metric_history(run.info.run_id, "loss/predict_real")
    steps = recorded(tmp_path / "r", "step")
    assert sorted(each.step for each in history) == [event["step"] for event in steps]
    assert run.info.status == "FINISHED"
    assert run.data.params["optimizer.epochs"] == "2"
    assert "data.folder" not in run.data.params
    assert len(list((place / "artifacts").rglob("*.png"))) == 2


def test_wandb_is_offline_and_gets_no_image(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        place = trained(data, tmp_path, "wandb")
    runs = sorted((place / "wandb").glob("offline-run-*"))
    names = {folder.name.rsplit("-", 1)[1] for folder in runs}
    assert len(runs) == 2  # parts
    assert len(names) == 1  # of one run
    content = b"".join(path.read_bytes() for path in place.rglob("*") if path.is_file())
    assert b"loss/predict_real" in content
    assert not list(place.rglob("*.png"))
    assert PREFIX.encode() not in content


def test_train_takes_words_or_a_configuration(data: Path, tmp_path: Path) -> None:
    from medxlate.base.errors import UsageError

    settings = {"data.folder": str(data), "optimizer.epochs": 1, "runtime.device": "cpu"}
    result = medxlate.train(
        source="mri", target="ct", preset="debug", settings=settings, runs=tmp_path
    )
    assert result.epochs == 1
    wanted = medxlate.resolve(
        preset="debug",
        overrides={
            "data": {"folder": str(data), "sources": ["mri"], "target": "ct"},
            "optimizer": {"epochs": 1},
            "runtime": {"device": "cpu"},
        },
    )
    from medxlate.base.records import read_json

    kept = Config.model_validate(read_json(result.run / "config.json", error=ConfigError))
    assert kept == wanted
    with pytest.raises(UsageError, match="configuration or"):
        medxlate.train(wanted, source="mri")
