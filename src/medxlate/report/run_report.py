"""The report of a run: what it did, how sure that is, and where it fails."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from medxlate._version import __version__
from medxlate.artifacts.info import ModelInfo, read_model, weights_hashes
from medxlate.artifacts.runs import RunFolder, find_run, read_config
from medxlate.base.errors import UsageError, plural
from medxlate.base.files import write_json
from medxlate.config import Config, flat
from medxlate.evaluation.contact_sheet import SHEET
from medxlate.evaluation.results import EXAMPLES, Results, read_results
from medxlate.report.audit_section import audit_section, lights
from medxlate.report.contact_sheet import contact_sheet
from medxlate.report.figure_sections import (
    drawn_figure,
    images_section,
    missing_section,
    predictions_section,
    taught_section,
)
from medxlate.report.methods_text import methods_text
from medxlate.report.page import (
    Chapter,
    Verdict,
    bullets,
    charts,
    folded,
    joined,
    paragraph,
    table,
    tag,
    write_page,
)
from medxlate.report.run_comparison import Against, compare_runs, find_baseline
from medxlate.report.run_verdict import BASELINE, modality_text, of_run
from medxlate.report.split_section import division_of
from medxlate.report.study_answer import study_answer
from medxlate.report.training_curves import curves
from medxlate.report.viewer import BYTES, Viewer, viewer
from medxlate.training.record import read_events

OUTDATED = "These numbers are of an earlier state of this run: run `medxlate evaluate` again."
NOTE = (
    "Differences are this model's error minus the other's: below 0 is better. Metrics are over "
    "patients unless stated otherwise, and are rounded to what their intervals support."
)


@dataclass(frozen=True)
class Report:
    """What ``write_report`` made.

    Attributes:
        path: The page.
        verdict: Its first sentences.
        bytes: Its size.
        badge: The answer in a few words.
    """

    path: Path
    verdict: tuple[str, ...]
    bytes: int
    badge: str = ""


def write_report(
    run: Path | str = "runs/latest",
    *,
    baseline: Path | str | None = None,
    out: Path | str | None = None,
) -> Report:
    """Write ``report.html`` and ``report.json`` of a run.

    The page loads nothing and names no patient. Where the run was evaluated, it holds test images
    of patients.

    Args:
        run: A run folder or ``runs/latest``.
        baseline: An evaluated run on the same split to compare with; None: the newest run beside
            this one that was trained by ``target-only`` on the same split, where there is one.
        out: The page; None: ``report.html`` in the run. report.json lies beside it.

    Raises:
        ModelError: The run is missing or damaged; the message names the file.
        UsageError: The two runs cannot be compared.
    """
    folder = find_run(Path(run))
    config = read_config(folder)
    results = read_results(folder.evaluation) if folder.evaluation.exists() else None
    info = _model(folder, results)
    division = division_of(folder, config)
    events = read_events(folder.metrics)
    outdated = info is not None and results is not None and results.model != weights_hashes(info)
    other = find_run(Path(baseline)) if baseline is not None else None
    if other is None and not outdated:
        other = find_baseline(folder)
    against = None if other is None else compare_runs(folder, other)
    verdict = of_run(results, config.split.policy, against=against, how=_how(folder, config))
    if config.method != BASELINE and (found := study_answer(folder, config)):
        verdict = found.beside(verdict, compared=against is not None)
    if outdated:
        verdict = verdict.doubted(OUTDATED, "Evaluate again")
    if division.leak:
        said = f"{division.leak} Do not trust these numbers."
        verdict = verdict.doubted(said, "The split leaks", "bad")
    translates = info is None or bool(info.translators)
    chapters = [*_evaluated(folder, results, info), *_trained(events)]
    chapters.append(Chapter("Patients and leaks", division.body, "patients", "Patients"))
    if info is not None:
        chapters.append(_methods(config, info, results, events, against))
    chapters.append(_technical(config, results, info, events))
    path = folder.report if out is None else _page(Path(out))
    write_page(
        path,
        title=_title(config, results, translates=translates),
        verdict=verdict,
        chapters=chapters,
        facts=_facts(folder, config, results, events),
        lights=lights(results.audits) if results is not None and results.sources else (),
        note=NOTE if results is not None else "",
    )
    write_json(path.with_suffix(".json"), _as_json(verdict, results))
    return Report(path, tuple(verdict.sentences), path.stat().st_size, verdict.badge)


def _how(folder: RunFolder, config: Config) -> str:
    """Return which commands say whether the added images help."""
    name = folder.path.name
    target = modality_text(config.data.target)
    return (
        f"Whether that is better than {target} alone cannot be said: no evaluated run of "
        f"`--method {BASELINE}` on the same split lies beside this one. Train one with "
        f"`medxlate train --config runs/{name}/config.json --method {BASELINE} --name "
        f"{name}-alone`, evaluate it, and write this report again; `medxlate compare --target "
        f"{config.data.target}` compares over several splits."
    )


def _title(config: Config, results: Results | None, *, translates: bool) -> str:
    target = modality_text(config.data.target)
    name = results.task.name if results is not None and results.task else ""
    what = f"{name.capitalize()} from {target}" if name else f"Prediction from {target}"
    sources = ", ".join(map(modality_text, config.data.sources))
    return f"{what}, with {sources} translated to {target}" if translates and sources else what


def _model(folder: RunFolder, results: Results | None) -> ModelInfo | None:
    """Return what is known of the run's model; None before its training has ended.

    Raises:
        ModelError: It is damaged, or gone though the run was evaluated.
    """
    if results is None and not (folder.model / "model.json").exists():
        return None
    return read_model(folder.model)


def _page(out: Path) -> Path:
    """Return where the page goes; raises UsageError where its JSON would replace a file."""
    if out.suffix != ".html" or out.is_dir():
        raise UsageError(f"--out {out} is not the name of a page.", "Let it end in .html.")
    beside = out.with_suffix(".json")
    if out.stem != "report" and beside.exists() and not out.exists():
        raise UsageError(f"{beside} exists and is not a report's.", "Choose another --out.")
    return out


def _evaluated(folder: RunFolder, results: Results | None, info: ModelInfo | None) -> list[Chapter]:
    """Return what an evaluation found."""
    if results is None or info is None:
        return []
    found: list[Chapter] = []
    viewers = _viewers(folder, results, info)
    sheets = [
        contact_sheet(
            folder.evaluation / SHEET / source,
            modality_text(source),
            modality_text(results.target),
        )
        for source in results.sources
    ]
    if any(sheets) or viewers:
        body = joined(sheets) + _look(results, viewers)
        found.append(Chapter("Images", body, "images"))
    if any(m.group == "prediction" for m in results.metrics):
        found.append(Chapter("Predictions", predictions_section(results), "predictions"))
    if results.sources:
        body = audit_section(results.audits, viewers)
        found.append(Chapter("Audits of the translator", body, "audits", "Audits"))
    images = [m for m in results.metrics if m.group == "translation"]
    if images:
        windows = [f"{name}: {text}" for name, text in results.windows.items()]
        body = images_section(images, windows)
        found.append(Chapter("Translated images as a set", body, "likeness", "As a set"))
    taught = [m for m in results.metrics if m.group == "tstr" and m.value is not None]
    if taught:
        body = taught_section(taught)
        found.append(
            Chapter("Train on translated, test on real", body, "tstr", "Train on translated")
        )
    missing = [m for m in results.metrics if m.value is None]
    if missing:
        body = missing_section(missing)
        found.append(Chapter("What could not be measured", body, "missing", "Not measured"))
    return found


def _viewers(folder: RunFolder, results: Results, info: ModelInfo) -> dict[str, Viewer]:
    audited = {audit.source for audit in results.audits}
    places = {source: folder.evaluation / EXAMPLES / source for source in results.sources}
    # Audits leave examples; an evaluation without audits has none.
    places = {source: at for source, at in places.items() if at.is_dir() or source in audited}
    return {
        source: viewer(place, source, results.target, info.target_recipe, most=BYTES // len(places))
        for source, place in places.items()
    }


def _look(results: Results, viewers: Mapping[str, Viewer]) -> Markup:
    if not viewers:
        return Markup("")
    unseen = "Test patients, whom training never saw. " if results.policy == "patient" else ""
    hint = (
        f"{unseen}Drag in the first image to wipe between source and translation, in the others "
        "for level and window, or use the sliders; arrow keys show other examples. Those that look "
        "worst come first."
    )
    heading = tag("h3", "A closer look, the worst first", class_="screen")
    shown = joined(each.body for each in viewers.values())
    return heading + tag("p", hint, class_="screen") + shown


def _trained(events: Sequence[Mapping[str, Any]]) -> list[Chapter]:
    """Return how the training went."""
    drawn = [drawn_figure(each, f"training {each.title}") for each in curves(events)]
    alarms = [
        f"Step {e['step']}, {e.get('kind')}: {e.get('text')}. {e.get('advice')}"
        for e in events
        if e.get("event") == "alarm"
    ]
    said = bullets(alarms) if alarms else paragraph("The training raised no alarm.")
    return [Chapter("Training", charts(drawn) + said, "training")] if drawn or alarms else []


def _methods(
    config: Config,
    info: ModelInfo,
    results: Results | None,
    events: Sequence[Mapping[str, Any]],
    against: Against | None,
) -> Chapter:
    """Return a paragraph to copy, with its citations."""
    text, works = methods_text(config, info, results, events, against)
    cited = tag("ol", *(tag("li", work) for work in works))
    inside = tag("div", tag("p", text), cited, class_="cite", id="methods-text")
    copy = tag("button", "Copy", type="button", data_copy="methods-text")
    said = tag("span", "", aria_live="polite", class_="note")
    body = paragraph("What this run did, for a paper. Check it, and add what medxlate cannot know.")
    return Chapter(
        "Methods, to copy", body + inside + tag("p", copy, " ", said), "methods", "Methods"
    )


def _technical(
    config: Config,
    results: Results | None,
    info: ModelInfo | None,
    events: Sequence[Mapping[str, Any]],
) -> Chapter:
    default = flat(Config())
    hidden = ("data.folder", "model.pretrained")
    changed = [[k, v, default[k]] for k, v in _shown(flat(config), hidden) if v != default[k]]
    body = table(["what", "value"], list(_machinery(config, results, events).items()))
    body += tag("h3", "Changed from the defaults")
    body += table(["key", "value", "default"], [[k, str(v), str(d)] for k, v, d in changed])
    settings = table(["key", "value"], [[k, str(v)] for k, v in _shown(flat(config), hidden)])
    body += folded("All settings", settings)
    if info is not None and info.plugins:
        rows = [[e.kind, e.name, f"{e.distribution} {e.version}", e.sha256] for e in info.plugins]
        body += tag("h3", "Plug-ins")
        body += table(["kind", "name", "package", "SHA-256"], rows)
    hashes = dict(results.model) if results is not None else {}
    if info is not None:
        hashes = weights_hashes(info)
    if hashes:
        body += tag("h3", "Weights")
        body += table(["file", "SHA-256"], list(hashes.items()))
    return Chapter("Settings, versions, hashes", body, "technical", "Settings")


def _shown(values: Mapping[str, Any], hidden: Sequence[str]) -> list[tuple[str, Any]]:
    return [(key, value) for key, value in values.items() if key not in hidden]


def _facts(
    folder: RunFolder,
    config: Config,
    results: Results | None,
    events: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return what the page is about, for its head; days only where they were recorded."""
    facts: dict[str, Any] = {"Run": folder.path.name, "Method": config.method}
    if results is not None and results.task is not None:
        unit = f" ({results.task.unit})" if results.task.unit else ""
        facts["Label"] = f"{results.task.name}{unit}"
    facts["Data set"] = Path(config.data.folder).resolve().name
    if results is not None:
        facts["Tested on"] = (
            f"{plural(results.patients, 'patient')}, {plural(results.images, 'image')}"
        )
        if results.day:
            facts["Evaluated"] = results.day
    by = "patient" if config.split.policy == "patient" else "image"
    facts["Split"] = f"by {by}, seed {config.split.seed}"
    days = [event["day"] for event in events if isinstance(event.get("day"), str)]
    if days:
        facts["Trained"] = days[-1]
    return facts


