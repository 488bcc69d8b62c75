"""Features of images, kept on disk under what they were computed from.

A folder holds one folder for each extractor, named after a hash of its weights and of all else
that its features depend on; in it lie pieces of up to 1024 rows: ``<name>.npy``, the features, and
``<name>.json``, the hash of each row's image and a checksum of the row. A piece is written once,
under a name of its own, and never changed, so that processes need not wait for each other. Two
processes that compute the same image at the same time merely store it twice.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from medxlate.base.distributed import ranks
from medxlate.base.errors import DataError, OutputError
from medxlate.base.events import Listener, Warned, silent
from medxlate.base.files import naming_full_disk, whole_file, write_json
from medxlate.base.records import read_json
from medxlate.dataset.arrays import open_array
from medxlate.evaluation.batches import order_of_gathered
from medxlate.inference.finite import check_finite

Rows = npt.NDArray[np.float32]
FOLDER = ".features"  # in a dataset folder: all runs on a dataset have their real images in common
_PIECE = 1024  # rows
_KEY_BYTES = 32  # of an image's key
_DAMAGED = (OSError, ValueError, IndexError, EOFError)
_RECENT = 3600  # seconds; another process may still be reading what was used since


class _Row(NamedTuple):
    """Where the features of an image are, and their checksum."""

    piece: Path
    number: int
    checksum: bytes


class FeatureStore:
    """The features that one extractor computed; a context that writes new ones when it ends.

    Args:
        folder: Where features are kept; None, or a folder that cannot be written: a temporary one,
            which is removed when the context ends.
        extractor: What the features depend on beside the image, such as ``weights``.
        largest: Bytes that all extractors' features may take. Those that were not used for the
            longest time are removed first, but none that were used in the last hour.
        listener: Receives warnings of damaged files, and that nothing can be kept.
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
        self._stored: dict[bytes, _Row] = {}
        self._waiting: dict[bytes, int] = {}  # row numbers in the next piece
        self._block: Rows | None = None
        self._damaged: set[Path] = set()

    def __enter__(self) -> Self:
        if self._root is None:
            self._use_temporary()
        self._read_indices()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.flush()
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
        """Return the features of images, and compute those of unknown images.

        Args:
            images: Batches uint8 [B, C, S, S].
            compute: Returns the features of such a batch, float32 [B, D] on the CPU.
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
        """Return the features [N, D] of at least one image that this context has seen.

        Raises:
            DataError: Another program removed them.
            ModelError: They are not finite numbers.
        """
        self.flush()
        stored = [self._stored[name] for name in names]
        by_piece: dict[Path, list[int]] = {}
        for i, row in enumerate(stored):
            by_piece.setdefault(row.piece, []).append(i)
        found: Rows | None = None
        for piece, wanted in by_piece.items():
            try:
                rows = _read_rows(piece, [stored[i].number for i in wanted])
            except _DAMAGED as problem:
                raise DataError(
                    f"{piece} changed while it was in use: {problem}.", "Evaluate again."
                ) from None
            if found is None:
                found = np.empty((len(names), rows.shape[1]), dtype=np.float32)
            found[wanted] = rows
        assert found is not None, "no images"
        check_finite(found, "feature network")  # they would count as far from all others, silently
        return found

    def flush(self) -> None:
        """Write the features that wait for a full piece, so that other processes can read them."""
        if not self._waiting or self._block is None:
            return
        rows = self._block[: len(self._waiting)]
        try:
            self._write_piece(rows)
        except (OSError, OutputError) as problem:
            if self._temporary is not None:
                raise
            self._listener(_cannot_keep(self._root, problem))
            self._use_temporary()
            self._write_piece(rows)
        self._waiting = {}

    def missing(self, names: Sequence[bytes]) -> int:
        """Look for pieces of other processes; return how many of the images are still unknown."""
        self._read_indices()
        return sum(name not in self._stored for name in set(names))

    @property
    def folder(self) -> Path:
        """The folder of this extractor's features."""
        root = self._temporary or self._root
        assert root is not None
        return root / self._name

    def _find(self, names: Sequence[bytes]) -> set[bytes]:
        """Return the images whose features are here and sound."""
        known = {name for name in names if name in self._waiting}
        by_piece: dict[Path, list[bytes]] = {}
        for name in set(names) - known:
            if name in self._stored:
                by_piece.setdefault(self._stored[name].piece, []).append(name)
        for piece, wanted in by_piece.items():
            try:
                rows = _read_rows(piece, [self._stored[name].number for name in wanted])
                piece.touch()  # it was used
            except FileNotFoundError:  # another process made room
                continue
            except _DAMAGED:
                self._note_damage(piece)
                continue
            pairs = zip(wanted, rows, strict=True)
            sound = {k for k, row in pairs if _checksum(k, row) == self._stored[k].checksum}
            if len(sound) < len(wanted):
                self._note_damage(piece)
            known |= sound
        return known

    def _keep(self, names: Sequence[bytes], rows: Rows) -> None:
        """Keep rows in memory until they fill a piece."""
        if self._block is None:  # one block: many small arrays would leave holes in memory
            self._block = np.empty((_PIECE, rows.shape[1]), dtype=np.float32)
        for name, row in zip(names, rows, strict=True):
            self._block[len(self._waiting)] = row
            self._waiting[name] = len(self._waiting)
            if len(self._waiting) == _PIECE:
                self.flush()

    def _write_piece(self, rows: Rows) -> None:
        piece = self.folder / f"{secrets.token_hex(8)}.npy"
        with whole_file(piece) as partial, naming_full_disk(piece), partial.open("wb") as stream:
            np.save(stream, rows, allow_pickle=False)
        checks = {k: _checksum(k, row) for k, row in zip(self._waiting, rows, strict=True)}
        # Last, for a piece without an index is ignored.
        write_json(
            piece.with_suffix(".json"),
            {
                "images": [name.hex() for name in checks],
                "checks": [check.hex() for check in checks.values()],
            },
        )
        self._stored |= {k: _Row(piece, i, check) for i, (k, check) in enumerate(checks.items())}

    def _read_indices(self) -> None:
        for index in sorted(self.folder.glob("*.json")):
            piece = index.with_suffix(".npy")
            if piece in self._damaged:
                continue
            try:
                found = read_json(index, error=DataError)
                images = [bytes.fromhex(name) for name in found["images"]]
                checks = [bytes.fromhex(check) for check in found["checks"]]
                pairs = list(zip(images, checks, strict=True))
            except (DataError, KeyError, TypeError, ValueError):
                if index.exists():  # else another process made room
                    self._note_damage(piece)
                continue
            self._stored |= {k: _Row(piece, i, check) for i, (k, check) in enumerate(pairs)}

    def _note_damage(self, piece: Path) -> None:
        """Warn of a damaged piece; it is removed at the end, for its sound rows may be in use."""
        if piece not in self._damaged:
            self._listener(Warned(f"{piece} is damaged; computing its features again."))
            self._damaged.add(piece)

    def _use_temporary(self) -> None:
        self._temporary = Path(tempfile.mkdtemp(prefix="medxlate-features-"))


