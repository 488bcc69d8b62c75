"""State dicts of other code, read without running anything that is in them.

``torch.save`` writes pickles, which can run code when they are loaded. They are read here
with torch's unpickler that knows tensors and plain containers and refuses everything else.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch
from torch import Tensor

from medxlate.base.errors import ModelError

LARGEST = 4 * 2**30  # bytes; the paper's generator takes 45 MB

_SAVE_AGAIN = "Save only the weights, with torch.save(net.state_dict(), FILE)."


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read what ``torch.save(net.state_dict(), path)`` wrote, in its old format or the new one.

    Args:
        path: The file; it must stay as long as the tensors, which may be mapped from it.

    Raises:
        ModelError: The file is missing, too large, damaged, or holds anything but named tensors.
    """
    size = _size(path)
    zipped = zipfile.is_zipfile(path)
    if zipped:
        _check_archive(path, size)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as problem:  # a damaged pickle raises errors of any kind
        if "weights_only" in str(problem) or "Unsupported" in str(problem):
            reason = "it contains more than tensors, and loading it could run code"
        else:
            reason = "it is damaged, or torch.save did not write it"
        raise ModelError(f"{path} was not loaded: {reason}.", _SAVE_AGAIN) from None
    if not isinstance(found, dict) or not found or not all(map(_is_entry, found.items())):
        raise ModelError(f"{path} contains no named tensors.", _SAVE_AGAIN)
    # A pickle may make a large tensor from few bytes, by a stride of 0.
    if sum(tensor.numel() * tensor.element_size() for tensor in found.values()) > size:
        raise ModelError(f"{path} is damaged: it claims tensors larger than itself.")
    return dict(found)


def _is_entry(entry: tuple[object, object]) -> bool:
    name, value = entry
    return isinstance(name, str) and isinstance(value, Tensor) and value.layout == torch.strided


def _size(path: Path) -> int:
    """Return the file's size in bytes, where it may be read."""
    if not path.is_file():
        raise ModelError(f"{path} {'is not a file' if path.exists() else 'does not exist'}.")
    size = path.stat().st_size
    if size > LARGEST:
        raise ModelError(
            f"{path} has {size / 2**30:.1f} GiB, too much for a generator (at most "
            f"{LARGEST / 2**30:g} GiB)."
        )
    return size


def _check_archive(path: Path, size: int) -> None:
    """Refuse an archive that grows when it is read; torch.save never compresses."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError):
        entries = []
    stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    if not entries or not stored or sum(entry.file_size for entry in entries) > size:
        raise ModelError(
            f"{path} was not loaded: it is damaged, or torch.save did not write it.", _SAVE_AGAIN
        )
