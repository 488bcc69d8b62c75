"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from filelock import lock_descriptor

from medxlate.base.errors import OutputError

FULL = (errno.ENOSPC, errno.EDQUOT)  # what the system says where no space is left
SPARE_BYTES = 1 << 20  # beside what is written: names, small files


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; it replaces ``path`` when the block succeeds."""
    with _parents(path), _naming(path):
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
        os.close(handle)
        partial = Path(name)
        try:
            yield partial
            _flush(partial)
            make_ordinary(partial)  # mkstemp made it private
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(
    path: Path, *, marker: str, overwrite: bool = False, durable: bool = False
) -> Iterator[Path]:
    """Yield a new folder beside ``path``; it becomes ``path`` when the block succeeds.

    Args:
        path: The folder to make.
        marker: A file that every folder of this kind holds; only such a folder is overwritten.
        overwrite: Whether an existing folder of this kind may be replaced.
        durable: Whether its files are to survive a machine that fails the moment after.

    Raises:
        OutputError: ``path`` exists, is not an empty folder, and may not be replaced.
    """
    check_free(path, marker=marker, overwrite=overwrite)
    with _parents(path), _naming(path):
        partial = Path(
            tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent.resolve())
        )
        try:
            yield partial
            if durable:
                for inside in [*partial.iterdir(), partial]:
                    _flush(inside)
            partial.chmod(0o777 & ~UMASK)
            _replace_folder(partial, path)
            if durable:
                _flush(path.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _parents(path: Path) -> Iterator[None]:
    """Make the folders above ``path``; those that stay empty are removed again."""
    check_parents(path)
    new = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with suppress(OSError):  # something was made in them
            for parent in new:
                parent.rmdir()


def make_ordinary(path: Path) -> None:
    """Let those read and write a file who may do so with every new file (the umask)."""
    path.chmod(0o666 & ~UMASK)


def check_parents(path: Path) -> None:
    """Raise OutputError where a folder above ``path`` is a file."""
    for parent in path.parents:
        if parent.is_file():
            raise OutputError(
                f"{parent} is a file, not a folder.", "Choose a path inside a folder."
            )


def final_name(path: Path | str) -> str:
    """Return the path as it will be called when what is being written is whole."""
    return re.sub(r"(^|/)\.([^/]+)\.[^./]+\.partial(?=/|$)", r"\1\2", str(path))


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Name the file where a library reports a failed write without its cause, or without its place.

    Numpy and pillow raise a bare OSError when the disk is full; others carry their cause.

    Raises:
        OutputError: Such a failure.
        OSError: One with its cause; its ``filename`` is the file, where it had none.
    """
    try:
        with _naming(path):
            yield
    except OSError as problem:
        if problem.errno is not None:
            raise
        raise OutputError(
            f"{final_name(path)} cannot be written: {problem}.",
            "Check the free space on the disk.",
        ) from None


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Give what a full disk raises the name of what was being written, where it has none."""
    try:
        yield
    except OSError as problem:
        if problem.errno in FULL and problem.filename is None:
            problem.filename = str(path)
        raise


def check_space(folder: Path, needed: int) -> None:
    """Raise OutputError where the disk of a folder has no room for as many bytes."""
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(there).free
    if free < needed + SPARE_BYTES:
        raise OutputError(
            f"{folder} needs {needed / 1e6:.0f} MB, but only {free / 1e6:.0f} MB are free on its "
            "disk.",
            "Free some space and run the command again.",
        )


def check_free(path: Path, *, marker: str, overwrite: bool = False) -> None:
    """Raise OutputError where ``path`` already holds something that may not be replaced."""
    check_parents(path)
    if path.is_file():
        raise OutputError(
            f"{path} is a file, not a folder.", "Choose a folder that does not exist yet."
        )
    if not path.is_dir() or not any(path.iterdir()):
        return
    if not overwrite:
        raise OutputError(
            f"The folder {path} exists and is not empty.",
            "Choose another one, or replace it with --overwrite.",
        )
    if not (path / marker).is_file():
        raise OutputError(
            f"The folder {path} was not written by medxlate (it has no {marker}) and is not "
            "overwritten.",
            "Choose another folder.",
        )


def _replace_folder(new: Path, path: Path) -> None:
    """Put ``new`` in the place of ``path``; the old one goes only when the new one stands."""
    if not path.exists():
        new.rename(path)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent.resolve()))
    path.rename(old / path.name)
    try:
        new.rename(path)
    except BaseException:
        (old / path.name).rename(path)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a lock file while the block runs; it is free again however the process ends.

    The operating system keeps the lock, so it holds for all processes of this machine; over NFS
    (Linux) and SMB also for those of others. On a file system without locks, the block runs as if
    nobody else wrote.

    Args:
        path: The lock file; it is made and removed.
        wait: Whether to wait where another process holds it.

    Raises:
        OutputError: Another process holds it.
    """
    with _parents(path):
        stream = path.open("a")
        while not _lock(stream, path, wait=wait):
            stream.close()
            stream = path.open("a")
        try:
            yield
        finally:
            if os.name == "nt":  # where no file that is open can be removed
                stream.close()
            with suppress(PermissionError):
                path.unlink(missing_ok=True)
            stream.close()


def is_locked(path: Path) -> bool:
    """Return whether a process holds a lock file; False on a file system without locks."""
    try:
        # Over NFS, only a file that may be written can be locked.
        with path.open("r+b" if os.access(path, os.W_OK) else "rb") as stream:
            return not lock_descriptor(stream.fileno(), blocking=False)
    except OSError:  # there is none, or it was removed just now
        return False


def _lock(stream: IO[str], path: Path, *, wait: bool) -> bool:
    """Lock an open file; return False where it is no longer the one at ``path``."""
    try:
        if not lock_descriptor(stream.fileno(), blocking=wait):
            stream.close()
            raise OutputError(
                f"Another medxlate process is writing to {path.parent} (it holds {path.name}).",
                "Wait until it has finished.",
            )
    except OSError:  # a file system without locks
        return True
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    return False


def remove_stale(folder: Path, name: str = "*") -> None:
    """Remove what was left where ``folder / name`` was being written; call it under a lock.

    A folder that was moved aside is put back where its place is still empty.

    Args:
        folder: Where it lies.
        name: A name, or a pattern of names.
    """
    for old in folder.glob(f".{name}.*.old"):
        for kept in old.iterdir():
            if not (folder / kept.name).exists():
                kept.rename(folder / kept.name)
    for suffix in ("partial", "old"):
        for left in folder.glob(f".{name}.*.{suffix}"):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def sha256(path: Path) -> str:
    """Return the file's SHA-256 as 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """Wait until a file, or a folder's list of files, is on the disk."""
    if path.is_dir() and os.name == "nt":  # cannot be opened there
        return
    opened = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _read_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


UMASK = _read_umask()  # once: reading it changes it for a moment, also for other threads
