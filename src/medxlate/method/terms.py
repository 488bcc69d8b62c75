"""The terms of the losses that a step reports: what each is called, and of what kind it is.

Console, report and monitor read this table; they pass over a recorded loss that is not in it. A
term that belongs to one source is recorded under the source's name: ``mri.adv_t``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Family = Literal[
    "predictor",
    "translators",
    "discriminators",
    "domain",
    "images",
    "structure",
    "added",
    "guidance",
]

# What a chart of a family's terms is called.
FAMILIES: dict[Family, str] = {
    "predictor": "Predictor loss",
    "translators": "Adversarial losses of the generators",
    "discriminators": "Discriminator losses",
    "domain": "Domain classifier loss",
    "images": "L1 losses (images in \N{MINUS SIGN}1 to 1)",
    "structure": "Structure loss (MIND descriptors in 0 to 1)",
    "added": "Losses of plug-ins (unweighted)",
    "guidance": "Gradient ratio at translated images (predictor / translator)",
}


@dataclass(frozen=True)
class LossTerm:
    """A term of the objective, or what is reported beside it.

    Attributes:
        label: What a reader sees.
        family: What it belongs to; terms of a family share a unit and a chart.
        brief: Whether the console shows it while a training runs.
    """

    label: str
    family: Family
    brief: bool = False


TERMS: dict[str, LossTerm] = {
    "predict_real": LossTerm("real", "predictor", brief=True),
    "predict_fake": LossTerm("translated", "predictor", brief=True),
    "predict_augmented": LossTerm("augmented", "predictor", brief=True),
    "predict": LossTerm("predictor", "predictor", brief=True),
    "adv_t": LossTerm("G (source to target)", "translators", brief=True),
    "adv_s": LossTerm("F (target to source)", "translators"),
    "d_t": LossTerm("target discriminator", "discriminators"),
    "d_s": LossTerm("source discriminator", "discriminators"),
    "domain": LossTerm("modality", "domain"),
    "cycle_s": LossTerm("source cycle", "images", brief=True),
    "cycle_t": LossTerm("target cycle", "images"),
    "identity": LossTerm("identity", "images"),
    "structure": LossTerm("structure", "structure"),
    "reproduce": LossTerm("reconstruction (autoencoder phase)", "images"),
    "gradient_ratio": LossTerm("gradient ratio", "guidance"),
}


ADDED = "added_"  # begins the term of a plug-in's loss; its name, the label, follows


def find_term(name: str) -> tuple[str, LossTerm | None]:
    """Return the source ("" where there is none) and the term of a recorded loss.

    The term is None where the record was written by another version that knew others.
    """
    source, _, term = name.rpartition(".")
    if term.startswith(ADDED):
        return source, LossTerm(term.removeprefix(ADDED), "added", brief=True)
    return source, TERMS.get(term)


def brief_names(names: Iterable[str]) -> list[str]:
    """Return the recorded losses that are shown while a training runs, in the table's order.

    Those of plug-ins come last.
    """
    order = list(TERMS)
    found = []
    for name in names:
        term, what = name.rpartition(".")[2], find_term(name)[1]
        if what is not None and what.brief:
            found.append((order.index(term) if term in TERMS else len(order), name))
    return [name for _, name in sorted(found)]
