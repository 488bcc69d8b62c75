"""The rule of an audit, and the record of its result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medxlate.evaluation.results import Audit, Picture

Status = Literal["ok", "fires", "unknown"]


@dataclass(frozen=True)
class Rule:
    """When an audit fires.

    Attributes:
        kind: The audit's stable name.
        text: The rule in words.
        advice: What to do where it fires.
        threshold: The value from which it fires; None where it is not a single number.
    """

    kind: str
    text: str
    advice: str
    threshold: float | None

    def audit(
        self,
        source: str,
        status: Status,
        sentence: str,
        *,
        value: float | None = None,
        picture: Picture | None = None,
        worst: tuple[int, ...] = (),
    ) -> Audit:
        """Return the result for a source, numbers with four decimals; see ``Audit``."""
        return Audit(
            kind=self.kind,
            source=source,
            status=status,
            value=None if value is None else round(value, 4),
            threshold=None if self.threshold is None else round(self.threshold, 4),
            rule=self.text,
            sentence=sentence,
            advice=self.advice if status == "fires" else "",
            picture=picture,
            worst=worst,
        )
