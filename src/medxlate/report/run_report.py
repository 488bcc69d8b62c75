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
from medxlate.base.errors import UsageError
from medxlate.base.files import write_json
from medxlate.config import Config, flat
from medxlate.evaluation.results import (
    EXAMPLES,
    Audit,
    Metric,
    Results,
    prediction_table,
    read_results,
    taught_in,
    trained_on,
    value_text,
)
from medxlate.report.charts import draw
from medxlate.report.comparison_charts import Errors, interval_chart
from medxlate.report.page import (
    Chapter,
    Verdict,
    badge,
    bullets,
    charts,
    figure,
    joined,
    paragraph,
    table,
    tag,
    write_page,
)
from medxlate.report.printing import between, short
from medxlate.report.run_verdict import against_baseline, of_run
from medxlate.report.split_section import division_of
from medxlate.report.training_curves import curves
from medxlate.report.viewer import BYTES, Viewer, viewer
from medxlate.training.record import read_events

NAMES = {
    "label-preservation": "Do translated images keep the label?",
    "memorisation": "Are they copies of training images?",
    "prevalence": "Do source and target patients differ in the label?",
    "domain-gap": "Can translated be told from real images?",
    "identity": "Does the translator do anything?",
    "inversion": "Is the contrast the right way round?",
    "tissue": "Do tissues have their HU?",
    "jitter": "Do slices of a volume fit together?",
}
OUTDATED = (
    "These figures are of an earlier state of this run: evaluate it again with `medxlate evaluate`."
)


