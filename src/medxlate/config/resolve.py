"""From presets, files and command lines to a configuration."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from medxlate.base.errors import ConfigError, closest, nearest, shown
from medxlate.base.records import read_object
from medxlate.base.toml import parse_toml, read_toml
from medxlate.config.sections import Config, ConfigSection

MAX_DEPTH = 8  # of tables; the configuration has two levels

Values = dict[str, dict[str, Any] | Any]

PRESETS: Mapping[str, Values] = {
    # To the letter: lambda for labels in years, and sums over all images in equation 2. The paper
    # divides the target's images alone (section 4.1) and learns from the sources'.
    "paper": {
        "data": {"image_size": 256},
        "split": {"sources": "all"},
        "objective": {"lambda_predict": 0.001, "predict_unit": "label", "fake_weight": "count"},
    },
    # For 5 to 50 target patients; zeros are sized to the machine and the data (method/sizing.py).
    # docs/results.md has what some of its parts are worth.
    "scarce": {
        "data": {"image_size": 64},
        "model": {
            "generator_width": 0,
            "generator_blocks": 0,
            "upsample": "bilinear",
            "skip": "unet",
            "discriminator_width": 0,
            "predictor": "auto",
            "batch_norm": "separate",
        },
        "objective": {
            "diffaugment": ["cutout"],
            "noise": "target",
            "rescale": 0.08,
            "ema_fakes": True,
        },
        "optimizer": {
            "epochs": 100,
            "steps_per_epoch": 10,
            "constant_share": 0.5,
            "keep": "last",
            "batch_size": 0,
            "translator_lr": 1e-3,
            "translator_betas": [0.5, 0.99],
            "ema_decay": 0.99,
            "autoencode": 0.2,
            "warmup": 0.6,
            "translator_share": 0.65,
        },
        "runtime": {"samples_every": 20, "checkpoint_every": 20},
    },
    "small": {
        "data": {"image_size": 64},
        "model": {"generator_width": 24, "discriminator_width": 32},
        "optimizer": {"epochs": 40, "batch_size": 2},
    },
    "debug": {
        "data": {"image_size": 32},
        "model": {
            "generator_width": 8,
            "generator_blocks": 2,
            "discriminator_width": 8,
            "predictor": "test_resnet",
        },
        "optimizer": {"epochs": 2, "batch_size": 2},
        "runtime": {"precision": "fp32", "log_every": 1, "samples_every": 1},
    },
}


def resolve(
    *,
    preset: str | None = None,
    file: Path | None = None,
    sets: Sequence[str] = (),
    overrides: Values | None = None,
) -> Config:
    """Build the configuration: preset, then file, then ``section.key=value``, then overrides.

    Args:
        preset: One of PRESETS.
        file: A TOML file, or a run's ``config.json``.
        sets: Assignments such as ``objective.lambda_cycle=5``, values in TOML notation.
        overrides: Nested values that win over everything else.

    Raises:
        ConfigError: An unknown preset or key, a value of the wrong kind, an unreadable file.
    """
    values: Values = {}
    for _, layer in layers(preset=preset, file=file, sets=sets):
        _merge(values, layer)
    _merge(values, overrides or {})
    return parse(values)


def layers(
    *, preset: str | None, file: Path | None, sets: Sequence[str]
) -> Iterator[tuple[str, Values]]:
    """Yield what a configuration is built from, with its name; what comes later wins.

    Raises:
        ConfigError: As ``resolve``.
    """
    if preset is not None:
        if preset not in PRESETS:
            raise ConfigError(f"Unknown preset '{preset}'.", nearest(preset, PRESETS))
        yield f"preset {preset}", dict(PRESETS[preset])
    if file is not None:
        yield str(file), _read(file)
    for text in sets:
        yield "--set", assignment(text)


def configured(
    source: str | Sequence[str], target: str, preset: str | None, settings: Mapping[str, Any]
) -> Config:
    """Build the configuration of a training from modalities, preset and settings.

    Args:
        source: The source modality, or several.
        target: The target modality.
        preset: One of PRESETS, or None.
        settings: Values by key, as ``section.key`` (or ``method``).

    Raises:
        ConfigError: An unknown preset or key, or a value of the wrong kind.
    """
    overrides: Values = {}
    for key, value in settings.items():
        _merge(overrides, _nested(key, value))
    sources = [source] if isinstance(source, str) else list(source)
    named = {k: v for k, v in (("sources", sources), ("target", target)) if v}
    _merge(overrides, {"data": named})
    return resolve(preset=preset, overrides=overrides)


def parse(values: Mapping[str, Any]) -> Config:
    """Check nested values and fill in the defaults; a wrong key or value raises ConfigError."""
    try:
        return Config.model_validate(values)
    except ValidationError as problem:
        first = problem.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"Unknown configuration key '{key}'.", _nearest_key(key)) from None
        where = f"Configuration key '{key}'" if key else "Configuration"
        value = first["input"]
        given = "" if isinstance(value, dict) else f" (given: {shown(value)})"
        raise ConfigError(f"{where}{_in_words(first['msg'])}{given}.") from None


def _in_words(message: str) -> str:
    """Return what follows the key in a sentence: pydantic's predicate, or our own text."""
    text = message.removeprefix("Value error, ").partition(", unable to parse")[0]
    predicate = text.removeprefix("Input should ")
    return f": {text}" if predicate == text else f" must {predicate}"


