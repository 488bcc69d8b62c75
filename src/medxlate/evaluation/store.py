"""Features of images, kept on disk under what they were computed from.

A folder holds one folder for each extractor, named after a hash of its weights and of all else
that its features depend on; in it lie pieces of up to 1024 rows: ``<name>.npy``, the features, and
``<name>.json``, the hash of each row's image and a check sum of the row. A piece is written once,
under a name of its own, and never changed, so that processes need not wait for each other; one that
computed the same images at the same time merely stored them twice.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from medxlate.base.errors import DataError, OutputError
from medxlate.base.events import Listener, Warned, silent
from medxlate.base.files import naming_full_disk, whole_file, write_json
from medxlate.base.records import read_json
from medxlate.dataset.arrays import open_array

Rows = npt.NDArray[np.float32]
FOLDER = ".features"  # in a dataset folder: all runs on a dataset have their real images in common
_PIECE = 1024  # rows
_DAMAGED = (OSError, ValueError, IndexError, EOFError)
_RECENT = 3600  # seconds; another process may still be reading what was used since


class FeatureStore:
    """The features that one extractor gave; a context that writes what is new when it ends.

    Args:
        folder: Where features are kept; None, or a folder that cannot be written: a temporary one
            that goes when the context ends.
        extractor: What the features depend on beside the image, such as ``weights``.
        largest: Bytes that all extractors' features may take; what was not used for the longest
            time goes first, but nothing that was used in the last hour.
        listener: Warned of damaged files, and where nothing can be kept.
    """

    def __init__(
        self,
        folder: Path | None,
        extractor: Mapping[str, str],
        *,
        largest: int = 2 * 2**30,
        listener: Listener = silent,
    ) -> None:
        facts = json.dumps(extractor, sort_keys=True)
        self._name = hashlib.sha256(facts.encode()).hexdigest()[:32]
        self._root = folder
        self._temporary: Path | None = None
        self._largest = largest
        self._listener = listener
        self._places: dict[bytes, tuple[Path, int]] = {}
        self._checks: dict[bytes, bytes] = {}
        self._waiting: dict[bytes, int] = {}  # their rows in the next piece
        self._block: Rows | None = None
        self._damaged: set[Path] = set()

    def __enter__(self) -> Self:
        if self._root is None:
            self._use_temporary()
        for index in sorted(self.folder.glob("*.json")):
            self._read_index(index)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._write()
            for piece in self._damaged:
                _remove(piece)
            if self._root is not None:
                _prune(self._root, self._largest)
        finally:
            if self._temporary is not None:
                shutil.rmtree(self._temporary, ignore_errors=True)

    def features(
        self, images: Iterable[Tensor], compute: Callable[[Tensor], Tensor]
    ) -> StoredFeatures:
        """Return the features of images; only those of unknown images are computed.

        Args:
            images: Batches uint8 [B, C, S, S].
            compute: From such a batch to its features, float32 [B, D] on the CPU.
        """
        keys: list[bytes] = []
        for batch in images:
            names = [image_key(image) for image in batch]
            known = self._find(names)
            new = {name: i for i, name in enumerate(names) if name not in known}
            if new:
                unknown = batch if len(new) == len(batch) else batch[list(new.values())]
                self._keep(list(new), compute(unknown).numpy())
            keys += names
        return StoredFeatures(self, keys)

    def rows(self, names: Sequence[bytes]) -> Rows:
        """Return the rows [N, D] of images whose features were taken in this context.

        Raises:
            DataError: Another program took them away meanwhile.
        """
        self._write()
        places = [self._places[name] for name in names]
        numbers: dict[Path, list[int]] = {}
        for i, (piece, _) in enumerate(places):
            numbers.setdefault(piece, []).append(i)
        found: Rows | None = None
        for piece, wanted in numbers.items():
            try:
                rows = _read_rows(piece, [places[i][1] for i in wanted])
            except _DAMAGED as problem:
                raise DataError(
                    f"{piece} changed while it was in use: {problem}.", "Evaluate again."
                ) from None
            if found is None:
                found = np.empty((len(names), rows.shape[1]), dtype=np.float32)
            found[wanted] = rows
        assert found is not None, "no images"
        return found

    def flush(self) -> None:
        """Write what waits, so that other processes can read it."""
        self._write()

    def look_again(self, names: Sequence[bytes]) -> int:
        """Look for pieces of other processes; return how many of the images are still unknown."""
        for index in sorted(self.folder.glob("*.json")):
            self._read_index(index)
        return sum(name not in self._places for name in set(names))

    @property
    def folder(self) -> Path:
        """Where the features lie."""
        root = self._temporary or self._root
        assert root is not None
        return root / self._name

    def _find(self, names: Sequence[bytes]) -> set[bytes]:
        """Return which images have sound features."""
        known = {name for name in names if name in self._waiting}
        numbers: dict[Path, list[bytes]] = {}
        for name in set(names) - known:
            if name in self._places:
                numbers.setdefault(self._places[name][0], []).append(name)
        for piece, wanted in numbers.items():
            try:
                rows = _read_rows(piece, [self._places[name][1] for name in wanted])
                piece.touch()  # it was used
            except FileNotFoundError:  # another process made room
                continue
            except _DAMAGED:
                self._note_damage(piece)
                continue
            pairs = zip(wanted, rows, strict=True)
            sound = {name for name, row in pairs if _check(name, row) == self._checks[name]}
            if len(sound) < len(wanted):
                self._note_damage(piece)
            known |= sound
        return known

    def _keep(self, names: Sequence[bytes], rows: Rows) -> None:
        """Let rows wait until they fill a piece."""
        if self._block is None:  # one block: many small arrays would leave holes in memory
            self._block = np.empty((_PIECE, rows.shape[1]), dtype=np.float32)
        for name, row in zip(names, rows, strict=True):
            self._block[len(self._waiting)] = row
            self._waiting[name] = len(self._waiting)
            if len(self._waiting) == _PIECE:
                self._write()

    def _write(self) -> None:
        """Write what waits as a piece."""
        if not self._waiting or self._block is None:
            return
        rows = self._block[: len(self._waiting)]
        try:
            piece = self._write_piece(rows)
        except (OSError, OutputError) as problem:
            if self._temporary is not None:
                raise
            self._listener(
                Warned(f"{self._root} cannot keep features for the next time: {problem}")
            )
            self._use_temporary()
            piece = self._write_piece(rows)
        self._places.update({name: (piece, i) for name, i in self._waiting.items()})
        self._waiting = {}

    def _write_piece(self, rows: Rows) -> Path:
        piece = self.folder / f"{secrets.token_hex(8)}.npy"
        with whole_file(piece) as partial, naming_full_disk(piece), partial.open("wb") as stream:
            np.save(stream, rows, allow_pickle=False)
        checks = {name: _check(name, row) for name, row in zip(self._waiting, rows, strict=True)}
        # Last: a piece without an index is not looked at.
        write_json(
            piece.with_suffix(".json"),
            {
                "images": [name.hex() for name in checks],
                "checks": [check.hex() for check in checks.values()],
            },
        )
        self._checks.update(checks)
        return piece

    def _read_index(self, index: Path) -> None:
        piece = index.with_suffix(".npy")
        try:
            found = read_json(index, error=DataError)
            images = [bytes.fromhex(name) for name in found["images"]]
            checks = [bytes.fromhex(check) for check in found["checks"]]
            pairs = list(zip(images, checks, strict=True))
        except (DataError, KeyError, TypeError, ValueError):
            if index.exists():  # else another process made room
                self._note_damage(piece)
            return
        for i, (name, check) in enumerate(pairs):
            self._places[name], self._checks[name] = (piece, i), check

    def _note_damage(self, piece: Path) -> None:
        """Say that a piece is damaged; it goes at the end, for its sound rows may be in use."""
        if piece not in self._damaged:
            self._listener(Warned(f"{piece} is damaged; its features are computed again."))
            self._damaged.add(piece)

    def _use_temporary(self) -> None:
        self._temporary = Path(tempfile.mkdtemp(prefix="medxlate-features-"))


class StoredFeatures:
    """The features [N, D] of a set of images, read from disk when they are asked for.

    Args:
        store: Where they lie.
        names: The images' keys.

    Attributes:
        names: As given.
    """

    def __init__(self, store: FeatureStore, names: Sequence[bytes]) -> None:
        self._store = store
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def rows(self, positions: Iterable[int]) -> Rows:
        """Return the rows at some positions."""
        return self._store.rows([self.names[i] for i in positions])


def image_key(image: Tensor) -> bytes:
    """Return the SHA-256 of an image's shape and bytes; grey as three channels is hashed once."""
    digest = hashlib.sha256(repr(tuple(image.shape)).encode())
    plain = image[:1] if image.stride(0) == 0 else image
    digest.update(plain.cpu().numpy().tobytes())
    return digest.digest()


