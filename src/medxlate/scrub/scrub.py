"""The search for anything that identifies a patient in a folder before it is shared.

``scrub`` looks for every value of the raw data that ``prepare`` kept in the dataset's
``identifiers.json``, in every name, text, header and metadata below a folder. A finding names file,
place and kind, never the value, so that the report can be shared too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from medxlate.artifacts.runs import LATEST, RunFolder, dataset_of, find_run
from medxlate.base.errors import DataError, UsageError
from medxlate.base.events import Listener, counted, silent
from medxlate.base.records import read_object
from medxlate.dataset.identifiers import Identifiers
from medxlate.dataset.index import KEY_FILE, MODALITY_FILE, Dataset
from medxlate.dataset.selection import by_modality, selected
from medxlate.scrub.contents import contents
from medxlate.scrub.needles import Needles
from medxlate.scrub.pieces import Unseen

UNREADABLE = "could not be searched"


@dataclass(frozen=True, order=True)
class Finding:
    """One place that holds an identifying value.

    Attributes:
        file: Relative to the folder. Parts that hold a value themselves are hidden; such a path
            begins with a number, counted in the order of the paths: ``file 3: ***.txt``.
        where: "its name", a line, a column, a text chunk...
        kind: "a date", "an id or name", "a UID", "a path", "the key of the pseudonyms", or
            "could not be searched" where the file's content is not accessible.
    """

    file: str
    where: str
    kind: str


@dataclass(frozen=True)
class ScrubResult:
    """The findings, and what was searched.

    Attributes:
        found: Every place, in the order of the files' paths.
        files: Number of files that were searched.
        values: Number of identifying values that were looked for.
        too_short: Number of values left out: one character, or fewer than 4 digits.
        generic: Number of values left out because they say nothing about a patient ("ANONYMOUS").
    """

    found: list[Finding]
    files: int
    values: int
    too_short: int
    generic: int


def scrub(
    folder: Path | str, *, data: Path | str | None = None, listener: Listener = silent
) -> ScrubResult:
    """Look for the identifying values of a dataset in a folder.

    Args:
        folder: A run, a model folder, or any other folder or file.
        data: The dataset folder; None: the one that the run's config.json names.
        listener: Receives progress.

    Raises:
        UsageError: The folder does not exist, or no dataset is known.
        DataError: The dataset has no list of identifying values, or is not the run's.
    """
    folder = Path(folder)
    if not folder.exists():
        raise UsageError(
            f"{folder} does not exist.", "Give a run, a model folder or any other folder."
        )
    if folder.is_file() and folder.name == LATEST:
        folder = find_run(folder).path
    dataset = Path(data) if data is not None else _dataset_of(folder)
    needles = Needles(_values(dataset), own_path=str(dataset.resolve()), key=_key(dataset))
    found: list[Finding] = []
    files = hidden = 0
    paths = [folder] if not folder.is_dir() else [folder, *sorted(folder.rglob("*"))]
    for path in counted(paths, "files", len(paths), listener):
        name = path.resolve().name if path == folder else _text_of(path.relative_to(folder))
        shown = needles.hidden(name)
        if shown != name:
            hidden += 1
            kind_of_path = "folder" if path.is_dir() and not path.is_symlink() else "file"
            shown = f"{kind_of_path} {hidden}: {shown}"
        places: set[tuple[str, str]] = {
            ("its name", kind) for _, kind in needles.find(name, is_name=True)
        }
        if path.is_symlink():
            target = _text_of(path.readlink())
            places |= {("link target", kind) for _, kind in needles.find(target, is_name=True)}
        elif path.is_file():
            files += 1
            places |= set(_look(path, needles))
        found += [Finding(shown, where, kind) for where, kind in sorted(places, key=_in_order)]
    return ScrubResult(found, files, needles.count, needles.too_short, generic=needles.generic)


def _in_order(place: tuple[str, str]) -> tuple[str, int, str]:
    """Return what sorts places: lines by their number."""
    word, _, number = place[0].rpartition(" ")
    return (word, int(number), place[1]) if number.isdigit() else (place[0], 0, place[1])


def _look(path: Path, needles: Needles) -> Iterator[tuple[str, str]]:
    """Yield place and kind of what is found in a file, and what of it is not looked into."""
    for piece in contents(path, ("latin-1",) if needles.is_ascii else ("latin-1", "utf-8")):
        where = needles.hidden(piece.where)
        if isinstance(piece, Unseen):
            yield f"{where}: {piece.why}", UNREADABLE
            continue
        for line, kind in needles.find(
            piece.text, long_only=piece.long_only, is_name=piece.is_name
        ):
            if piece.line is None:
                yield where, kind
            else:
                yield f"{where.removesuffix('content')}line {piece.line + line}", kind


def _dataset_of(folder: Path) -> Path:
    """Return the dataset that a run, or the run above a model folder, was trained on.

    Raises:
        UsageError: There is no run.
        DataError: The folder holds another dataset, so that the search would be in vain.
    """
    for place in (folder, folder.absolute().parent):
        run = RunFolder(place)
        if run.config.is_file():
            data = read_object(run.config, error=DataError).get("data")
            if not isinstance(data, dict) or not isinstance(data.get("folder"), str):
                break
            dataset = dataset_of(place, data["folder"], levels=2)
            if dataset.is_dir():
                _check_same(run, dataset, data.get("where", ()))
            return dataset
    raise UsageError(f"The dataset that {folder} was made from is unknown.", "Give it with --data.")


def _check_same(run: RunFolder, dataset: Path, expressions: Sequence[str]) -> None:
    """Raise DataError where a run was trained on slices that the dataset does not hold."""
    split = read_object(run.split, error=DataError) if run.split.is_file() else {}
    prints = split.get("slices")
    if not isinstance(prints, dict):
        return
    opened = Dataset(dataset)
    where = by_modality(expressions, list(opened.info.modalities))
    for name, print_ in prints.items():
        held = name in opened.info.modalities
        if held:
            modality = selected(opened.modality(name), where[name], label=opened.info.task.name)
            held = modality.fingerprint() == print_
        if not held:
            raise DataError(
                f"{dataset} is not the dataset that {run.path} was trained on: its {name} differs.",
                "Give the dataset of that training with --data.",
            )


def _values(dataset: Path) -> set[str]:
    modalities = sorted(path.parent for path in dataset.glob(f"*/{MODALITY_FILE}"))
    if not modalities:
        raise DataError(f"{dataset} has no prepared modality.", "Give the dataset with --data.")
    return {value for folder in modalities for value in Identifiers.load(folder).values}


def _key(dataset: Path) -> str:
    path = dataset / KEY_FILE
    return path.read_text(encoding="ascii", errors="replace").strip() if path.is_file() else ""


def _text_of(path: Path) -> str:
    """Return a path as text, even if its bytes are not UTF-8."""
    return path.as_posix().encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
