"""Models on the Hugging Face hub: ``hf://OWNER/NAME@REVISION`` where a model is named.

Only model.json and the safetensors that it names are downloaded, by huggingface_hub, which keeps
them in its cache and takes address, token and offline mode from its own environment. A model
becomes a folder of its own among huggingface_hub's assets, for files in its cache are links.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from medxlate.base.errors import MedxlateError, ModelError, UsageError
from medxlate.base.events import Listener, Stage, Warned, silent
from medxlate.base.files import locked, whole_folder, write_json
from medxlate.base.records import is_plain, read_object

SCHEME = "hf:"
RECORD = "hub.json"  # in a model folder that was downloaded: from where
_COMMIT = re.compile("[0-9a-f]{40}")
_NAMED = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True)
class HubModel:
    """A model on the hub.

    Attributes:
        repo: ``OWNER/NAME``.
        revision: A commit, branch or tag; None: the main branch.
    """

    repo: str
    revision: str | None

    def __str__(self) -> str:
        return f"hf://{self.repo}" + (f"@{self.revision}" if self.revision else "")

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, which always stands for the same files."""
        return self.revision is not None and bool(_COMMIT.fullmatch(self.revision))


def is_on_hub(path: Path) -> bool:
    """Whether a path names a model on the hub; ``Path`` makes one slash of two."""
    return path.parts[:1] == (SCHEME,)


def located(path: Path, listener: Listener = silent, *, offline: bool = False) -> Path:
    """Return the folder of a model that was named; one on the hub is downloaded where need be.

    Args:
        path: ``hf://OWNER/NAME@REVISION``; any other path is returned as it is.
        listener: Is told of the download, and of the commit where none was named.
        offline: Whether no connection may be opened.

    Raises:
        UsageError: It is not the name of a model on the hub.
        ModelError: It cannot be downloaded, or is not medxlate's.
    """
    if not is_on_hub(path):
        return path
    text = "/".join(path.parts[1:])
    found = _NAMED.fullmatch(text)
    if found is None:
        raise UsageError(
            f"hf://{text} does not name a model on the hub.", "Write hf://OWNER/NAME@REVISION."
        )
    return _folder_of(HubModel(found["repo"], found["revision"]), listener, offline)


def origin_of(folder: Path) -> str:
    """Return ``hf://OWNER/NAME@COMMIT`` for a model that was downloaded; "" for any other."""
    if not (folder / RECORD).is_file():
        return ""
    record = read_object(folder / RECORD, error=ModelError)
    return str(HubModel(str(record.get("repo")), str(record.get("commit"))))


def _folder_of(model: HubModel, listener: Listener, offline: bool) -> Path:
    if model.is_pinned:
        assert model.revision is not None
        folder = _place(model.repo, model.revision)
        if folder.is_dir():
            return folder
    listener(Stage(f"Fetching {model}"))
    marker = _download(model, "model.json", offline)
    pinned = HubModel(model.repo, marker.parent.name)  # .../snapshots/COMMIT/model.json
    if not pinned.is_pinned:
        raise ModelError(f"The hub did not return the commit of {model}.")
    folder = _place(model.repo, marker.parent.name)
    with locked(folder.with_name(f"{folder.name}.lock"), wait=True):
        if not folder.is_dir():
            _make(folder, pinned, marker, offline)
    if not model.is_pinned:
        listener(Warned(f"{model} can change. It is currently {pinned}: use that name to pin it."))
    return folder


def _make(folder: Path, model: HubModel, marker: Path, offline: bool) -> None:
    """Put the files of a commit into a folder of their own."""
    from medxlate.artifacts.info import all_weights, read_model

    try:
        info = read_model(marker.parent)
    except MedxlateError as problem:
        raise ModelError(f"{model}: {problem.message}", problem.hint) from None
    with whole_folder(folder, marker=marker.name) as partial:
        for weights in all_weights(info):
            if not (is_plain(weights.file) and weights.file.endswith(".safetensors")):
                raise ModelError(f"{model} refers to {weights.file!r}, not a safetensors file.")
            _take(_download(model, weights.file, offline), partial / weights.file)
        shutil.copyfile(marker, partial / marker.name)
        write_json(partial / RECORD, {"repo": model.repo, "commit": model.revision})


def _take(cached: Path, to: Path) -> None:
    """Link a file of the cache, which takes no room; copy it where that cannot be."""
    try:
        os.link(cached.resolve(), to)
    except OSError:
        shutil.copyfile(cached, to)


def _place(repo: str, commit: str) -> Path:
    from huggingface_hub import cached_assets_path, constants

    models = cached_assets_path(
        library_name="medxlate",
        namespace=repo,
        subfolder="models",
        assets_dir=constants.HF_ASSETS_CACHE,
    )
    return models / commit


def _download(model: HubModel, file: str, offline: bool) -> Path:
    """Return where the cache has a file, downloaded unless it is there."""
    from huggingface_hub import hf_hub_download

    with _named(model, file), without_bars():
        found = hf_hub_download(
            model.repo,
            file,
            revision=model.revision,
            library_name="medxlate",
            local_files_only=offline,
        )
    return Path(found)


@contextmanager
def without_bars() -> Iterator[None]:
    """Keep huggingface_hub from printing."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


@contextmanager
def _named(model: HubModel, file: str) -> Iterator[None]:
    """Turn what huggingface_hub raises into errors that say what to do."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        raise ModelError(
            f"{model} is gated: its owner has not given you access.",
            "Ask for it on the model's page, then log in with `hf auth login`.",
        ) from None
    except errors.RepositoryNotFoundError:
        raise ModelError(
            f"{model} does not exist, or is private.",
            "Check its name; for a private one, log in with `hf auth login` or set HF_TOKEN.",
        ) from None
    except errors.RevisionNotFoundError:
        raise ModelError(
            f"{model} has no such revision.", "Give a commit, branch or tag."
        ) from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        raise ModelError(
            f"{model} cannot be reached, and {file} is not in the cache.",
            "Download it on a machine with internet access and copy the folder HF_HOME here, or "
            "copy a model folder: docs/how-to/export.md.",
        ) from None
    except errors.EntryNotFoundError:
        raise ModelError(
            f"{model} has no {file}: it is not a medxlate model, or is incomplete.",
            "`medxlate export hub --push` uploads one.",
        ) from None
    except errors.HFValidationError as problem:
        raise UsageError(f"{model} is not a valid name on the hub: {problem}") from None
    except Exception as problem:  # the library's own, or one of the client under it
        if isinstance(problem, OSError) and problem.errno in (13, 28, 30, 122):
            raise  # the disk's, which the command line names
        raise ModelError(f"{model} cannot be downloaded: {problem}", "Try again later.") from None
