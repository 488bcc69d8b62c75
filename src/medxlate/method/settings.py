"""Which settings have an effect on which methods."""

from __future__ import annotations

from medxlate.method.registry import find_method

# The other networks are translators.
PREDICTOR = ("model.predictor", "model.predictor_norm", "model.pretrained")
TRANSLATORS = (
    *("model.", "objective.", "optimizer.translator_", "optimizer.buffer_size"),
    *("optimizer.ema_decay", "optimizer.autoencode"),
)
# What passes between translators and predictor while both learn.
TOGETHER = ("objective.lambda_predict", "objective.predict_unit", "objective.ema_fakes")
MIXING = ("objective.fake_weight", "model.batch_norm")  # of real and other images in a step
SOURCES = ("data.sources", "data.source_fraction")


def concerns(key: str, name: str) -> bool:
    """Return whether a setting has an effect on what a method trains, its first stage included.

    Args:
        key: A configuration key, such as ``objective.noise``.
        name: A method, such as ``joint+autoaugment``.

    Raises:
        ConfigError: There is no such method.
    """
    method, base = find_method(name), name.partition("+")[0]
    section, _, part = key.partition(".")
    if key in MIXING:
        return method.mixes
    if key in TOGETHER:
        return method.translates and not method.first
    if key.startswith(TRANSLATORS) and key not in PREDICTOR:
        return method.translates
    if section == "augment":
        erases = part.startswith("erase")
        return method.augmentation == ("random-erasing" if erases else "simple-augment")
    if key == "baselines.first_epochs":
        return bool(method.first)
    if section == "baselines":
        return part.startswith(f"{base.replace('-', '_')}_")
    if key == "data.oracle":
        return method.needs_pairs
    if key == "data.match_labels":
        return method.shows_both
    return method.uses_sources or key not in SOURCES
