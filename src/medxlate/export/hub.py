"""``medxlate export hub``: a folder in the format of model hubs; uploaded where that is asked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, HfApi, ModelCardData, get_token
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from medxlate._version import __version__
from medxlate.artifacts.card import model_card
from medxlate.artifacts.folder import copy_weights, write_description
from medxlate.artifacts.hub import without_bars
from medxlate.artifacts.info import MARKER, ModelInfo, Weights, all_weights, read_model
from medxlate.artifacts.runs import find_model, find_run
from medxlate.base.errors import MedxlateError, OutputError, UsageError
from medxlate.base.events import Listener, Warned, silent
from medxlate.base.files import whole_folder, write_json
from medxlate.base.records import in_markdown
from medxlate.evaluation.results import FILE, Metric, Results, read_results

MAIN = "model.safetensors"  # what hubs and their clients look for
LIBRARY = "medxlate"
UPLOADED = (".safetensors", ".json", ".md")


@dataclass(frozen=True)
class HubResult:
    """What was exported.

    Attributes:
        out: The folder.
        files: The names in it, in order.
        metrics: The number of an evaluation's figures in the card.
    """

    out: Path
    files: list[str]
    metrics: int


def export_hub(
    model: Path | str,
    *,
    out: Path | str,
    license_: str,
    overwrite: bool = False,
    listener: Listener = silent,
) -> HubResult:
    """Write a model as a folder for a model hub, which ``Translator.load`` can load too.

    README.md is the model card with YAML front matter, config.json holds what hubs look for, and
    ``model.safetensors`` the weights of the only translator, else of the predictor. The card has
    the figures of the run's evaluation where that was of these weights.

    Args:
        model: A model folder, a run folder, ``runs/latest``, or ``hf://OWNER/NAME@REVISION``.
        out: The folder to write.
        license_: Identifier of the weights' license, such as
            ``apache-2.0`` or ``other``.
        overwrite: Whether an older model folder in ``out`` is replaced.
        listener: Receives a warning where an evaluation is left out.

    Raises:
        UsageError: The license is not an identifier.
        ModelError: The model cannot be used, or is damaged.
        OutputError: ``out`` exists.
    """
    check_license(license_)
    folder, out = find_model(Path(model), listener=listener), Path(out)
    old = read_model(folder)
    info = _renamed(old)
    results = _results(Path(model), old, listener)
    with whole_folder(out, marker=MARKER, overwrite=overwrite) as partial:
        names = [each.file for each in all_weights(info)]
        copy_weights(folder, all_weights(old), partial, names)
        header = _front_matter(info, license_, results)
        lines = _metric_lines(results) if results is not None else []
        write_description(partial, info, f"---\n{header}---\n\n{model_card(info, metrics=lines)}")
        write_json(partial / "config.json", _config(info))
        files = sorted(path.name for path in partial.iterdir())
    return HubResult(out, files, len(_known(results)) if results is not None else 0)


def push_hub(folder: Path | str, repo: str, *, public: bool = False) -> str:
    """Upload a folder that ``export_hub`` wrote to the Hugging Face hub.

    Address and token are those of huggingface_hub's own environment. A repository that does not
    exist is made, private unless ``public``.

    Args:
        folder: The folder. It may hold safetensors, JSON and Markdown alone.
        repo: ``OWNER/NAME``.
        public: Whether everybody may read it.

    Returns:
        ``hf://OWNER/NAME@COMMIT``, as ``--model`` takes it.

    Raises:
        UsageError: It is no name of a repository, there is no token, or the repository is public
            and was not to be.
        ModelError: The folder holds no model.
        OutputError: The folder holds other files, or cannot be uploaded.
    """
    folder = Path(folder)
    check_repo(repo)
    read_model(folder)
    strangers = sorted(
        path.name
        for path in folder.iterdir()
        if not (path.is_file() and path.suffix in UPLOADED) or path.is_symlink()
    )
    if strangers:
        raise OutputError(
            f"{folder} also holds {', '.join(strangers)}: only {', '.join(UPLOADED)} are uploaded.",
            "Upload a folder as `medxlate export hub` writes it.",
        )
    if get_token() is None:
        raise UsageError("There is no token for the hub.", "`hf auth login`, or set HF_TOKEN.")
    api = HfApi(library_name=LIBRARY)
    try:
        api.create_repo(repo, private=not public, exist_ok=True)
        if not public and not api.model_info(repo).private:
            raise UsageError(f"{repo} is public.", "Push to a private one, or say --public.")
        with without_bars():
            done = api.upload_folder(
                repo_id=repo,
                folder_path=folder,
                commit_message=f"medxlate {__version__}",
                allow_patterns=[f"*{suffix}" for suffix in UPLOADED],
            )
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError, RuntimeError) as problem:
        why = problem.__cause__ or problem  # a RuntimeError names the file, and hides the reason
        raise OutputError(f"{repo} cannot be written: {why}") from None
    return f"hf://{repo}@{done.oid}"


def check_repo(repo: str) -> None:
    """Raise UsageError where a text does not name a repository."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise UsageError(f"{repo!r} does not name a repository.", "Write OWNER/NAME.")


