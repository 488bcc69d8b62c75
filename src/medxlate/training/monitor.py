"""Numbers that go wrong in a training: cheap measures, reported with advice.

Adversarial training fails in ways that no error says: a discriminator that has won, a translator
that copies, or gives one image for all, or black for white. Each is judged from numbers that the
training has anyway, and reported once until it is well again.
``docs/how-to/when-training-goes-wrong.md`` is for people; it has what the limits come from.

Losses are those of ``method/terms.py``. Images are [B, 1, H, W] in [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from medxlate.base.events import Alarmed
from medxlate.method.label_transform import LabelTransform
from medxlate.method.terms import Family, find_term

# Two in a row, for a single window of few images may be off.
LOOKS = 2
# Generators have not learned anything before, whatever their images look like.
SETTLED = 100
WARM = 200  # steps before a discriminator's loss is judged
# Losses of discriminators come in spikes, so they are averaged over about as many steps, no spike
# counting for more than this.
SMOOTHED = 50
HIGHEST = 2.0


@dataclass(frozen=True)
class AlarmRule:
    """A way in which a training goes wrong.

    Attributes:
        name: For machines; it does not change.
        limit: Beyond it the value is bad.
        well: Within it the value is well again; between the two nothing changes.
        above: Whether values above the limit are bad, or those below.
        steps: For how many steps it has to be bad.
        looks: How often in a row it has to be seen bad.
        what: What it means, with places for ``where`` and ``value``.
        advice: What to do, in one sentence.
    """

    name: str
    limit: float
    well: float
    above: bool
    steps: int
    looks: int
    what: str
    advice: str


# A least-squares discriminator that always says 1/2 has a loss of 0.25, one that always says 0 has
# 0.5. Sound trainings keep to 0.1 to 0.5 after their first hundred steps; in these, a wide one at
# batch 1 has 1 to 2.
EXPLODED = AlarmRule(
    "discriminator-exploded",
    limit=1.0,
    well=0.5,
    above=True,
    steps=0,
    looks=1,
    what="the discriminator loss {where} averages {value:.3g} (steps capped at 2), far above the "
    "0.25 of a discriminator that only guesses",
    advice="Lower optimizer.translator_lr.",
)
WON = AlarmRule(
    "discriminator-won",
    limit=0.02,  # judgements are off by 0.14
    well=0.05,
    above=False,
    steps=200,
    looks=LOOKS,
    what="the discriminator loss {where} stays at {value:.3g}: the discriminator recognises every "
    "translated image, so the generators no longer learn from it",
    advice="Lower objective.lambda_cycle if you raised it, otherwise model.discriminator_width or "
    "optimizer.translator_lr.",
)
COPIES = AlarmRule(
    "copies-input",
    limit=0.25,  # a translation that has the target's grey values cannot be below 1
    well=0.5,
    above=False,
    steps=0,
    looks=LOOKS,
    what="the translator of {where} copies its input: it changes grey values by only {value:.2g} "
    "of the difference between the two modalities",
    advice="Lower objective.lambda_cycle or objective.lambda_identity: a copy minimises both.",
)
CONSTANT = AlarmRule(
    "constant-output",
    limit=0.05,
    well=0.2,
    above=False,
    steps=0,
    looks=LOOKS,
    what="the images translated from {where} are almost uniformly grey: their contrast is "
    "{value:.2g} times that of real images",
    advice="Train again with a lower optimizer.translator_lr: a translator rarely recovers from "
    "this.",
)
COLLAPSED = AlarmRule(
    "mode-collapse",
    limit=0.05,
    well=0.2,
    above=False,
    steps=0,
    looks=LOOKS,
    what="the images translated from {where} are almost the same for all inputs: they vary only "
    "{value:.2g} times as much as real images",
    advice="Train again with a lower optimizer.translator_lr, or raise objective.lambda_cycle.",
)
INVERTED = AlarmRule(
    "contrast-inverted",
    limit=1 / 3,  # turned images are twice as near
    well=0.0,
    above=True,
    steps=0,
    looks=LOOKS,
    what="the images translated from {where} look like negatives of real ones: inverted, their "
    "grey values fit better ({value:.2g} on a scale from -1, correct, to 1, inverted)",
    advice="Raise objective.lambda_identity (to 5, say), or train again with another runtime.seed.",
)
ASTRAY = AlarmRule(
    "predictor-astray",
    limit=3.0,
    well=1.5,
    above=True,
    steps=200,
    looks=3,  # a validation part of few patients swings
    what="the validation error of {where} is {value:.3g} times that of a constant prediction",
    advice="Lower optimizer.predictor_lr, or validate on more patients (split.val).",
)
# At a tenth to a half of the translation's own gradient the predictor is heard and does not decide.
UNHEARD = AlarmRule(
    "guidance-unheard",
    limit=0.02,
    well=0.05,
    above=False,
    steps=50,
    looks=LOOKS,
    what="at images translated from {where}, the predictor's gradient is only {value:.2g} times "
    "that of the translation losses: the label barely guides the translation",
    advice="Raise objective.lambda_predict.",
)
OVERRULED = AlarmRule(
    "guidance-overrules",
    limit=1.0,
    well=0.7,
    above=True,
    steps=50,
    looks=LOOKS,
    what="at images translated from {where}, the predictor's gradient is {value:.2g} times that of "
    "the translation losses: the translations serve the predictor rather than look like the target",
    advice="Lower objective.lambda_predict.",
)
KINDS = (EXPLODED, WON, COPIES, CONSTANT, COLLAPSED, INVERTED, ASTRAY, UNHEARD, OVERRULED)

# Which families of losses are judged, by what, and how much a step counts at most.
_JUDGED: Mapping[Family | Literal[""], tuple[tuple[AlarmRule, ...], float]] = {
    "discriminators": ((EXPLODED, WON), HIGHEST),
    "guidance": ((UNHEARD, OVERRULED), math.inf),
}

# Modalities whose grey values differ by less than this share of the spread may be copied.
ALIKE = 0.1
_POINTS = 512  # of a distribution of grey values
_VALUES = 2**18  # of which it is taken at most


@dataclass
class _Record:
    """How long a value has been bad.

    Attributes:
        good: The last step at which it was not bad, or the first at which it was judged.
        looks: How often it was bad since.
        told: Whether that was reported (its name in checkpoints).
    """

    good: int
    looks: int = 0
    told: bool = False


def _family(name: str) -> Family | Literal[""]:
    term = find_term(name)[1]
    return term.family if term else ""


class TrainingMonitor:
    """Judges the numbers of one training; it keeps what it saw, and changes nothing."""

    def __init__(self) -> None:
        self._records: dict[str, _Record] = {}
        self._means: dict[str, float] = {}
        self._step = 0  # of the last losses
        self._guided: list[str] = []  # ratios among them

    def losses(self, step: int, losses: Mapping[str, float]) -> list[Alarmed]:
        """Judge the mean losses of the steps since the last call.

        Args:
            step: Steps taken so far.
            losses: By the names of ``method/terms.py``; those of the families judged count.
        """
        found: list[Alarmed] = []
        weight = 1 - math.exp((self._step - step) / SMOOTHED)
        self._step = step
        self._guided = [name for name in losses if _family(name) == "guidance"]
        for name, value in losses.items():
            kinds, most = _JUDGED.get(_family(name), ((), 0.0))
            if not kinds or not math.isfinite(value):
                continue
            latest = min(value, most)
            mean = self._means.get(name, latest)
            self._means[name] = mean + weight * (latest - mean)
            for kind in kinds if step >= WARM else ():
                found += self._judge(kind, step, name, self._means[name])
        return found

    def ratios(self) -> dict[str, float]:
        """Return the ratio of the two gradients at G(y), averaged, by source; see ``Guidance``.

        Only of sources that P has guided since the last call of ``losses``.
        """
        return {name: self._means[name] for name in self._guided}

    def images(
        self, step: int, source: str, real_s: Tensor, fake_t: Tensor, real_t: Tensor
    ) -> list[Alarmed]:
        """Judge a few translated images; nothing before the generators can have learned.

        The other direction can be judged likewise, with the roles exchanged and another name.

        Args:
            step: Steps taken so far.
            source: The modality that is translated, for the message.
            real_s: Source images y [B, 1, H, W].
            fake_t: Their translations G(y) [B, 1, H, W].
            real_t: Target images x, of whomever [N, 1, H, W].
        """
        if step < SETTLED:
            return []
        found: list[Alarmed] = []
        for kind, value in image_values(real_s, fake_t, real_t).items():
            found += self._judge(kind, step, source, value)
        return found

    def validation(self, step: int, target: str, error: float, constant: float) -> list[Alarmed]:
        """Judge the predictor's validation error.

        Args:
            step: Steps taken so far.
            target: On which modality, for the message.
            error: ``val_error`` of the loop.
            constant: What ``constant_error`` returned.
        """
        if constant <= 0:  # all labels are alike
            return []
        return self._judge(ASTRAY, step, target, error / constant)

    def state(self) -> dict[str, Any]:
        """Return what it saw, as JSON takes it."""
        records = {name: vars(record).copy() for name, record in self._records.items()}
        return {
            "step": self._step,
            "means": dict(self._means),
            "guided": list(self._guided),
            "records": records,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state`` returned.

        Raises:
            KeyError, TypeError, ValueError: It is something else.
        """
        self._step, self._means = int(state["step"]), dict(state["means"])
        self._guided = [name for name in state.get("guided", []) if name in self._means]
        self._records = {name: _Record(**record) for name, record in state["records"].items()}

    def _judge(self, kind: AlarmRule, step: int, where: str, value: float) -> list[Alarmed]:
        """Return an alarm where a value has been bad for long enough and this was not reported."""
        record = self._records.setdefault(f"{kind.name} {where}", _Record(good=step))
        sign = 1 if kind.above else -1
        if sign * value <= sign * kind.well:
            record.told = False
        if not sign * value > sign * kind.limit:  # so too where it is not a number
            record.good, record.looks = step, 0
            return []
        record.looks += 1
        if record.told or record.looks < kind.looks or step - record.good < kind.steps:
            return []
        record.told = True
        what = kind.what.format(where=where, value=value)
        return [Alarmed(step, kind.name, where.partition(".")[0], value, what, kind.advice)]