@dataclass(frozen=True)
class Report:
    """What ``write_report`` made.

    Attributes:
        path: The page.
        verdict: Its first sentences.
        bytes: Its size.
    """

    path: Path
    verdict: tuple[str, ...]
    bytes: int


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
        baseline: An evaluated run on the same split to compare with, trained without translated
            images, say.
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
    verdict = of_run(results, config.split.policy)
    if baseline is not None:
        verdict = verdict.then(against_baseline(folder, find_run(Path(baseline))))
    if info is not None and results is not None and results.model != weights_hashes(info):
        verdict = verdict.doubted(OUTDATED)
    if division.leak:
        verdict = verdict.doubted(f"{division.leak} Do not trust these figures.", "bad")
    events = read_events(folder.metrics)
    chapters = [*_evaluated(folder, results, info), *_trained(events)]
    chapters += [
        Chapter("Patients and leaks", division.body, "patients"),
        _technical(config, results, info),
    ]
    path = folder.report if out is None else _page(Path(out))
    write_page(
        path,
        title=f"{', '.join(config.data.sources)} to {config.data.target}"
        if info is None or info.translators
        else f"Prediction from {config.data.target}",
        verdict=verdict,
        chapters=chapters,
        facts=_facts(folder, config, results, events),
    )
    write_json(path.with_suffix(".json"), _as_json(verdict, results))
    return Report(path, tuple(verdict.sentences), path.stat().st_size)


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
    audited = {audit.source for audit in results.audits}
    places = {source: folder.evaluation / EXAMPLES / source for source in results.sources}
    # Audits leave examples; an evaluation without audits has none.
    places = {source: at for source, at in places.items() if at.is_dir() or source in audited}
    viewers = {
        source: viewer(place, source, results.target, info.target_recipe, most=BYTES // len(places))
        for source, place in places.items()
    }
    if viewers:
        hint = (
            "Drag in the first image to wipe between source and translation, in the others for "
            "level and window, or use the sliders; arrow keys show other examples. Those that look "
            "worst come first."
        )
        unseen = "Test patients, whom training never saw. "
        hint = (unseen if results.policy == "patient" else "") + hint
        body = paragraph(hint) + joined(each.body for each in viewers.values())
        found.append(Chapter("Images", body, "images"))
    drawn = [figure(draw(each)) for each in results.pictures.values()]
    predictions = [m for m in results.metrics if m.group == "prediction"]
    if predictions:
        body = charts(drawn) + _predictions(predictions) + _groups(results)
        found.append(Chapter("Predictions", body, "predictions"))
    images = [m for m in results.metrics if m.group == "translation"]
    if images:
        windows = [f"{name}: {text}" for name, text in results.windows.items()]
        body = _images_table(images) + _notes(images) + bullets(windows)
        found.append(Chapter("Translated images as a set", body, "likeness"))
    taught = [m for m in results.metrics if m.group == "tstr" and m.value is not None]
    if taught:
        found.append(Chapter("Train on translated, test on real", _taught_table(taught), "tstr"))
    if results.audits:
        body = joined(_audit(each, viewers.get(each.source)) for each in results.audits)
        found.append(Chapter("Audits of the translator", body, "audits"))
    missing = [m for m in results.metrics if m.value is None]
    if missing:
        said = [f"{m.label} ({m.level or m.source}): {m.reason} {m.remedy}" for m in missing]
        found.append(Chapter("What could not be taken", bullets(said), "missing"))
    return found


def _trained(events: Sequence[Mapping[str, Any]]) -> list[Chapter]:
    """Return how the training went."""
    found = []
    drawn = [figure(draw(each)) for each in curves(events)]
    alarms = [
        f"Step {e['step']}, {e.get('kind')}: {e.get('text')}. {e.get('advice')}"
        for e in events
        if e.get("event") == "alarm"
    ]
    said = bullets(alarms) if alarms else paragraph("The training raised no alarm.")
    if drawn or alarms:
        found.append(Chapter("Training", charts(drawn) + said, "training"))
    return found


def _technical(config: Config, results: Results | None, info: ModelInfo | None) -> Chapter:
    default = flat(Config())
    hidden = ("data.folder", "model.pretrained")
    changed = [[k, v, default[k]] for k, v in _shown(flat(config), hidden) if v != default[k]]
    body = tag("h3", "Changed from the defaults")
    body += table(["key", "value", "default"], [[k, str(v), str(d)] for k, v, d in changed])
    settings = table(["key", "value"], [[k, str(v)] for k, v in _shown(flat(config), hidden)])
    body += tag("details", tag("summary", "All settings"), settings)
    hashes = dict(results.model) if results is not None else {}
    if info is not None:
        hashes = weights_hashes(info)
    if hashes:
        body += tag("h3", "Weights")
        body += table(["file", "SHA-256"], list(hashes.items()))
    return Chapter("Settings, versions, hashes", body, "technical")


def _shown(values: Mapping[str, Any], hidden: Sequence[str]) -> list[tuple[str, Any]]:
    return [(key, value) for key, value in values.items() if key not in hidden]


def _facts(
    folder: RunFolder,
    config: Config,
    results: Results | None,
    events: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    facts: dict[str, Any] = {"Run": folder.path.name, "Method": config.method}
    epochs = [e for e in events if e.get("event") == "epoch"]
    if epochs:
        facts["Epochs"] = f"{epochs[-1].get('epoch')} of {config.optimizer.epochs}"
        facts["Steps"] = epochs[-1].get("step")
    if results is not None:
        facts["Test images"] = f"{results.images} of {results.patients} patients"
        facts["Evaluated on"] = f"{results.device}, {results.precision}"
        if results.judge:
            facts["Translations judged by"] = results.judge
        facts["Evaluation took"] = f"{sum(results.seconds.values()):.1f} s"
    rates = [e["images_per_second"] for e in events if e.get("event") == "step"]
    if rates:
        facts["Training speed"] = f"{statistics.median(rates):.3g} images/s"
    made = {"medxlate": __version__} if results is None else results.versions
    facts |= made
    return facts


def _predictions(metrics: Sequence[Metric]) -> Markup:
    titles, found = prediction_table(metrics)
    rows = [
        [name, *(value_text(each, short, "") or None for each in cells)]
        for name, cells in found.items()
    ]
    how = next((m.interval for m in metrics if m.interval), "")
    intervals = f"with 95 % intervals ({how})" if how else "without intervals"
    caption = f"Figures of the test part, {intervals}; beside each what a constant "
    return table(["figure", *titles], rows, caption=f"{caption}prediction has")


def _images_table(metrics: Sequence[Metric]) -> Markup:
    """Return the figures of translated images as a set, beside those of real ones."""
    rows = [
        [f"{m.source}: {m.label}", m.value, between(m.low, m.high), m.floor, m.n, m.reference]
        for m in metrics
        if m.value is not None
    ]
    columns = ["figure", "value", "95 % interval", "real against real", "translated", "real"]
    return table(columns, rows, caption="Translated against real test images")


def _taught_table(metrics: Sequence[Metric]) -> Markup:
    """Return how small predictors do on real test patients, by what they were trained on."""
    rows = [[trained_on(m), m.value, between(m.low, m.high), m.n] for m in metrics]
    unit = f", {metrics[0].unit}" if metrics[0].unit else ""
    caption = "A small predictor on real test patients, by what it was trained on"
    columns = ["trained on", f"{taught_in(metrics[0])}{unit}", "95 % interval", "test patients"]
    return table(columns, rows, caption=caption) + _notes(metrics)


def _notes(metrics: Sequence[Metric]) -> Markup:
    """Return what a reader of some figures must know, and how their intervals were found."""
    ways: dict[str, list[str]] = {}
    for m in metrics:
        if m.interval and m.label not in ways.setdefault(m.interval, []):
            ways[m.interval].append(m.label)
    intervals = [f"Interval of {', '.join(names)}: {how}." for how, names in ways.items()]
    return bullets(list(dict.fromkeys([*(n for m in metrics for n in m.notes), *intervals])))


def _groups(results: Results) -> Markup:
    if not results.groups:
        return Markup("")
    is_ages = results.task is not None and results.task.kind == "regression"
    what = (
        f"mean absolute error ({results.task.unit})" if is_ages and results.task else "error rate"
    )
    rows = [
        [g.name, g.images, g.patients, g.error, between(g.low, g.high), g.bias]
        for g in results.groups
    ]
    columns = ["group", "images", "patients", what, "95 % interval", "bias"]
    drawn = interval_chart(
        [Errors(g.name, (g.error,), _pair(g.low, g.high)) for g in results.groups],
        title="Errors by label, with 95 % intervals over patients",
        label=what,
    )
    return table(columns, rows, caption="Errors by label") + charts([figure(drawn)])


def _audit(audit: Audit, viewer: Viewer | None) -> Markup:
    parts = [
        tag("h3", NAMES.get(audit.kind, audit.kind), " ", badge(audit.status)),
        tag("p", f"{audit.source}: {audit.sentence}"),
        tag("p", f"{audit.kind}: {audit.rule}", class_="note"),
    ]
    if audit.advice:
        parts.append(paragraph(audit.advice))
    worst = [] if viewer is None else [i for i in audit.worst if i < viewer.shown]
    if viewer is not None and worst:
        links = [
            tag("button", f"Example {i + 1}", type="button", data_viewer=viewer.key, data_example=i)
            for i in worst
        ]
        parts.append(tag("p", "Look at: ", *[part for link in links for part in (link, " ")]))
    if audit.picture is not None:
        parts.append(figure(draw(audit.picture)))
    return tag("div", *parts, class_="audit")


def _pair(low: float | None, high: float | None) -> tuple[float, float] | None:
    return None if low is None or high is None else (low, high)


def _as_json(verdict: Verdict, results: Results | None) -> dict[str, Any]:
    """Return what report.json holds: the verdict, and the evaluation without images."""
    found = None if results is None else results.model_dump(mode="json")
    return {"verdict": list(verdict.sentences), "tone": verdict.tone, "evaluation": found}
