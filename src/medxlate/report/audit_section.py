"""The audits of a translator in a report: a light each, and what each found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from medxlate.evaluation.results import Audit
from medxlate.report.charts import draw, drawn_values
from medxlate.report.page import Level, Light, badge, figure, joined, paragraph, tag
from medxlate.report.viewer import Viewer

QUESTIONS = {
    "label-preservation": "Do translated images keep the label?",
    "memorisation": "Are they copies of training images?",
    "prevalence": "Do source and target patients differ in the label?",
    "domain-gap": "Can translated images be told from real ones?",
    "identity": "Does the translator do anything?",
    "inversion": "Is the contrast the right way round?",
    "tissue": "Do tissues have the right HU?",
    "jitter": "Do slices of a volume fit together?",
}
TITLES = {
    "label-preservation": "Label kept",
    "memorisation": "No copies",
    "prevalence": "Similar labels",
    "domain-gap": "Looks real",
    "identity": "Changes images",
    "inversion": "Contrast",
    "tissue": "Tissue HU",
    "jitter": "Smooth slices",
}
# Where these fire, the translated images are not what they are taken for; the others say that
# something limits what they are good for.
GRAVE = ("label-preservation", "memorisation", "identity", "inversion")
ORDER: tuple[Level, ...] = ("green", "grey", "amber", "red")
LEGEND = (
    "Red: do not rely on the translated images until this is solved. Amber: this limits what they "
    "can be used for. Grey: there was too little data to tell, or it was not checked."
)


def level_of(audit: Audit) -> Level:
    """Return an audit's light."""
    if audit.status == "fires":
        return "red" if audit.kind in GRAVE else "amber"
    return "green" if audit.status == "ok" else "grey"


def lights(audits: Sequence[Audit]) -> list[Light]:
    """Return the eight lights in their order; of several sources each shows the worst.

    Args:
        audits: Those of an evaluation; none: all are grey.
    """
    found = []
    for kind, title in TITLES.items():
        own = [audit for audit in audits if audit.kind == kind]
        worst = max(own, key=lambda audit: ORDER.index(level_of(audit)), default=None)
        level: Level = "grey" if worst is None else level_of(worst)
        found.append(Light(title, level, "audits" if worst is None else _anchor(worst)))
    return found


def audit_section(audits: Sequence[Audit], viewers: Mapping[str, Viewer]) -> Markup:
    """Return what each audit found.

    Args:
        audits: Those of an evaluation; none: it says how to take them.
        viewers: Of examples, by source.
    """
    if not audits:
        return paragraph("The translator was not audited: `medxlate evaluate` does it.")
    found = joined(_audit(each, viewers.get(each.source)) for each in audits)
    return tag("p", LEGEND, class_="note") + found


def _anchor(audit: Audit) -> str:
    return f"audit-{audit.kind}-{audit.source}"


def _audit(audit: Audit, viewer: Viewer | None) -> Markup:
    parts = [
        tag("h3", QUESTIONS.get(audit.kind, audit.kind), " ", badge(level_of(audit))),
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
        parts.append(
            tag("p", "Look at: ", *[p for link in links for p in (link, " ")], class_="screen")
        )
    if audit.picture is not None:
        name = f"{audit.kind} {audit.source}"
        parts.append(
            figure(
                draw(audit.picture),
                caption=audit.picture.note,
                csv=drawn_values(audit.picture),
                name=name,
            )
        )
    return tag("div", *parts, class_="audit", id=_anchor(audit))