def _machinery(
    config: Config, results: Results | None, events: Sequence[Mapping[str, Any]]
) -> dict[str, str]:
    """Return how far the training went, how fast, and with which versions."""
    found: dict[str, str] = {}
    epochs = [e for e in events if e.get("event") == "epoch"]
    if epochs:
        found["Epochs"] = f"{epochs[-1].get('epoch')} of {config.optimizer.epochs}"
        found["Steps"] = str(epochs[-1].get("step"))
    rates = [e["images_per_second"] for e in events if e.get("event") == "step"]
    if rates:
        found["Training speed"] = f"{statistics.median(rates):.3g} images/s"
    if results is not None:
        found["Evaluated on"] = f"{results.device}, {results.precision}"
        if results.judge:
            found["Translations judged by"] = results.judge
        found["Evaluation took"] = f"{sum(results.seconds.values()):.1f} s"
    return found | ({"medxlate": __version__} if results is None else results.versions)


def _as_json(verdict: Verdict, results: Results | None) -> dict[str, Any]:
    """Return what report.json holds: the verdict, and the evaluation without images."""
    found = None if results is None else results.model_dump(mode="json")
    return {
        "badge": verdict.badge,
        "verdict": list(verdict.sentences),
        "tone": verdict.tone,
        "evaluation": found,
    }
