"""A disk that fills up: one clear error, what was there stays, and the work goes on after it.

The disk is a small tmpfs, which only root may mount; elsewhere these tests are skipped.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from test_checkpoints import SECTIONS, same_ends, train_until
from typer.testing import CliRunner, Result

import tiny
from medxlate.base.errors import StoppedError
from medxlate.cli.app import app
from medxlate.training import checkpoints
from medxlate.training.train import train

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Disk:
    """A mounted tmpfs."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def resize(self, kibibytes: int) -> None:
        mount("-o", f"remount,size={kibibytes}k", str(self.path))

    def free(self) -> int:
        status = os.statvfs(self.path)
        return status.f_bavail * status.f_frsize

    def fill(self, *, but: int) -> None:
        """Write a file that leaves ``but`` bytes."""
        (self.path / "ballast").write_bytes(bytes(max(0, self.free() - but)))

    def make_room(self) -> None:
        (self.path / "ballast").unlink()


def mount(*words: str) -> None:
    done = subprocess.run(["mount", *words], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")


@pytest.fixture
def disk() -> Iterator[Disk]:
    if os.name == "nt" or os.getuid() != 0:
        pytest.skip("only root may mount a tmpfs")
    with tempfile.TemporaryDirectory() as name:
        mount("-t", "tmpfs", "-o", "size=64m", "tmpfs", name)
        try:
            yield Disk(Path(name))
        finally:
            subprocess.run(["umount", "--lazy", name], check=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_dataset(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tiny.debug_config(data, **SECTIONS), runs=tmp_path_factory.mktemp("whole")).run


def call(*words: object) -> Result:
    result = CliRunner().invoke(app, list(map(str, words)))
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def stop_after(step: int, data: Path, runs: Path) -> Path:
    with pytest.raises(StoppedError):
        train_until(step, data, runs, name="job")
    return runs / "job"


def one_checkpoint(run: Path) -> int:
    newest = checkpoints.checkpoints(run / "checkpoints")[0]
    return sum(file.stat().st_size for file in newest.iterdir())


@pytest.mark.parametrize("foreseen", [True, False])
def test_while_a_checkpoint_is_written(
    disk: Disk, data: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, foreseen: bool
):
    """Seen before by looking at the free space; or not, where something else fills it meanwhile."""
    run = stop_after(5, data, disk.path / "runs")
    before = checkpoints.last_position(run / "checkpoints")
    disk.fill(but=one_checkpoint(run) // 2)
    words = ["train", "--resume", "--runs", run.parent, "--name", "job"]
    with monkeypatch.context() as patch:
        if not foreseen:
            patch.setattr(checkpoints, "check_space", lambda *_: None)
        result = call(*words)
    assert result.exit_code == 1
    flat = " ".join(result.output.split())
    assert ("are free on its disk" if foreseen else "cannot be written") in flat
    assert ".partial" not in flat  # the file is called by its final name, or by its folder's
    snapshot = checkpoints.newest_sound(run / "checkpoints")
    assert snapshot is not None
    assert snapshot.position == before
    assert not list((run / "checkpoints").glob(".*"))
    disk.make_room()
    assert call(*words).exit_code == 0
    same_ends(run, whole)


def test_not_a_byte_is_left(disk: Disk, data: Path, whole: Path):
    """Then not even a line of the record can be written."""
    run = stop_after(5, data, disk.path / "runs")
    disk.fill(but=0)
    words = ["train", "--resume", "--runs", run.parent, "--name", "job"]
    result = call(*words)
    assert result.exit_code == 1
    assert "space" in result.output
    assert str(disk.path) in result.output
    disk.make_room()
    assert call(*words).exit_code == 0
    same_ends(run, whole)


def write_scans(folder: Path, count: int = 40) -> None:
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(count):
        pixels = random.integers(0, 256, (90, 90), dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"p{number:02d}.png")
    lines = [f"p{number:02d},{20 + number}" for number in range(count)]
    (folder / "labels.csv").write_text("\n".join(["patient,age", *lines]) + "\n")


def hashes(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def prepare_words(raw: Path, data: Path) -> list[object]:
    data.mkdir(parents=True, exist_ok=True)
    (data / "pseudonym.key").write_text(tiny.KEY)
    return [
        *("prepare", raw, "--modality", "ct", "--data", data, "--size", 64, "--workers", 1),
        *("--label", "age", "--labels", raw / "labels.csv"),
        *("--patient", "regex:(p\\d+)", "--patient-column", "patient"),
    ]


def translate_words(raw: Path, model: Path, out: Path) -> list[object]:
    return ["translate", raw, "--model", model, "--out", out, "--exclude", "*.csv"]


def check(disk: Disk, words: Callable[[Path], list[object]], result: str, tmp_path: Path) -> None:
    """Run a command on a small disk, then on a larger one; compare with an undisturbed run."""
    disk.resize(160)
    failed = call(*words(disk.path))
    assert failed.exit_code == 1, failed.output
    assert "space" in failed.output
    assert str(disk.path) in failed.output  # what was to be written is named
    assert ".partial" not in " ".join(failed.output.split())
    assert not (disk.path / result).exists()
    disk.resize(65536)
    done = call(*words(disk.path))
    assert done.exit_code == 0, done.output
    reference = tmp_path / "reference"
    reference.mkdir()
    assert call(*words(reference)).exit_code == 0
    assert hashes(disk.path / result) == hashes(reference / result)


def test_while_images_are_prepared(disk: Disk, tmp_path: Path):
    raw = tmp_path / "raw"
    write_scans(raw)
    check(disk, lambda root: prepare_words(raw, root / "data"), "data/ct", tmp_path)
