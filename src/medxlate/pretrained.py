"""Weights that others published: where they are, and whether a file is what it should be.

Needs no torch: a machine with internet that only fetches needs none of a trainer's parts either.
"""

from __future__ import annotations

import hashlib
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from medxlate.base.errors import ModelError, UsageError, nearest
from medxlate.base.events import Listener, Progress, silent
from medxlate.base.files import sha256, whole_file

_BLOCK = 1 << 20
_TIMEOUT = 60.0  # seconds without a byte


@dataclass(frozen=True)
class Pretrained:
    """A published file of weights.

    Attributes:
        name: As ``medxlate fetch`` calls it.
        file: What the file is called.
        url: Where it is published.
        license: Under which, as its publisher says.
        sha256: Published SHA-256, or its first digits; "" where none is published: then the first
            fetch records one beside the file.
        used_by: What needs it.
    """

    name: str
    file: str
    url: str
    license: str
    sha256: str
    used_by: str


@dataclass(frozen=True)
class Fetched:
    """A file that is there and sound.

    Attributes:
        name: Of the weights.
        path: Where they lie.
        sha256: Of the file.
        checked: Against what: ``published``, ``recorded`` (by an earlier fetch) or ``nothing``
            (it was recorded just now).
        downloaded: Whether it was not there before.
    """

    name: str
    path: Path
    sha256: str
    checked: str
    downloaded: bool


_HUB = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
_FIDELITY = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0"
REGISTRY: Mapping[str, Pretrained] = {
    each.name: each
    for each in (
        Pretrained(
            "inception",
            "weights-inception-2015-12-05-6726825d.pth",
            f"{_FIDELITY}/weights-inception-2015-12-05-6726825d.pth",
            "Apache-2.0 (torch-fidelity's copy of TensorFlow's Inception v3)",
            "6726825d",
            "evaluate and compare: fid, kid, is",
        ),
        Pretrained(
            "resnet50",
            "resnet50.a1_in1k.safetensors",
            f"{_HUB}/timm/resnet50.a1_in1k/resolve/main/model.safetensors",
            "Apache-2.0 (timm)",
            "",
            "train --pretrained FILE",
        ),
    )
}


