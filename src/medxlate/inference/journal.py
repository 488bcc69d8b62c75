"""What was finished of a translation or prediction, so that a killed one can be continued.

Beside the result ``OUT`` lies, as long as it is being made, the folder ``.OUT.work`` that only its
owner may read. It holds ``work.json`` (a hash of all that the result depends on, and what was drawn
once), the unfinished result ``out``, and a journal for each process of the job: a line of JSON a
finished unit. Nothing is taken from it that was made from something else.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from medxlate._version import __version__
from medxlate.base.distributed import ranks
from medxlate.base.errors import CapacityError, JobError, MedxlateError, OutputError
from medxlate.base.events import Listener, Stage, Warned
from medxlate.base.files import check_parents, locked, naming_full_disk, sha256
from medxlate.dataset.parts import state_of
from medxlate.images.scan import Scan
from medxlate.inference.units import Unit

Entry = dict[str, Any]

_STATE = "work.json"
_OUT = "out"
_OLD = "old"  # what the result replaces, for the moment between two renames
_PLACING = "placing"  # from then on the result may stand in its place
_SYNC_EVERY = 1.0  # seconds


def work_folder(place: Path) -> Path:
    """Return where lies what was finished of a result."""
    return place.with_name(f".{place.name}.work")


def stamp(facts: Mapping[str, Any], scans: Sequence[Scan]) -> str:
    """Return a hash of what a result depends on.

    Args:
        facts: Model, options...: what JSON can hold.
        scans: The inputs; their files count by name, size and time of change.
    """
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    digest.update(f"{__version__} {torch.__version__}".encode())
    for scan in scans:
        files = [(file.relative, *state_of(file)) for file in scan.files]
        digest.update(json.dumps([scan.name, files, dict(scan.tags)]).encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class Work:
    """A result that is being made, maybe for the second time.

    Attributes:
        place: Where it goes.
        drawn: What was drawn or measured once, when it was begun.
        done: The units that are finished.
        placed: Whether the result stands in its place: the process was killed after that.
    """

    place: Path
    drawn: Mapping[str, Any]
    done: Collection[int]
    placed: bool

    @property
    def out(self) -> Path:
        """The unfinished result: a file or a folder."""
        return work_folder(self.place) / _OUT

    def missing(self, units: Sequence[Unit]) -> Sequence[Unit]:
        """Return those of the missing units that are this process's to do."""
        return ranks().shard([unit for unit in units if unit.number not in self.done])

    def entries(self, units: Sequence[Unit]) -> list[Entry]:
        """Wait for the other processes; return the entries of all units, in their order.

        Raises:
            OutputError: Some are not there.
        """
        ranks().barrier()
        found = _entries(work_folder(self.place), checks=False)
        if missing := [unit.number for unit in units if unit.number not in found]:
            raise OutputError(
                f"{work_folder(self.place)} lacks {len(missing)} of {len(units)} units that were "
                "finished.",
                "Run it again; the processes of a job need one folder in common.",
            )
        return [found[unit.number] for unit in units]

    def put(self) -> None:
        """Put the result into its place, where it replaces another one."""
        folder = work_folder(self.place)
        (folder / _PLACING).touch()
        if self.out.is_dir() and self.place.exists():
            self.place.rename(folder / _OLD)
        self.out.replace(self.place)


@contextmanager
def working(
    place: Path, made_from: str, draw: Callable[[], dict[str, Any]], listener: Listener
) -> Iterator[Work]:
    """Begin or continue a result; the folder beside it goes when the block succeeds.

    It also goes where the block refuses the inputs. It stays, and the next call continues, after an
    interruption, a full disk, or for want of memory.

    Args:
        place: The file or folder that is being made.
        made_from: Its ``stamp``.
        draw: Draws or measures what has to stay the same in a continued run; what JSON can hold.
            What it refuses leaves everything as it was.
        listener: Receives a warning where what was left is of no use.

    Raises:
        OutputError: Another process is making the same.
    """
    team, folder = ranks(), work_folder(place)
    with ExitStack() as stack:
        begun: dict[str, Any] | None = None
        if team.is_first:
            check_parents(place)
            stack.enter_context(locked(place.with_name(f".{place.name}.lock")))
            begun = _begin(place, made_from, draw, listener)
        begun = cast(dict[str, Any], team.broadcast(begun))
        if begun["made_from"] != made_from:
            raise OutputError("The inputs changed while the processes began.", "Run it again.")
        try:
            yield Work(place, begun["drawn"], frozenset(begun["done"]), begun["placed"])
            team.barrier()
        except (OutputError, CapacityError, JobError):
            raise
        except MedxlateError:
            if team.is_first:
                _drop(folder)
            raise
        if team.is_first:
            _drop(folder)
        team.barrier()