class StoredFeatures:
    """The features [N, D] of a set of images, read from disk when they are asked for.

    Args:
        store: Where they are.
        names: The images' keys.

    Attributes:
        names: As given.
    """

    def __init__(self, store: FeatureStore, names: Sequence[bytes]) -> None:
        self._store = store
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, rows: npt.NDArray[np.intp], /) -> Rows:
        return self._store.rows([self.names[row] for row in rows])

    def some(self, rows: Sequence[int]) -> StoredFeatures:
        """Return the features of some of the images."""
        return StoredFeatures(self._store, [self.names[row] for row in rows])


def gather_features(
    own: StoredFeatures, store: FeatureStore, count: int, batch_size: int
) -> StoredFeatures:
    """Return the features of all images [N, D], which the first process may read.

    The processes send each other the images' keys, and the features by the store's folder.

    Args:
        own: Those of the images that this process computed.
        store: Where they are; all processes use one folder.
        count: N.
        batch_size: Of the batches that were divided.

    Raises:
        DataError: What another process kept is not in the folder.
    """
    if ranks().is_alone:
        return own
    store.flush()
    keys = torch.tensor([list(name) for name in own.names], dtype=torch.uint8)
    rows = torch.cat(ranks().gather_rows(keys.reshape(-1, _KEY_BYTES))).numpy()
    names = [bytes(row) for row in rows[order_of_gathered(count, batch_size)]]
    if ranks().is_first and (missing := store.missing(names)):
        raise DataError(
            f"{store.folder} lacks the features of {missing} images that other processes computed.",
            "Evaluate in one process, or in a folder that all processes share.",
        )
    return StoredFeatures(store, names)


@contextmanager
def common_folder(folder: Path, listener: Listener) -> Iterator[Path]:
    """Yield the folder, or, where it cannot be written, a temporary one for all processes.

    A process alone does not need it: ``FeatureStore`` makes a temporary folder by itself.
    """
    team = ranks()
    if team.is_alone:
        yield folder
        return
    temporary: str | None = None
    if team.is_first and (problem := _write_problem(folder)):
        listener(_cannot_keep(folder, problem))
        temporary = tempfile.mkdtemp(prefix="medxlate-features-")
    try:
        yield Path(team.broadcast(temporary) or folder)
        team.barrier()
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _write_problem(folder: Path) -> OSError | None:
    """Return why a file cannot be made in a folder; None where it can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as problem:
        return problem
    return None


def _cannot_keep(folder: Path | None, problem: Exception) -> Warned:
    return Warned(f"{folder} cannot store features for reuse: {problem}")


def image_key(image: Tensor) -> bytes:
    """Return the SHA-256 of an image's shape and bytes; of three equal channels one is hashed."""
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
    """Read rows from a map for this read alone; a standing one would count as resident memory."""
    mapped = open_array(piece)
    if mapped.dtype != np.float32 or mapped.ndim != 2:
        raise ValueError("it does not contain rows of float32")
    rows: Rows = np.array(mapped[list(numbers)])
    return rows


def _checksum(name: bytes, row: npt.NDArray[Any]) -> bytes:
    return hashlib.blake2b(row.tobytes(), digest_size=8, key=name).digest()


def _prune(root: Path, largest: int) -> None:
    """Remove the pieces unused for longest until the rest is no larger than allowed."""
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
