"""Every command can be quiet or verbose; inputs and outputs have nnU-Net's short forms."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import tiny
from medxlate.cli.app import app
from walking import commands

WORDS = list(commands())


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number in range(2):
        tiny.save(tmp_path / "in" / f"{number}.png", tiny.noise(32, 32, seed=number))
    return tmp_path / "in"


@pytest.mark.parametrize("name", WORDS)
def test_every_command_takes_both(name: str) -> None:
    shown = call(*name.split(), "--help").output
    assert "--quiet" in shown
    assert "--verbose" in shown


def test_quiet_leaves_out_progress_but_no_error(model: Path, images: Path, tmp_path: Path) -> None:
    usual = call("translate", images, "--out", tmp_path / "a", "--model", model)
    quiet = call("translate", images, "--out", tmp_path / "b", "--model", model, "--quiet")
    assert usual.exit_code == quiet.exit_code == 0
    assert "Translating" in usual.stderr
    assert "Translating" not in quiet.stderr
    assert "2 synthetic slices" in quiet.stdout
    refused = call("translate", "nothing", "-q", "-o", tmp_path / "c", "--model", model)
    assert refused.exit_code == 1
    assert "does not exist" in refused.stderr


def test_verbose_names_every_file(model: Path, images: Path, tmp_path: Path) -> None:
    for number in range(7):
        (images / f"bad{number}.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    words = ["predict", images, "--model", model]
    usual = call(*words, "-o", tmp_path / "a.csv").stderr
    verbose = call(*words, "-o", tmp_path / "b.csv", "-v").stderr
    assert [f"bad{number}.png" in usual for number in range(7)].count(True) == 5
    assert all(f"bad{number}.png" in verbose for number in range(7))
    assert "0:00:0" in verbose


def test_short_forms_of_input_and_output(model: Path, images: Path, tmp_path: Path) -> None:
    done = call("translate", "-i", images, "-o", tmp_path / "out", "--model", model)
    assert done.exit_code == 0
    assert len(list((tmp_path / "out").glob("*.png"))) == 2
    for words in ([], [images, "-i", images]):
        wrong = call("predict", *words, "--model", model)
        assert wrong.exit_code == 2
        assert "Name the images once" in wrong.output


def test_quiet_and_verbose_contradict_each_other() -> None:
    assert call("doctor", "-q", "-v").exit_code == 2