def checkpoints_folder() -> Path:
    """Return where torch.hub keeps weights, without loading torch."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("TORCH_HOME", os.path.join(cache, "torch"))
    return Path(home).expanduser() / "hub" / "checkpoints"


def find(name: str, registry: Mapping[str, Pretrained] = REGISTRY) -> Pretrained:
    """Return published weights by name; UsageError where there are none of that name."""
    if name not in registry:
        raise UsageError(
            f"Unknown weights '{name}'. {nearest(name, registry)}".rstrip(),
            "Run `medxlate fetch --list` to see all.",
        )
    return registry[name]


def fetch(
    name: str,
    *,
    out: Path | str | None = None,
    offline: bool = False,
    registry: Mapping[str, Pretrained] = REGISTRY,
    listener: Listener = silent,
) -> Fetched:
    """Download weights unless they are there, and check them by their hash.

    Args:
        name: Of the registry.
        out: The folder; None: where torch.hub keeps weights, in which ``evaluate`` looks.
        offline: Whether to check what is there and download nothing.
        registry: What there is.
        listener: Receives progress, in MiB.

    Raises:
        UsageError: There are no such weights.
        ModelError: The file has another hash (what was downloaded is removed), or cannot be
            downloaded.
    """
    wanted = find(name, registry)
    path = (Path(out) if out is not None else checkpoints_folder()) / wanted.file
    if path.is_file():
        return _checked(path, wanted, downloaded=False)
    if offline:
        raise ModelError(
            f"{path} does not exist, and nothing is downloaded in offline mode.",
            f"Run `medxlate fetch {name} --out FOLDER` on a machine with internet access and copy "
            "the files here.",
        )
    with whole_file(path) as partial:
        _download(wanted, partial, listener)
        found = sha256(partial)
        if not found.startswith(wanted.sha256):
            raise _wrong(f"The download of {wanted.url} was discarded: it", wanted.sha256, found)
    if wanted.sha256:
        return Fetched(name, path, found, "published", downloaded=True)
    # Whatever is recorded belongs to an earlier file of that name.
    with whole_file(_beside(path)) as record:
        record.write_text(f"{found}  {path.name}\n", encoding="ascii")
    return Fetched(name, path, found, "nothing", downloaded=True)


def check(file: Path | str, registry: Mapping[str, Pretrained] = REGISTRY) -> Fetched:
    """Check a file that was carried here, by its name, against the published or recorded hash.

    Args:
        file: The weights. ``<file>.sha256`` beside it holds the hash where none is published.
        registry: What there is.

    Raises:
        ModelError: It does not exist, has another hash, or nothing says which it should have.
    """
    path = Path(file)
    if not path.is_file():
        raise ModelError(
            f"{path} does not exist.", "Give the path of a file that `medxlate fetch` wrote."
        )
    known = next((each for each in registry.values() if each.file == path.name), None)
    return _checked(path, known, downloaded=False)


def _checked(path: Path, wanted: Pretrained | None, *, downloaded: bool) -> Fetched:
    beside = _beside(path)
    expected, by = (wanted.sha256, "published") if wanted else ("", "")
    if not expected:
        expected, by = _recorded(beside), "recorded"
    found = sha256(path)
    if not found.startswith(expected):
        raise _wrong(f"{path}", expected, found)
    return Fetched(wanted.name if wanted else path.name, path, found, by, downloaded)


def _recorded(beside: Path) -> str:
    try:
        first = (beside.read_text("ascii", "replace").split() or [""])[0].lower()
    except FileNotFoundError:
        raise ModelError(
            f"The hash of {beside.with_suffix('')} cannot be checked: {beside} is missing.",
            "Copy it along with the weights; `medxlate fetch` writes it next to them.",
        ) from None
    if not re.fullmatch("[0-9a-f]{64}", first):
        raise ModelError(f"{beside} contains no SHA-256.", "Copy it from the first machine again.")
    return first


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _wrong(what: str, expected: str, found: str) -> ModelError:
    begins = "" if len(expected) == hashlib.sha256().digest_size * 2 else "one starting with "
    return ModelError(
        f"{what} has the SHA-256 {found}, not {begins}{expected}.",
        "The file was damaged or changed in transit. Delete it, then fetch or copy it again.",
    )


def _download(wanted: Pretrained, path: Path, listener: Listener) -> None:
    with _naming_problems(wanted), urllib.request.urlopen(wanted.url, timeout=_TIMEOUT) as answer:
        total = int(answer.headers.get("Content-Length") or 0)
        done = 0
        with path.open("wb") as stream:
            while block := answer.read(_BLOCK):
                stream.write(block)
                done += len(block)
                listener(_progress(wanted.name, done, total))
        if total and done < total:
            raise OSError(f"the connection ended after {done} of {total} bytes")


def _progress(name: str, done: int, total: int) -> Progress:
    whole = max(total, done)
    return Progress(f"{name} (MiB)", -(-done // _BLOCK), -(-whole // _BLOCK))


@contextmanager
def _naming_problems(wanted: Pretrained) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as problem:  # urllib's and http's are among them
        if isinstance(problem, OSError) and problem.errno in (13, 28, 30, 122):
            raise  # the disk's, which the command line names
        if isinstance(problem, urllib.error.HTTPError):  # it holds the connection
            problem.close()
        reason = getattr(problem, "reason", problem)
        raise ModelError(
            f"{wanted.name} could not be downloaded from {wanted.url}: {reason}.",
            "If this machine needs a proxy, set https_proxy. docs/how-to/air-gapped.md explains "
            "how to copy the file by hand.",
        ) from None
