"""Failures as scripts and people see them: an object, a line, a name; never a traceback."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner, Result

import tiny
from medxlate.base.errors import StoppedError
from medxlate.base.events import StepLogged, silent
from medxlate.base.files import naming_full_disk, whole_file, whole_folder
from medxlate.cli.app import app
from medxlate.doctor import Check
from medxlate.training.record import Recorder
from walking import commands

FULL = Path("/dev/full")  # a device that refuses every byte with ENOSPC


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


# What every command with --json prints where it fails

FAILING: dict[str, list[str]] = {
    "prepare": ["prepare", "nowhere", "--modality", "ct", "--label", "age"],
    "train": ["train", "--source", "mri", "--target", "ct", "--data", "nowhere"],
    "translate": ["translate", "nowhere", "--out", "out", "--model", "nowhere"],
    "predict": ["predict", "nowhere", "--model", "nowhere"],
    "evaluate": ["evaluate", "--run", "nowhere"],
    "report": ["report", "nowhere"],
    "compare": ["compare", "--target", "ct", "--data", "nowhere", "--out", "study"],
    "plan": ["plan", "--target", "ct", "--data", "nowhere"],
    "scrub": ["scrub", "nowhere"],
    "import": ["import", "cyclegan", "nowhere", "--out", "model", "--source", "a", "--target", "b"],
    "export onnx": ["export", "onnx", "nowhere", "--out", "out"],
    "export hub": ["export", "hub", "nowhere", "--out", "out", "--license", "mit"],
    "export bundle": ["export", "bundle", "nowhere", "--out", "out", "--license", "mit"],
    "export nnunet": ["export", "nnunet", "nowhere", "--masks", "nowhere", "--out", "Dataset001_A"],
    "export monai": ["export", "monai", "nowhere", "--out", "out"],
    "doctor": ["doctor"],  # a problem is put in its way, as in that of runs list
    "fetch": ["fetch", "nothing"],
    "demo": ["demo", "--only-data", "--patients", "ct", "--out", "out"],
    "config show": ["config", "show", "nothing"],
    "config init": ["config", "init", "--set", "nothing"],
    "runs list": ["runs", "list"],
    "runs show": ["runs", "show", "nothing"],
    "runs rm": ["runs", "rm", "nothing", "--yes"],
}


def test_every_command_has_json_and_is_among_these():
    found = commands()
    assert set(FAILING) == set(found)
    for name, each in found.items():
        assert "--json" in {option for parameter in each.params for option in parameter.opts}, name


@pytest.mark.parametrize("name", FAILING)
def test_a_failure_is_an_object_with_error_hint_and_code(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    if name == "doctor":
        lacking = [Check("disk", "problem", "none", "Buy one.")]
        monkeypatch.setattr("medxlate.doctor.examine", lambda folder: lacking)
    if name == "runs list":

        def broken(folder: Path) -> None:
            raise OSError(errno.EIO, "Input/output error", "runs")

        monkeypatch.setattr("medxlate.artifacts.history.list_runs", broken)
    result = call(*FAILING[name], "--json")
    found = json.loads(result.stdout)
    assert result.exit_code in (1, 2)
    assert found["code"] == result.exit_code
    assert found["error"]
    assert isinstance(found["hint"], str)
    assert found["error"] in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "--json"],
        ["predict", "x", "--nonsense", "--json"],
        ["prepare", "--json", "x", "--size", "many", "--modality", "ct"],
        ["runs", "show", "a", "b", "c", "--json"],
        ["nonsense", "--json"],
    ],
)
def test_a_call_that_is_wrong_in_its_words_is_an_object_too(words: list[str]):
    result = call(*words)
    found = json.loads(result.stdout)
    assert (found["code"], result.exit_code) == (2, 2)
    assert found["error"]
    assert result.stderr
    assert not call(*(word for word in words if word != "--json")).stdout.strip()


def test_what_failed_among_what_was_done_is_one_object(tmp_path: Path):
    tiny.save(tmp_path / "in" / "good.png", tiny.noise(32, 32, seed=0))
    (tmp_path / "in" / "bad.png").write_bytes(b"no image")
    model = tiny.write_tiny_model(tmp_path)
    words = ["predict", tmp_path / "in", "--model", model, "--out", tmp_path / "p.csv", "--json"]
    found = json.loads(call(*words).stdout)
    assert (found["code"], found["slices"], list(found["failed"])) == (1, 1, ["bad.png"])
    assert "1 files" in found["error"]
    assert str(tmp_path / "p.csv") in found["hint"]
    (tmp_path / "in" / "bad.png").unlink()
    sound = json.loads(call(*words, "--overwrite").stdout)
    assert not {"error", "hint", "code"} & set(sound)


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        (StoppedError("Stopped.", "Go on."), 3),
        (KeyboardInterrupt(), 130),
        (ValueError("a mistake of ours"), 1),
        (OSError(errno.EMFILE, "Too many open files"), 1),
    ],
)
def test_the_code_is_that_of_the_command(
    problem: BaseException, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def broken(*_: object, **__: object) -> None:
        raise problem

    monkeypatch.setattr("medxlate.inference.request.check_prediction", broken)
    result = call("predict", tmp_path, "--json")
    found = json.loads(result.stdout)
    assert (found["code"], result.exit_code) == (code, code)
    assert isinstance(
        result.exception, ValueError if isinstance(problem, ValueError) else SystemExit
    )


# A full disk


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("way", ["file", "folder", "named", "record"])
def test_a_full_disk_names_what_was_to_be_written(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The system's own refusal, which names no file when bytes are written."""
    place = tmp_path / "out"

    def write() -> None:
        with FULL.open("w") as stream:
            stream.write("x")

    def fill() -> None:
        if way == "file":
            with whole_file(place):
                write()
        elif way == "folder":
            with whole_folder(place, marker="m"):
                write()
        elif way == "named":
            with naming_full_disk(place):
                write()
        else:
            place.symlink_to(FULL)
            Recorder(place, silent)(StepLogged(1, 1, {}, 1.0, 0.0))

    with pytest.raises(OSError, match="No space") as caught:
        fill()
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(place)

    def full(*_: object, **__: object) -> None:
        fill()

    if way == "record":
        place.unlink()
    monkeypatch.setattr("medxlate.inference.request.check_prediction", full)
    result = call("predict", tmp_path, "--json")
    assert json.loads(result.stdout)["error"] == f"No space is left on the disk for {place}."


