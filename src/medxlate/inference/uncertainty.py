"""The intervals of predictions, of one model or of the mean of several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from medxlate.artifacts.calibration import Calibration, Level, fewest_patients
from medxlate.inference.request import check_level

OLD = "the model comes from an older version without calibration; train or export it again"


@dataclass(frozen=True)
class Uncertainty:
    """How far the mean prediction of some models may be off.

    With several models, each is asked for the coverage 1 - (1 - coverage) / K: all K intervals then
    hold together with the wanted probability (Bonferroni), and where they do, the truth is no
    further from the mean of the predictions than the mean of the half widths. So the interval is
    valid, and wider than it would have to be.

    Attributes:
        calibrations: Of each model; None where it has none.
        coverage: The wanted share of new patients whose truth is within, in (0, 1).
    """

    calibrations: Sequence[Calibration | None]
    coverage: float

    def __post_init__(self) -> None:
        """Raise UsageError where the coverage is not between 0 and 1."""
        check_level(self.coverage)

    @property
    def asked(self) -> float:
        """The coverage that each model is asked for."""
        return 1 - (1 - self.coverage) / len(self.calibrations)

    def half_width(self, level: Level) -> float:
        """Return the half width of an interval, in the label's unit; infinite without one."""
        return sum(
            math.inf if each is None else each.half_width(level, self.asked)
            for each in self.calibrations
        ) / len(self.calibrations)

    def notes(self) -> list[str]:
        """Return why there are no intervals, or probabilities are not calibrated; sentences."""
        found = []
        for each in self.calibrations:
            reason = OLD if each is None else each.reason
            few = fewest_patients(self.asked)
            if not reason and each is not None and each.kind == "conformal" and each.patients < few:
                many = f" of {len(self.calibrations)} models" if len(self.calibrations) > 1 else ""
                reason = (
                    f"an interval{many} that covers {100 * self.coverage:.4g} % of patients needs "
                    f"at least {few} validation patients, and there were {each.patients}"
                )
            if reason:
                is_temperature = each is not None and each.kind == "temperature"
                what = (
                    "Probabilities are not calibrated"
                    if is_temperature
                    else "No prediction intervals"
                )
                found.append(f"{what}: {reason}.")
        if len(self.calibrations) > 1 and all(
            each is not None and each.kind == "temperature" for each in self.calibrations
        ):
            found.append(
                "Probabilities are means over the calibrated models; the means were not calibrated."
            )
        return list(dict.fromkeys(found))