def image_values(real_s: Tensor, fake_t: Tensor, real_t: Tensor) -> dict[AlarmRule, float]:
    """Return the values that a few images are judged by; arguments as for ``images`` above.

    A value that cannot be taken (of a single image, of modalities that look alike) is left out.
    """
    y, fake, x = (images.detach().float() for images in (real_s, fake_t, real_t))
    found: dict[AlarmRule, float] = {}
    flat = _ratio(_contrast(fake), _contrast(x))
    found[CONSTANT] = flat
    if min(len(y), len(x)) > 1:
        found[COLLAPSED] = _ratio(_variety(fake), min(_variety(x), _variety(y)))
    grey_y, grey_fake, grey_x = (_grey_values(images) for images in (y, fake, x))
    gap = _distance(grey_y, grey_x)
    if gap > ALIKE * float(y.std()):
        # No change of y brings its grey values to the target's that is smaller, on average.
        found[COPIES] = float((fake - y).abs().mean()) / gap
    if flat > CONSTANT.limit:  # one grey has no contrast to be inverted
        right, turned = _distance(grey_fake, grey_x), _distance(-grey_fake.flip(0), grey_x)
        found[INVERTED] = (right - turned) / max(right + turned, 1e-6)
    return found


def constant_error(train: Tensor, val: Tensor, head: LabelTransform) -> float:
    """Return the ``val_error`` of a prediction that ignores the image.

    The mean squared error of the mean training label, or the cross-entropy of the training classes'
    frequencies (a class that training does not have counts as rare as 1e-12, as in the loop).

    Args:
        train: The predictor's training labels [N] on what it is validated on.
        val: Validation labels [M].
        head: Whether they are values or classes.
    """
    if head.task.kind == "regression":
        mean = train.double().mean().expand(len(val))
        return float(F.mse_loss(mean, val.double()))
    counts = torch.bincount(train, minlength=head.outputs).double()
    return float(-(counts / counts.sum())[val].clamp(min=1e-12).log().mean())


def _contrast(images: Tensor) -> float:
    """Return the mean standard deviation within an image."""
    return float(images.flatten(1).std(dim=1, correction=0).mean())


def _variety(images: Tensor) -> float:
    """Return the mean standard deviation of a pixel over the images."""
    return float(images.std(dim=0, correction=0).mean())


def _ratio(value: float, of: float) -> float:
    """Return a ratio; infinite where there is nothing to compare with, and so never bad."""
    return value / of if of > 1e-6 else float("inf")


def _grey_values(images: Tensor) -> Tensor:
    """Return evenly spaced quantiles of all pixels, ascending."""
    pixels = images.flatten()
    step = -(-len(pixels) // _VALUES)
    points = (torch.arange(_POINTS, device=pixels.device) + 0.5) / _POINTS
    return torch.quantile(pixels[::step], points)


def _distance(one: Tensor, other: Tensor) -> float:
    """Return Wasserstein's distance between two distributions of grey values."""
    return float((one - other).abs().mean())
