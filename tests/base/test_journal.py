"""The journal of a work: what counts as done, and what is made again."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest

from medxlate.base.errors import DataError, JobError, OutputError
from medxlate.base.journal import Journal, drop, kept_until_done


@dataclass(frozen=True)
class Piece:
    key: str


UNITS = [Piece(name) for name in "abcd"]


def do(folder: Path, *names: str, content: bytes = b"pixels") -> None:
    """Write and note units, as a process that ends then."""
    journal = Journal(folder, folder / "out")
    (folder / "out" / "deep").mkdir(parents=True, exist_ok=True)
    with journal.noting() as note:
        for name in names:
            (folder / "out" / "deep" / name).write_bytes(content)
            note(Piece(name), {"said": name * 2}, {f"deep/{name}": sha256(content).hexdigest()})
            assert Piece(name) in journal
            assert journal.entry(Piece(name))["said"] == name * 2


def missing(folder: Path) -> list[str]:
    return [unit.key for unit in Journal(folder, folder / "out").missing(UNITS)]


def test_what_is_noted_is_done_and_nothing_else_stays(tmp_path: Path) -> None:
    assert missing(tmp_path) == ["a", "b", "c", "d"]
    do(tmp_path, "c", "a")
    (tmp_path / "out" / "deep" / "b").write_bytes(b"half")
    (tmp_path / "out" / "stray").mkdir()
    assert missing(tmp_path) == ["b", "d"]
    left = {path.relative_to(tmp_path / "out").as_posix() for path in tmp_path.glob("out/**/*")}
    assert left == {"deep", "deep/a", "deep/c"}
    do(tmp_path, "b", "d")
    found = Journal(tmp_path, tmp_path / "out")
    assert [entry["said"] for entry in found.entries(UNITS)] == ["aa", "bb", "cc", "dd"]


@pytest.mark.parametrize("damage", ["cut", "changed", "removed"])
def test_a_unit_whose_file_is_damaged_is_missing_until_it_is_done_again(
    tmp_path: Path, damage: str
) -> None:
    do(tmp_path, "a", "b")
    file = tmp_path / "out" / "deep" / "a"
    if damage == "removed":
        file.unlink()
    else:
        file.write_bytes(b"" if damage == "cut" else b"pixelz")
    assert missing(tmp_path) == ["a", "c", "d"]
    assert not file.exists()
    do(tmp_path, "a", content=b"other")
    assert missing(tmp_path) == ["c", "d"]
    assert file.read_bytes() == b"other"


@pytest.mark.parametrize(
    "line",
    [
        b'{"unit": 0, "files": {}}',  # of a version before keys
        b'{"key": "c", "files": []}',
        b'{"key": "c"}',
        b'["c"]',
        b"[" * 100_000,
        b"\xff\x00",
        b'{"key": "c", "files": {"deep/c": 3}}',
        b'{"key": "c", "files": {"../gone": "x"}}',
    ],
)
def test_a_line_that_says_nothing_of_a_unit_does_not_count(tmp_path: Path, line: bytes) -> None:
    do(tmp_path, "a")
    with (tmp_path / "journal-0.jsonl").open("ab") as stream:
        stream.write(line + b"\n")
    assert missing(tmp_path) == ["b", "c", "d"]


def test_a_line_that_was_cut_off_costs_its_unit_alone(tmp_path: Path) -> None:
    do(tmp_path, "a", "b")
    path = tmp_path / "journal-0.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    assert missing(tmp_path) == ["b", "c", "d"]
    do(tmp_path, "c")
    assert missing(tmp_path) == ["b", "d"]
    assert json.loads(path.read_text().splitlines()[-1])["key"] == "c"


def test_a_unit_that_another_process_did_again_is_done(tmp_path: Path) -> None:
    """As on a GPU, the second time gives other bytes."""
    do(tmp_path, "a", "b")
    (tmp_path / "journal-0.jsonl").rename(tmp_path / "journal-1.jsonl")
    (tmp_path / "out" / "deep" / "a").unlink()
    do(tmp_path, "a", content=b"other")
    assert missing(tmp_path) == ["c", "d"]
    assert Journal(tmp_path, tmp_path / "out").entry(Piece("a"))["said"] == "aa"


def test_entries_of_several_processes_are_read_together(tmp_path: Path) -> None:
    do(tmp_path, "a", "b")
    (tmp_path / "journal-0.jsonl").rename(tmp_path / "journal-1.jsonl")
    do(tmp_path, "c")
    journal = Journal(tmp_path, tmp_path / "out")
    assert [entry["said"] for entry in journal.entries(UNITS[:3])] == ["aa", "bb", "cc"]
    with pytest.raises(OutputError, match="1 of 4 finished pieces"):
        list(journal.entries(UNITS))


@pytest.mark.parametrize(
    ("problem", "stays"),
    [
        (None, False),
        (DataError("no"), False),
        (OutputError("full"), True),
        (JobError("gone"), True),
        (OSError("full"), True),
        (KeyboardInterrupt(), True),
    ],
)
def test_a_work_folder_stays_where_the_work_can_be_continued(
    tmp_path: Path, problem: BaseException | None, stays: bool
) -> None:
    folder = tmp_path / ".x.work"
    folder.mkdir()
    with (
        pytest.raises(type(problem)) if problem is not None else nullcontext(),
        kept_until_done(folder),
    ):
        if problem is not None:
            raise problem
    assert folder.exists() is stays
    drop(folder)
    assert not list(tmp_path.iterdir())