def flat(config: Config) -> dict[str, Any]:
    """Return all values as JSON would hold them, by ``section.key``."""
    values: dict[str, Any] = {}
    for name, section in config.model_dump(mode="json").items():
        if isinstance(getattr(config, name), ConfigSection):
            values |= {f"{name}.{key}": value for key, value in section.items()}
        else:
            values[name] = section
    return values


def fields() -> Iterator[tuple[str, FieldInfo]]:
    """Yield all configuration keys, as ``section.key``, with their defaults and descriptions."""
    for name, field in Config.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, ConfigSection):
            yield from ((f"{name}.{key}", inner) for key, inner in section.model_fields.items())
        else:
            yield name, field


def keys() -> list[str]:
    """Return all configuration keys, as ``section.key``."""
    return [name for name, _ in fields()]


def _nearest_key(key: str) -> str:
    """Look for the nearest key by its full name, then by the part after the last dot."""
    last = {name.rpartition(".")[2]: name for name in keys()}
    found = closest(key, keys()) or last.get(closest(key.rpartition(".")[2], last) or "")
    return f"Did you mean '{found}'?" if found else "docs/reference/config.md lists all keys."


def _merge(into: Values, new: Mapping[str, Any], depth: int = 0) -> None:
    if depth > MAX_DEPTH:
        raise ConfigError("The configuration is nested too deeply; keys have the form section.key.")
    for key, value in new.items():
        if isinstance(value, Mapping):
            section = into.setdefault(key, {})
            if not isinstance(section, dict):
                raise ConfigError(
                    f"Configuration key '{key}' is given both as a value and as a section."
                )
            _merge(section, value, depth + 1)
        else:
            into[key] = value


def _read(file: Path) -> dict[str, Any]:
    if file.suffix.lower() != ".json":
        return read_toml(file)
    values = read_object(file, error=ConfigError)
    data = values.get("data")
    if isinstance(data, dict) and isinstance(folder := data.get("folder"), str):
        place = file.parent / folder  # as a run keeps it
        if not os.path.isabs(folder) and place.is_dir():
            values["data"] = {**data, "folder": os.path.relpath(place)}
    return values


def assignment(text: str) -> dict[str, Any]:
    """Return the nested values of ``section.key=value``, its value in TOML notation or a word."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(
            f"'{text}' is not of the form section.key=value.", "Write --set section.key=value."
        )
    try:
        parsed: Any = parse_toml(f"value = {value}")["value"]
    except ValueError:
        parsed = value.strip()  # a bare word is a string
    return _nested(key.strip(), parsed)


def _nested(key: str, value: Any) -> dict[str, Any]:
    """Return a value in the tables that its key names: ``section.key``."""
    *tables, last = key.split(".")
    nested = {last: value}
    for part in reversed(tables):
        nested = {part: nested}
    return nested
