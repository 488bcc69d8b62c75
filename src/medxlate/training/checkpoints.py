"""Checkpoints on disk: complete, without pickle, checked, and there whole or not at all."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from medxlate._version import __version__
from medxlate.base.errors import ModelError, OutputError
from medxlate.base.events import Listener, Warned, silent
from medxlate.base.files import check_space, sha256, whole_file, whole_folder, write_json
from medxlate.base.records import read_object
from medxlate.base.tensors import holds, load_tensors, save_tensors
from medxlate.training.state import AVERAGES, TrainingProgress, TrainingState

SCHEMA_VERSION = 2
NETWORKS = "networks.safetensors"
TRAINING = "training.safetensors"
STATE = "state.json"
DURING = 2  # how many of the newest stay during a training, where nothing else is asked for
_POSITION = TypeAdapter(TrainingProgress)
NAME = re.compile(r"step-(\d{6,12})")


def write_checkpoint(folder: Path, snapshot: TrainingState, *, keep: int) -> Path:
    """Write ``folder/step-NNNNNN``, point ``last`` and ``best`` to theirs, drop older ones.

    The files are written aside, flushed to the disk, read back and compared, and renamed at the
    end.

    Args:
        folder: The run's checkpoints.
        snapshot: What is written.
        keep: How many of the newest stay; the best checkpoint of each stays as well.

    Raises:
        OutputError: The disk has no room, or gives back something else than was written.
    """
    check_space(folder, snapshot.bytes)
    position = snapshot.position
    path = folder / _name(position.step)
    with whole_folder(path, marker=STATE, overwrite=True, durable=True) as partial:
        hashes = {}
        for name, tensors in ((NETWORKS, snapshot.networks), (TRAINING, snapshot.training)):
            hashes[name] = save_tensors(partial / name, tensors)
            if not holds(partial / name, tensors):
                raise OutputError(
                    f"{path / name} read back from the disk differs from what was written.",
                    "Check the disk. Earlier checkpoints are kept.",
                )
        record = {
            "schema_version": SCHEMA_VERSION,
            "medxlate": __version__,
            **asdict(position),
            "watch": dict(snapshot.monitor),
            "sha256": hashes,
        }
        write_json(partial / STATE, {**record, "own_sha256": _hash(record)})
    point(folder, position)
    drop_old(folder, keep)
    return path


def point(folder: Path, position: TrainingProgress) -> None:
    """Let ``last`` name the checkpoint of a position, and ``best`` the best one by then."""
    steps = {"best": position.best_step, "last": position.step}
    for pointer, step in steps.items():
        if (folder / _name(step)).is_dir() and _named(folder, pointer) != _name(step):
            with whole_file(folder / pointer) as partial:
                partial.write_text(_name(step) + "\n", encoding="ascii")


def pointed(folder: Path, pointer: str) -> Path | None:
    """Return the checkpoint that ``last`` or ``best`` names, or None."""
    name = _named(folder, pointer)
    return folder / name if NAME.fullmatch(name) and (folder / name).is_dir() else None


def newest_sound(folder: Path, listener: Listener = silent) -> TrainingState | None:
    """Return the newest checkpoint whose hashes hold, None where there is none at all.

    Damaged ones are reported and laid aside; ``last`` and ``best`` then name what is taken. Where
    the best one is damaged it is forgotten. The caller holds the run's lock.

    Args:
        folder: The run's checkpoints.
        listener: Receives a warning for each damaged one.

    Raises:
        ModelError: There are checkpoints, and all of them are damaged.
    """
    damaged: dict[Path, str] = {}
    for path in checkpoints(folder):
        try:
            snapshot = read_checkpoint(path)
        except ModelError as problem:
            damaged[path] = str(problem)
            continue
        for each, problem_text in damaged.items():
            listener(Warned(f"{problem_text} Using the previous checkpoint."))
            _lay_aside(each)
        position = _with_sound_best(folder, snapshot.position, listener)
        point(folder, position)
        return replace(snapshot, position=position)
    if damaged:
        raise ModelError(
            f"All checkpoints in {folder} are damaged. {next(iter(damaged.values()))}",
            f"Restore one from a backup, or delete {folder} and start again.",
        )
    return None


def _lay_aside(path: Path) -> None:
    """Rename a damaged checkpoint, so that nobody counts or overwrites it; one stays."""
    for older in path.parent.glob("damaged-*"):
        shutil.rmtree(older, ignore_errors=True)
    path.rename(path.with_name(f"damaged-{path.name}"))


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, the newest first."""
    found = {int(m[1]): path for path in folder.glob("step-*") if (m := NAME.fullmatch(path.name))}
    return [found[step] for step in sorted(found, reverse=True)]


def checkpoint_at(folder: Path, step: int) -> Path:
    """Return the place of a step's checkpoint."""
    return folder / _name(step)


