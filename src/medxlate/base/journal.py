"""What has been done of a work, so that later calls and the processes of a job do what is missing.

A work consists of *units*. Each has a key, and is computed by one of the processes of the job. When
the unit's files are written, a line with their check sums goes into the journal of that process;
from then on the unit is done. So files need no sync of their own: one that a power cut damaged is
made again.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

from medxlate.base.distributed import ranks
from medxlate.base.errors import CapacityError, JobError, MedxlateError, OutputError
from medxlate.base.files import naming_full_disk, sha256

Entry = dict[str, Any]
Note = Callable[["Keyed", Entry, Mapping[str, str]], None]

_SYNC_EVERY = 1.0  # seconds


class Keyed(Protocol):
    """A unit of a work."""

    @property
    def key(self) -> str:
        """What tells the unit from others: a number, or a hash of what it is made from."""


Item = TypeVar("Item", bound=Keyed)


class Journal:
    """The units of a work that are done; all processes of the job open it together.

    Opening it removes what was left of units that were not finished.

    Args:
        folder: Where the journals lie: ``journal-0.jsonl`` and so on, one for each process.
        results: The file or folder that units are written to; it may be missing.
        check: Whether the units' files are checked; not once the results were moved away.
    """

    def __init__(self, folder: Path, results: Path, *, check: bool = True) -> None:
        self._folder = folder
        self._results = results
        self._places: dict[str, tuple[Path, int]] = {}
        team = ranks()
        if team.is_first:
            self._find()
            if check:
                self._drop_unsound()
        self._done = frozenset(team.broadcast(sorted(self._places)))

    def __contains__(self, unit: Keyed) -> bool:
        """Whether a unit was done when the journal was opened, or was noted since then here."""
        return unit.key in self._done or unit.key in self._places

    def missing(self, units: Sequence[Item]) -> Sequence[Item]:
        """Return those of the missing units that are this process's to do."""
        return ranks().shard([unit for unit in units if unit.key not in self._done])

    @contextmanager
    def noting(self) -> Iterator[Note]:
        """Yield a function that notes a finished unit in this process's journal.

        Its arguments are the unit, an entry that JSON can hold, and the SHA-256 of each of the
        unit's files by its name below the results.
        """
        path = self._folder / f"journal-{ranks().rank}.jsonl"
        with naming_full_disk(path), path.open("ab") as stream:
            if _is_cut(path):
                stream.write(b"\n")
            synced = time.monotonic()

            def note(unit: Keyed, entry: Entry, files: Mapping[str, str]) -> None:
                nonlocal synced
                line = json.dumps({**entry, "key": unit.key, "files": files}, allow_nan=True)
                place = stream.tell()
                stream.write(line.encode() + b"\n")
                stream.flush()
                self._places[unit.key] = path, place
                if time.monotonic() - synced > _SYNC_EVERY:
                    os.fsync(stream.fileno())
                    synced = time.monotonic()

            yield note
            stream.flush()
            os.fsync(stream.fileno())

    def entry(self, unit: Keyed) -> Entry:
        """Return what was noted of a unit that is done."""
        entry = self._read(unit.key)
        del entry["files"]  # of a million files, check sums take room
        return entry

    def entries(self, units: Sequence[Keyed]) -> Iterator[Entry]:
        """Wait for the other processes; yield what was noted of all units, in their order.

        Raises:
            OutputError: Some are not there.
        """
        if not ranks().is_alone:
            ranks().barrier()
            self._find()
        if missing := [unit for unit in units if unit.key not in self._places]:
            raise OutputError(
                f"{len(missing)} of {len(units)} finished pieces of work are missing from "
                f"{self._folder}.",
                "Run the command again, with a folder that all processes of the job share.",
            )
        for unit in units:
            yield self.entry(unit)

    def _find(self) -> None:
        """Find the last line of each unit; a line that was cut off does not count."""
        self._places.clear()
        for path in sorted(self._folder.glob("journal-*.jsonl")):
            place = 0
            with path.open("rb") as stream:
                for line in stream:
                    with suppress(ValueError, TypeError, KeyError, RecursionError):
                        entry = json.loads(line)
                        if isinstance(entry["files"], dict):
                            self._places[str(entry["key"])] = path, place
                    place += len(line)

    def _read(self, key: str) -> Entry:
        path, place = self._places[key]
        with path.open("rb") as stream:
            stream.seek(place)
            entry: Entry = json.loads(stream.readline())
        return entry

    def _drop_unsound(self) -> None:
        """Keep only units whose files are as they were noted, and no other file."""
        names: set[str] = set()
        for key in list(self._places):
            files = self._read(key)["files"]
            if all(_is_sound(self._results / name, check) for name, check in files.items()):
                names |= set(files)
            else:
                self._strike_out(key)
        for folder, _, found in os.walk(self._results, topdown=False):
            for path in (Path(folder) / name for name in found):
                if path.relative_to(self._results).as_posix() not in names:
                    path.unlink()
            with suppress(OSError):  # not empty
                os.rmdir(folder)

    def _strike_out(self, key: str) -> None:
        """Make a line unreadable: done again, its unit may be noted in a journal read before it."""
        path, place = self._places.pop(key)
        with path.open("r+b") as stream:
            stream.seek(place)
            stream.write(b"#")


@contextmanager
def kept_until_done(folder: Path) -> Iterator[None]:
    """Remove a work folder when the block succeeds, or refuses its inputs.

    The folder stays, and the next call continues, after an interruption, a full disk, for want of
    memory, or where another process of the job ended.
    """
    try:
        yield
    except (OutputError, CapacityError, JobError):
        raise
    except MedxlateError:
        drop(folder)
        raise
    drop(folder)


def drop(folder: Path) -> None:
    """Remove a work folder at once: a half-removed one would be taken for another's."""
    gone = folder.with_suffix(".done")
    shutil.rmtree(gone, ignore_errors=True)  # of one that was killed here
    with suppress(FileNotFoundError):
        folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _is_sound(path: Path, check: str) -> bool:
    try:
        return sha256(path) == check
    except OSError:
        return False


def _is_cut(path: Path) -> bool:
    """Return whether the last line of a journal is not whole."""
    with path.open("rb") as stream:
        if not stream.seek(0, os.SEEK_END):
            return False
        stream.seek(-1, os.SEEK_END)
        return stream.read() != b"\n"
