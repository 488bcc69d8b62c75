from __future__ import annotations

import hashlib
import json
import os
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from conftest import tree
from medxlate.base import errors
from medxlate.base.errors import DataError, MedxlateError, OutputError, nearest
from medxlate.base.files import final_name, sha256, whole_file, whole_folder, write_json
from medxlate.base.records import read_json

MARKER = "marker.json"


def interrupt(place: AbstractContextManager[Path], problem: type[BaseException]) -> None:
    """Begin to write and fail in the middle."""
    with place as partial:
        (partial / MARKER if partial.is_dir() else partial).write_text("half")
        raise problem


def fill(folder: Path, text: str) -> None:
    (folder / MARKER).write_text(text)


@pytest.fixture
def umask_022():
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("UsageError", 2),
        ("ConfigError", 2),
        ("ImageError", 1),
        ("DataError", 1),
        ("ModelError", 1),
        ("OutputError", 1),
    ],
)
def test_wrong_use_exits_with_2_and_failed_work_with_1(name, code):
    kind = getattr(errors, name)
    assert issubclass(kind, MedxlateError)
    assert kind.exit_code == code


def test_an_error_reads_as_message_and_hint():
    assert str(MedxlateError("x.png is damaged.", "Copy it again.")) == (
        "x.png is damaged. Copy it again."
    )
    assert str(MedxlateError("x.png is damaged.")) == "x.png is damaged."


def test_nearest_suggests_a_similar_name_and_lists_all_where_none_is_similar():
    assert nearest("epoch", ["batch_size", "epochs"]) == "Did you mean 'epochs'?"
    assert nearest("zzz", ["b", "a"]) == "Known: a, b."
    assert nearest("zzz", []) == ""


@pytest.mark.usefixtures("umask_022")
def test_whole_file_appears_with_ordinary_permissions(tmp_path):
    with whole_file(tmp_path / "new" / "a.txt") as partial:
        partial.write_text("done")
        assert not (tmp_path / "new" / "a.txt").exists()
    assert tree(tmp_path) == {"new/": b"", "new/a.txt": b"done"}
    assert (tmp_path / "new" / "a.txt").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("problem", [KeyboardInterrupt, OSError])
def test_whole_file_keeps_the_old_content_when_interrupted(tmp_path, problem):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(problem):
        interrupt(whole_file(path), problem)
    assert tree(tmp_path) == {"a.txt": b"old"}


@pytest.mark.usefixtures("umask_022")
def test_whole_folder_appears_at_the_end_only(tmp_path):
    path = tmp_path / "out"
    with whole_folder(path, marker=MARKER) as partial:
        fill(partial, "new")
        assert not path.exists()
    assert tree(tmp_path) == {"out/": b"", f"out/{MARKER}": b"new"}
    assert path.stat().st_mode & 0o777 == 0o755


def test_whole_folder_fills_an_empty_folder(tmp_path):
    (tmp_path / "out").mkdir()
    with whole_folder(tmp_path / "out", marker=MARKER) as partial:
        fill(partial, "new")
    assert tree(tmp_path) == {"out/": b"", f"out/{MARKER}": b"new"}


@pytest.mark.parametrize("problem", [KeyboardInterrupt, OSError])
def test_an_interrupted_folder_leaves_nothing_not_even_new_parents(tmp_path, problem):
    path = tmp_path / "a" / "b" / "out"
    with pytest.raises(problem):
        interrupt(whole_folder(path, marker=MARKER), problem)
    assert tree(tmp_path) == {}


def test_an_interrupted_folder_keeps_what_lies_beside_it(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "other.txt").write_text("kept")
    with pytest.raises(KeyboardInterrupt):
        interrupt(whole_folder(tmp_path / "a" / "out", marker=MARKER), KeyboardInterrupt)
    assert tree(tmp_path) == {"a/": b"", "a/other.txt": b"kept"}


def make_folder(path: Path, text: str, *, overwrite: bool = False) -> None:
    with whole_folder(path, marker=MARKER, overwrite=overwrite) as partial:
        fill(partial, text)


def test_a_folder_is_replaced_only_when_asked(tmp_path):
    make_folder(tmp_path / "out", "old")
    (tmp_path / "out" / "stale.txt").write_text("gone with the old folder")
    with pytest.raises(OutputError, match=r"out exists and is not empty.*--overwrite"):
        make_folder(tmp_path / "out", "new")
    assert (tmp_path / "out" / MARKER).read_text() == "old"
    make_folder(tmp_path / "out", "new", overwrite=True)
    assert tree(tmp_path) == {"out/": b"", f"out/{MARKER}": b"new"}


def test_a_folder_of_somebody_else_is_never_replaced(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("precious")
    before = tree(tmp_path)
    with pytest.raises(
        OutputError, match=r"thesis was not written by medxlate \(it has no marker\.json"
    ):
        make_folder(tmp_path / "thesis", "new", overwrite=True)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["file", "file/out", "file/a/out"])
def test_a_file_in_the_way_is_named(tmp_path, name):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match=r"file is a file,"):
        make_folder(tmp_path / name, "new", overwrite=True)
    assert tree(tmp_path) == {"file": b"x"}


def test_the_old_folder_comes_back_when_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    make_folder(tmp_path / "out", "old")
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="no"):
        make_folder(tmp_path / "out", "new", overwrite=True)
    assert tree(tmp_path) == {"out/": b"", f"out/{MARKER}": b"old"}


def test_json_is_written_whole_and_read_back(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"b": [1, None]})
    assert json.loads(path.read_text()) == {"b": [1, None]}
    assert read_json(path, error=DataError) == {"b": [1, None]}
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"b": float("nan")})
    assert json.loads(path.read_text()) == {"b": [1, None]}
    assert list(tree(tmp_path)) == ["a.json"]


def test_missing_or_damaged_json_raises_the_callers_error_with_the_path(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(DataError, match=r"a\.json does not exist\. Do it\."):
        read_json(path, error=DataError, hint="Do it.")
    for content in (b'{"half": ', b"\xff\xfe\x00"):
        path.write_bytes(content)
        with pytest.raises(OutputError, match=r"a\.json cannot be read as JSON"):
            read_json(path, error=OutputError)


def test_sha256_is_that_of_the_content(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_what_is_being_written_is_called_by_its_final_name(tmp_path: Path) -> None:
    target = tmp_path / "runs" / "step-000003"
    with whole_folder(target, marker="m") as partial:
        assert final_name(partial / "a.bin") == str(target / "a.bin")
        (partial / "m").touch()
    with whole_file(tmp_path / "one.json") as file:
        assert final_name(file) == str(tmp_path / "one.json")
        file.touch()
    assert final_name("/data/.hidden/x.partial") == "/data/.hidden/x.partial"