def read_checkpoint(path: Path) -> TrainingState:
    """Read a checkpoint, its hashes checked.

    Raises:
        ModelError: It is damaged or of another version.
    """
    state = _state(path)
    position = _position(path, state)
    if path.name != _name(position.step):
        raise ModelError(f"{path / STATE} is damaged: it belongs to step {position.step}.")
    return TrainingState(
        position,
        _load(path, NETWORKS, state),
        _load(path, TRAINING, state),
        state["watch"] if isinstance(state.get("watch"), dict) else {},
    )


def last_position(folder: Path) -> TrainingProgress:
    """Return where the training stands whose checkpoints lie in ``folder``.

    Raises:
        ModelError: The last checkpoint is damaged.
    """
    found = checkpoints(folder)
    return _position(found[0], _state(found[0])) if found else TrainingProgress()


def load_part(checkpoint: Path, prefix: str) -> dict[str, Tensor]:
    """Return the weights of one network of a checkpoint, such as ``predictor.``, without prefix."""
    networks = _load(checkpoint, NETWORKS, _state(checkpoint))
    return {k.removeprefix(prefix): v for k, v in networks.items() if k.startswith(prefix)}


def load_translation(checkpoint: Path, source: str, side: Literal["g", "f"]) -> dict[str, Tensor]:
    """Return the weights of G or F of a source: their average, where the training keeps one."""
    found = load_part(checkpoint, f"{source}.{side}.")
    training = _load(checkpoint, TRAINING, _state(checkpoint))
    prefix = f"{AVERAGES}.{source}.{side}."
    kept = {k.removeprefix(prefix): v for k, v in training.items() if k.startswith(prefix)}
    return found | kept


def _with_sound_best(
    folder: Path, position: TrainingProgress, listener: Listener
) -> TrainingProgress:
    """Return the position, without its best checkpoint where that is damaged or gone."""
    best = folder / _name(position.best_step)
    if not position.best_step or position.best_step == position.step:
        return position
    try:
        _checked(best, NETWORKS, _state(best))
    except ModelError as problem:
        listener(
            Warned(
                f"{problem} It was the best one; the best from step {position.step} on will be "
                "kept instead."
            )
        )
        if best.is_dir():
            _lay_aside(best)
        (folder / "best").unlink(missing_ok=True)
        return replace(position, best_error=None, best_step=0)
    return position


def drop_old(folder: Path, keep: int) -> None:
    """Remove all but the newest and the best of each of these, as they say themselves.

    Args:
        folder: The run's checkpoints.
        keep: How many of the newest stay.
    """
    found = checkpoints(folder)
    stay = set(found[:keep])
    for path in found[:keep]:
        try:
            stay.add(folder / _name(_position(path, _state(path)).best_step))
        except ModelError:  # a damaged one names none
            continue
    for path in set(found) - stay:
        shutil.rmtree(path, ignore_errors=True)


def _name(step: int) -> str:
    return f"step-{step:06d}"


def _named(folder: Path, pointer: str) -> str:
    try:
        return (folder / pointer).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _state(checkpoint: Path) -> Mapping[str, Any]:
    path = checkpoint / STATE
    state = read_object(path, error=ModelError)
    if state.get("schema_version") != SCHEMA_VERSION:
        raise ModelError(
            f"{path} has schema version {state.get('schema_version')}; this medxlate reads "
            f"{SCHEMA_VERSION}.",
            "Continue the run with the version of medxlate that started it.",
        )
    if state.pop("own_sha256", None) != _hash(state):
        raise ModelError(f"{path} is damaged: its SHA-256 does not match the recorded one.")
    return state


def _hash(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _position(checkpoint: Path, state: Mapping[str, Any]) -> TrainingProgress:
    try:
        values = {key: state[key] for key in TrainingProgress.__dataclass_fields__}
        return _POSITION.validate_json(json.dumps(values), strict=True)
    except KeyError as problem:
        raise ModelError(f"{checkpoint / STATE} is damaged: {problem} is missing.") from None
    except ValidationError as problem:
        first = problem.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ModelError(f"{checkpoint / STATE} is damaged: {key}: {first['msg']}.") from None


def _load(checkpoint: Path, file: str, state: Mapping[str, Any]) -> dict[str, Tensor]:
    return load_tensors(checkpoint / file, expected=_expected(checkpoint, file, state))


def _checked(checkpoint: Path, file: str, state: Mapping[str, Any]) -> None:
    """Raise ModelError unless a file has its recorded hash."""
    path = checkpoint / file
    if not path.is_file() or sha256(path) != _expected(checkpoint, file, state):
        raise ModelError(f"{path} is damaged: its SHA-256 does not match the recorded one.")


def _expected(checkpoint: Path, file: str, state: Mapping[str, Any]) -> str:
    try:
        return str(state["sha256"][file])
    except (KeyError, TypeError):
        raise ModelError(
            f"{checkpoint / STATE} is damaged: the hash of {file} is missing."
        ) from None