def network_key(network: nn.Module) -> str:
    """Return a hash of a network's layers and weights."""
    digest = hashlib.sha256(str(network).encode())
    for name, tensor in sorted(network.state_dict().items()):
        plain = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(plain.view(torch.uint8).numpy())
    return digest.hexdigest()


def _read_rows(piece: Path, numbers: Sequence[int]) -> Rows:
    """Map a piece for this read only; a standing map would count as resident memory."""
    mapped = open_array(piece)
    if mapped.dtype != np.float32 or mapped.ndim != 2:
        raise ValueError("no rows of float32")
    rows: Rows = np.array(mapped[list(numbers)])
    return rows


def _check(name: bytes, row: npt.NDArray[Any]) -> bytes:
    return hashlib.blake2b(row.tobytes(), digest_size=8, key=name).digest()


def _prune(root: Path, largest: int) -> None:
    """Remove pieces that were not used for long while all together are larger than allowed."""
    now = time.time()
    pieces = []
    for path in [*root.glob("*/*.npy"), *root.glob("*/.*.partial")]:
        with suppress(OSError):  # another process was quicker
            facts = path.stat()
            pieces.append((facts.st_mtime, facts.st_size, path))
    total = sum(size for _, size, _ in pieces)
    for used, size, path in sorted(pieces):
        abandoned = path.suffix == ".partial"  # by a process that was killed
        if now - used > _RECENT and (total > largest or abandoned):
            _remove(path)
            total -= size


def _remove(piece: Path) -> None:
    with suppress(OSError):
        piece.with_suffix(".json").unlink(missing_ok=True)
        piece.unlink(missing_ok=True)
