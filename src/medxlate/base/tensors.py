"""Tensors on disk: safetensors, checked by their hash; all are written and read here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from medxlate.base.errors import ModelError, OutputError
from medxlate.base.files import final_name, make_ordinary, sha256

_PIECE = 1 << 20  # bytes that are compared at once


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write named tensors and return the file's SHA-256.

    Raises:
        OutputError: They cannot be written; usually the disk is full.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(plain, path)
        make_ordinary(path)  # safetensors writes files for their owner alone
    except SafetensorError as problem:  # carries the system's error as text alone
        raise OutputError(
            f"{final_name(path)} cannot be written: {problem}.",
            "Check the free space on the disk.",
        ) from None
    return sha256(path)


def load_tensors(path: Path, *, expected: str | None = None, hint: str = "") -> dict[str, Tensor]:
    """Read named tensors.

    Args:
        path: The file.
        expected: Its SHA-256; None: not checked.
        hint: What to do where it is missing or damaged.

    Raises:
        ModelError: The file is missing, changed or damaged.
    """
    if not path.is_file():
        raise ModelError(f"{path} is missing.", hint)
    if expected is not None and sha256(path) != expected:
        raise ModelError(f"{path} is damaged: its SHA-256 does not match the recorded one.", hint)
    try:
        return dict(load_file(path))
    except (OSError, RuntimeError, SafetensorError) as problem:  # torch's own, of odd shapes
        raise ModelError(f"{path} cannot be read as safetensors: {problem}.", hint) from None


def holds(path: Path, tensors: Mapping[str, Tensor]) -> bool:
    """Return whether a file holds these tensors, bit by bit; it is mapped, not loaded."""
    with safe_open(path, framework="pt") as stored:
        return set(stored.keys()) == set(tensors) and all(
            same_bits(stored.get_tensor(name), tensor) for name, tensor in tensors.items()
        )


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are the same in shape, type and every bit."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    # By numpy, in pieces: torch would start threads of its own beside a training's.
    ours, theirs = (
        np.ascontiguousarray(each.detach().cpu().numpy()).reshape(-1).view(np.uint8)
        for each in (one, other)
    )
    return all(
        np.array_equal(ours[at : at + _PIECE], theirs[at : at + _PIECE])
        for at in range(0, len(ours), _PIECE)
    )