# Places and locales


def run(
    words: list[str], *, before: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command as a process of its own."""
    script = f'{before}exec "$0" -m medxlate "$@"'
    return subprocess.run(
        ["sh", "-c", script, sys.executable, *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="surrogateescape",
        timeout=120,
    )


@pytest.mark.skipif(os.name == "nt", reason="Windows removes no folder that is in use")
def test_a_working_directory_that_is_gone_is_one_line(tmp_path: Path):
    before = f'mkdir "{tmp_path}/gone"; cd "{tmp_path}/gone"; rmdir "{tmp_path}/gone"; '
    for words in (["predict", str(tmp_path)], ["doctor"], ["runs", "list", "--json"]):
        done = run(words, before=before)
        assert done.returncode == 2, done.stderr
        assert done.stderr.splitlines() == [
            "Error: The working directory no longer exists.",
            "Change to another directory.",
        ]
    assert json.loads(done.stdout)["error"] == "The working directory no longer exists."


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_an_encoding_without_letters_writes_them_out(tmp_path: Path, environment: dict[str, str]):
    folder = tmp_path / "Größe"
    tiny.save(folder / "é.png", tiny.noise(32, 32, seed=0))
    (folder / "ß.png").write_bytes(b"no image")
    model = tiny.write_tiny_model(tmp_path)
    out = folder / "Übersicht.csv"
    words = ["predict", str(folder), "--model", str(model), "--out", str(out)]
    done = run(words, **environment)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert (done.stdout + done.stderr).isascii()
    assert "1 files could not be read" in done.stderr
    assert out.is_file()
    told = run(["--help"], **environment)
    assert (told.returncode, told.stderr) == (0, "")


# The browser


@pytest.mark.parametrize("there", [True, False])
def test_a_page_is_opened_or_its_place_is_named(
    there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    opened: list[str] = []

    def browse(address: str) -> bool:
        opened.append(address)
        return there

    monkeypatch.setattr("webbrowser.open", browse)
    made = SimpleNamespace(path=tmp_path / "report.html", verdict=["Nothing."], bytes=1, badge="")
    monkeypatch.setattr("medxlate.report.run_report.write_report", lambda *_, **__: made)
    monkeypatch.setattr(
        "medxlate.artifacts.runs.find_run", lambda *_: None
    )  # after that module took it
    result = call("report", tmp_path, "--open")
    assert result.exit_code == 0
    assert opened == [made.path.as_uri()]
    assert ("No browser" in result.stderr) is not there
    assert call("report", tmp_path).exit_code == 0
    assert len(opened) == 1
