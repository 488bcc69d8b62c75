"""What changes over the steps of a training: learning rates, and who learns from what."""

from __future__ import annotations

from dataclasses import dataclass

from medxlate.config import OptimizerConfig

FINETUNE_RATE = 0.1  # of the predictor's rate, on real images alone


def rate_factor(epoch: int, *, epochs: int, constant_share: float) -> float:
    """Return the factor on the initial rates in an epoch counted from 0 (paper, section 4.2).

    CycleGAN's rule with its scheduler moved at the end of an epoch: with 200 epochs and a
    constant share of 0.5, epochs 0 to 99 use the full rate, epoch 100 uses 100/101 of it, epoch
    199 uses 1/101.
    """
    constant = round(epochs * constant_share)
    return 1.0 - max(0, epoch + 1 - constant) / (epochs - constant + 1)


@dataclass(frozen=True)
class Phase:
    """Who learns in a step, and from what.

    Attributes:
        translators: Whether G, F and the discriminators learn.
        fakes: Whether the predictor learns from translated images beside the real ones.
        guidance: Factor on lambda, 0 to 1.
        finetunes: Whether the predictor is fine-tuned on real target images alone.
    """

    translators: bool = True
    fakes: bool = True
    guidance: float = 1.0
    finetunes: bool = False

    @property
    def predictor_rate(self) -> float:
        """Factor on the predictor's learning rate."""
        return FINETUNE_RATE if self.finetunes else 1.0


def phase_at(progress: float, config: OptimizerConfig) -> Phase:
    """Return the phase of a step.

    Args:
        progress: Which share of all steps is done, 0 to 1.
        config: ``warmup``, ``ramp``, ``translator_share`` and ``finetune_share``.
    """
    after = progress - config.warmup
    finetunes = progress >= 1 - config.finetune_share
    return Phase(
        translators=progress < config.translator_share,
        fakes=after >= 0 and not finetunes,
        guidance=min(max(after / config.ramp, 0.0), 1.0) if config.ramp else 1.0,
        finetunes=finetunes,
    )


def is_constant(config: OptimizerConfig) -> bool:
    """Return whether all steps are of one phase."""
    changes = (config.warmup, config.ramp, config.finetune_share, 1 - config.translator_share)
    return not any(changes)