def check_license(license_: str) -> None:
    """Raise UsageError where a text is not the identifier of a license."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", license_):
        raise UsageError(
            f"--license {license_!r} is not a license identifier.",
            "Write it as hubs do: apache-2.0, cc-by-nc-4.0, other...",
        )


def _renamed(info: ModelInfo) -> ModelInfo:
    """Return the description with the main network's weights in the file that hubs expect."""
    if len(info.translators) == 1:
        ((source, translator),) = info.translators.items()
        main = translator.model_copy(update={"weights": _main(translator.weights)})
        return info.model_copy(update={"translators": {source: main}})
    if info.predictor is None:
        return info
    predictor = info.predictor.model_copy(update={"weights": _main(info.predictor.weights)})
    return info.model_copy(update={"predictor": predictor})


def _main(weights: Weights) -> Weights:
    return weights.model_copy(update={"file": MAIN})


def _results(model: Path, info: ModelInfo, listener: Listener) -> Results | None:
    """Return the results of the run's evaluation where it was of these weights; else None."""
    try:
        folder = find_run(model).evaluation
    except MedxlateError:  # a model folder, not a run
        return None
    if not (folder / FILE).is_file():
        return None
    results = read_results(folder)
    if {weights.sha256 for weights in all_weights(info)} <= set(results.model.values()):
        return results
    listener(Warned(f"{folder / FILE} is of other weights: the card has no metrics."))
    return None


def _config(info: ModelInfo) -> dict[str, Any]:
    config: dict[str, Any] = {
        "model_type": LIBRARY,
        "library_name": LIBRARY,
        "medxlate_version": info.medxlate,
        "method": info.method,
        "num_channels": 1,
        "image_size": info.image_size,
        "target": info.target,
        "sources": list(info.translators),
    }
    if info.predictor is not None:
        task = info.predictor.head.task
        config |= {"predictor": info.predictor.architecture, "task": task.kind, "label": task.name}
        if task.classes:
            config["id2label"] = {str(i): name for i, name in enumerate(task.classes)}
            config["label2id"] = {name: i for i, name in enumerate(task.classes)}
    return config


def _front_matter(info: ModelInfo, license_: str, results: Results | None) -> str:
    tags = ["medical-imaging", "cyclegan" if info.translators else "predictor", info.target]
    tags += list(info.translators)
    kind = info.predictor.head.task.kind if info.predictor is not None else ""
    pipeline = "image-to-image" if info.translators else None
    if pipeline is None and kind == "classification":
        pipeline = "image-classification"  # hubs have no name for a regression
    known = _known(results) if results is not None else []
    data = ModelCardData(
        license=license_,
        library_name=LIBRARY,
        pipeline_tag=pipeline,
        tags=list(dict.fromkeys([*tags, *([kind] if kind else [])])),
        model_name=f"{'-'.join(info.translators) or info.method}-to-{info.target}",
        eval_results=[_eval_result(each, kind) for each in known] or None,
    )
    return str(data.to_yaml()).rstrip("\n") + "\n"


def _eval_result(metric: Metric, kind: str) -> EvalResult:
    task = "image-to-image" if metric.group == "translation" else f"image-{kind}"
    details = {"low": metric.low, "high": metric.high, "interval": metric.interval, "n": metric.n}
    shown = {name: value for name, value in details.items() if value not in (None, "", 0)}
    return EvalResult(
        task_type=task,
        task_name="translation" if metric.group == "translation" else "prediction",
        dataset_type="private",
        dataset_name="held-out test patients",
        metric_type=metric.name,
        metric_name=_name(metric),
        metric_value=metric.value,
        metric_args=shown or None,
    )


def _known(results: Results) -> list[Metric]:
    """Return the figures of the model itself, without the constant predictions' and tstr's."""
    own = [each for each in results.metrics if each.of != "constant" and each.group != "tstr"]
    return [each for each in own if each.value is not None]


def _name(metric: Metric) -> str:
    where = " ".join(filter(None, [metric.level and f"per {metric.level}", metric.source]))
    return f"{metric.label} ({where})" if where else metric.label


def _metric_lines(results: Results) -> list[str]:
    """Return the figures as a table, then the audits' sentences."""
    lines = [
        f"On {results.images} real {in_markdown(results.target)} images of {results.patients} test "
        "patients.",
        "",
        "| metric | of | value | 95 % interval | n |",
        "|---|---|---|---|---|",
    ]
    for each in results.metrics:
        value = in_markdown(each.reason) or "none"
        if each.value is not None:
            value = f"{each.value:.4g} {in_markdown(each.unit)}".rstrip()
        ends = "" if each.low is None or each.high is None else f"{each.low:.4g} to {each.high:.4g}"
        lines.append(f"| {in_markdown(_name(each))} | {each.of} | {value} | {ends} | {each.n} |")
    audits = [
        in_markdown(f"- {each.source}, {each.kind}: {each.sentence}") for each in results.audits
    ]
    return [*lines, *(["", "Audits of the translators:", "", *audits] if audits else [])]
