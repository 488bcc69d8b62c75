"""What changes over the steps of a training: learning rates, and who learns from what."""

from __future__ import annotations

from dataclasses import dataclass

from medxlate.config import OptimizerConfig

EPSILON = 1e-9  # of a share of the steps, lost in a division
FINETUNE_RATE = 0.1  # of the predictor's rate: on real images alone, and after the sources'


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
        reproduces: Whether G and F learn to reproduce images instead of translating them.
        predictor: Whether the predictor learns.
        finetunes: Whether the predictor is fine-tuned on real target images alone.
        translator_rate: Factor on the translators' learning rate.
        predictor_rate: Factor on the predictor's learning rate.
    """

    translators: bool = True
    reproduces: bool = False
    predictor: bool = True
    finetunes: bool = False
    translator_rate: float = 1.0
    predictor_rate: float = 1.0

    @property
    def translates(self) -> bool:
        """Whether G and F learn to translate."""
        return self.translators and not self.reproduces


def phase_at(progress: float, config: OptimizerConfig) -> Phase:
    """Return the phase of a step.

    The rates of the translators and of the predictor fall within the steps in which each learns.

    Args:
        progress: Which share of all steps is done, 0 to 1.
        config: ``autoencode``, ``warmup``, ``translator_share``, ``finetune_share`` and what
            ``rate_factor`` takes.
    """
    epochs, constant = config.epochs, config.constant_share
    epoch = int(progress * epochs + EPSILON)
    ended, begun = _epochs(config.translator_share, epochs), first_epoch(config)
    finetunes = progress >= 1 - config.finetune_share
    predictor_rate = rate_factor(
        max(epoch - begun, 0), epochs=epochs - begun, constant_share=constant
    )
    return Phase(
        translators=epoch < ended,
        reproduces=epoch < round(config.autoencode * epochs),
        predictor=epoch >= begun,
        finetunes=finetunes,
        translator_rate=rate_factor(min(epoch, ended - 1), epochs=ended, constant_share=constant),
        predictor_rate=predictor_rate * (FINETUNE_RATE if finetunes else 1.0),
    )


def first_epoch(config: OptimizerConfig) -> int:
    """Return the epoch, from 0, in which the predictor begins to learn (``warmup``)."""
    return min(round(config.warmup * config.epochs), config.epochs - 1)


def _epochs(share: float, epochs: int) -> int:
    return max(round(share * epochs), 1)


def is_constant(config: OptimizerConfig) -> bool:
    """Return whether the same networks learn from the same images in all steps."""
    changes = (
        config.autoencode,
        config.warmup,
        config.finetune_share,
        1 - config.translator_share,
    )
    return not any(changes)