def _drop(folder: Path) -> None:
    """Remove a work folder at once: a half-removed one would be taken for another's."""
    gone = folder.with_suffix(".done")
    shutil.rmtree(gone, ignore_errors=True)  # of one that was killed here
    with suppress(FileNotFoundError):
        folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def tell_stage(text: str, work: Work, units: Sequence[Unit], listener: Listener) -> None:
    """Tell what begins; how much of it was done before, and how many processes share it."""
    if before := sum(unit.slices for unit in units if unit.number in work.done):
        text += f"; {before} were done before"
    if not ranks().is_alone:
        text += f"; {ranks().count} processes share them"
    listener(Stage(text))


@contextmanager
def journal(work: Work) -> Iterator[Callable[[Unit, Entry], None]]:
    """Yield a function that notes a finished unit in this process's journal.

    ``files`` of an entry names the unit's files below ``out``; their check sums are noted as well,
    so that one that a power cut damaged is made again.
    """
    path = work_folder(work.place) / f"journal-{ranks().rank}.jsonl"
    with naming_full_disk(path), path.open("ab") as stream:
        if _is_cut(path):
            stream.write(b"\n")
        synced = time.monotonic()

        def note(unit: Unit, entry: Entry) -> None:
            nonlocal synced
            sums = {name: sha256(work.out / name) for name in entry.get("files", ())}
            line = json.dumps({**entry, "unit": unit.number, "files": sums}, allow_nan=True)
            stream.write(line.encode() + b"\n")
            stream.flush()
            if time.monotonic() - synced > _SYNC_EVERY:
                os.fsync(stream.fileno())
                synced = time.monotonic()

        yield note
        _sync(stream)


def _begin(
    place: Path, made_from: str, draw: Callable[[], dict[str, Any]], listener: Listener
) -> dict[str, Any]:
    """Return what the folder says, or make a new one."""
    folder = work_folder(place)
    if (folder / _OLD).exists() and not place.exists():
        (folder / _OLD).rename(place)
    state = _read_state(folder)
    if state is None or state["made_from"] != made_from:
        drawn = draw()
        if state is not None:
            listener(
                Warned(
                    f"What was left of {place} was made from other images, another model or other "
                    "options; it begins anew."
                )
            )
        shutil.rmtree(folder, ignore_errors=True)
        state = {"made_from": made_from, "drawn": drawn}
        folder.mkdir(mode=0o700)
        _write_state(folder, state)
    placed = (folder / _PLACING).exists() and not (folder / _OUT).exists() and place.exists()
    done = _entries(folder)
    if not placed:
        (folder / _PLACING).unlink(missing_ok=True)
        done = {number: entry for number, entry in done.items() if _is_sound(entry, folder / _OUT)}
        _remove_others(folder / _OUT, {name for entry in done.values() for name in entry["files"]})
    return {**state, "done": sorted(done), "placed": placed}


def _entries(folder: Path, *, checks: bool = True) -> dict[int, Entry]:
    """Return what the journals say, by unit; a line that was cut off does not count.

    Args:
        folder: The work folder.
        checks: Whether the files' check sums are wanted: of a million files they take room.
    """
    found: dict[int, Entry] = {}
    for path in sorted(folder.glob("journal-*.jsonl")):
        with path.open(encoding="utf-8", errors="replace") as stream:
            for line in stream:
                with suppress(ValueError, TypeError, KeyError):
                    entry = json.loads(line)
                    if not checks:
                        del entry["files"]
                    found[int(entry["unit"])] = entry
    return found


def _is_sound(entry: Entry, out: Path) -> bool:
    try:
        return all(sha256(out / name) == check for name, check in entry["files"].items())
    except OSError:
        return False


def _remove_others(out: Path, names: Collection[str]) -> None:
    """Remove what an unfinished unit left."""
    for folder, _, files in os.walk(out, topdown=False):
        for path in (Path(folder) / name for name in files):
            if path.relative_to(out).as_posix() not in names:
                path.unlink()
        with suppress(OSError):  # not empty
            os.rmdir(folder)


def _read_state(folder: Path) -> dict[str, Any] | None:
    """Return the content of work.json; None where it was not even begun."""
    try:
        state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(state, dict) and {"made_from", "drawn"} <= set(state)
    return state if whole else None


def _write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write work.json, which holds a secret, whole or not at all."""
    partial = folder / f"{_STATE}.partial"
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as stream:
        stream.write(json.dumps(state).encode())
        _sync(stream)
    partial.replace(folder / _STATE)


def _is_cut(path: Path) -> bool:
    """Return whether the last line of a journal is not whole."""
    with path.open("rb") as stream:
        if not stream.seek(0, os.SEEK_END):
            return False
        stream.seek(-1, os.SEEK_END)
        return stream.read() != b"\n"


def _sync(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())
