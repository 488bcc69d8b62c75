"""What a study of the same data says, for the report of a run.

A study leaves its answer in ``statistics.json``; here it is only read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from medxlate.artifacts.runs import RunFolder
from medxlate.base.errors import MedxlateError, ModelError
from medxlate.base.records import read_object
from medxlate.config import Config
from medxlate.report.page import Tone, Verdict

TONES: tuple[Tone, ...] = ("good", "bad", "unsure")


@dataclass(frozen=True)
class StudyAnswer:
    """A study's answer.

    Attributes:
        study: The name of its folder.
        sentence: Its first sentence.
        badge: The answer in a few words.
        tone: How good the news is.
    """

    study: str
    sentence: str
    badge: str
    tone: Tone

    def beside(self, verdict: Verdict, *, compared: bool) -> Verdict:
        """Return a run's verdict with the study's answer.

        Args:
            verdict: The run's.
            compared: Whether the run itself answers; else the study does, which has more splits.
        """
        said = f"The study {self.study} of the same data: {self.badge}. {self.sentence}"
        if compared or verdict.badge == "Not evaluated yet":
            return verdict.then(said)
        tone: Tone = "unsure" if verdict.tone == "bad" else self.tone
        return replace(verdict, sentences=(said, *verdict.sentences), badge=self.badge, tone=tone)


def study_answer(run: RunFolder, config: Config) -> StudyAnswer | None:
    """Return the answer of a study that lies beside the folder of runs, of the same data.

    It is of the same target, sources and method, and of the very images: the hashes that run and
    study keep of their modalities are the same. None where there is none.
    """
    try:
        own = read_object(run.split, error=ModelError).get("slices")
    except MedxlateError:
        return None
    if not isinstance(own, dict):
        return None
    used = (config.data.target, *config.data.sources)
    for path in sorted(run.path.absolute().parent.parent.glob("*/statistics.json")):
        try:
            study = read_object(path.with_name("study.json"), error=ModelError)
            said = read_object(path, error=ModelError).get("headline")
        except MedxlateError:
            continue
        prints = study.get("fingerprints")
        if not isinstance(said, dict) or not isinstance(prints, dict):
            continue
        same = all(name in own and own[name] == prints.get(name) for name in used)
        about = (said.get("method"), said.get("sources"))
        if same and about == (config.method, "+".join(config.data.sources)):
            tone = said.get("tone")
            return StudyAnswer(
                path.parent.name,
                str(said.get("sentence", "")),
                str(said.get("badge", "")),
                tone if tone in TONES else "unsure",
            )
    return None
