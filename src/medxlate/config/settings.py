"""A configuration key by key: each value, where it comes from, and what it means."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medxlate.base.errors import ConfigError, closest
from medxlate.config.resolve import fields, flat, keys, layers, resolve
from medxlate.config.sections import Config, ConfigSection

WIDTH = 88  # letters of a line of the documented file


@dataclass(frozen=True)
class Setting:
    """A key of a configuration.

    Attributes:
        key: As ``section.key``.
        value: As JSON holds it; None where there is none.
        default: Likewise.
        source: Where the value comes from: ``default``, ``preset NAME``, a file, or ``--set``.
        meaning: What the key does.
    """

    key: str
    value: Any
    default: Any
    source: str
    meaning: str


def settings(
    *,
    preset: str | None = None,
    file: Path | None = None,
    sets: Sequence[str] = (),
) -> list[Setting]:
    """Return all keys of the configuration that ``resolve`` builds from the same arguments.

    A run's ``config.json`` holds every key; those that have the default's value count as default.

    Raises:
        ConfigError: As ``resolve``.
    """
    values = flat(resolve(preset=preset, file=file, sets=sets))
    defaults = flat(Config())
    sources = dict.fromkeys(values, "default")
    for source, layer in layers(preset=preset, file=file, sets=sets):
        is_run = file is not None and source == str(file) and file.suffix.lower() == ".json"
        for key in _named(layer):
            is_default = is_run and values[key] == defaults[key]
            sources[key] = "default" if is_default else source
    meanings = {key: field.description or "" for key, field in fields()}
    return [
        Setting(key, value, defaults[key], sources[key], meanings[key])
        for key, value in values.items()
    ]


def chosen(found: Sequence[Setting], names: Iterable[str]) -> list[Setting]:
    """Return the settings of some keys or sections, all where none is named.

    Raises:
        ConfigError: There is no such key or section.
    """
    wanted = list(names)
    for name in wanted:
        if not is_name(name):
            near = closest(name, [*keys(), *_sections()])
            raise ConfigError(
                f"There is no configuration key or section '{name}'.",
                f"Did you mean '{near}'?" if near else f"Sections: {', '.join(_sections())}.",
            )
    return [each for each in found if not wanted or {each.key, _section(each.key)} & {*wanted}]


def is_name(name: str) -> bool:
    """Return whether this is a key or a section of the configuration."""
    return name in keys() or name in _sections()


def document(found: Sequence[Setting], preset: str | None = None) -> str:
    """Return a TOML file for ``--config`` that explains every key.

    Keys that are set hold their values; the others are commented out, with their defaults.

    Args:
        found: All settings, as ``settings`` returns them.
        preset: The preset that they come from.
    """
    begun = f"the preset {preset}" if preset else "the defaults"
    lines = [
        *_comment(f"Configuration of a training for medxlate, from {begun}."),
        *_comment(
            "`medxlate train --config FILE` reads it. Keys that are commented out have their"
        ),
        *_comment("default: to change one, remove the # in front of it."),
    ]
    section = ""
    for each in sorted(found, key=lambda each: bool(_section(each.key))):  # TOML's order
        if _section(each.key) != section:
            section = _section(each.key)
            lines += ["", f"[{section}]", *_comment(_sections()[section])]
        lines += ["", *_comment(each.meaning), _assigned(each)]
    return "\n".join(lines) + "\n"


def in_toml(value: Any) -> str:
    """Return a value of a configuration as TOML writes it; ``none`` where there is none."""
    if isinstance(value, Mapping):
        pairs = (f"{in_toml(key)} = {in_toml(each)}" for key, each in value.items())
        return f"{{{', '.join(pairs)}}}"
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def _assigned(setting: Setting) -> str:
    name = setting.key.rpartition(".")[2]
    if setting.source == "default":
        return f"#{name} = {in_toml(setting.value)}"
    if setting.value is None:
        raise ConfigError(f"TOML cannot say that '{setting.key}' has no value.")
    return f"{name} = {in_toml(setting.value)}"


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, WIDTH - 2, break_on_hyphens=False)]


def _named(values: Mapping[str, Any]) -> list[str]:
    """Return the keys that nested values name, as ``section.key``."""
    return [
        name
        for key, value in values.items()
        for name in (map(f"{key}.{{}}".format, value) if key in _sections() else [key])
    ]


def _section(key: str) -> str:
    return key.rpartition(".")[0]


def _sections() -> dict[str, str]:
    """Return the sections and what each is about."""
    return {
        name: (kind.__doc__ or "").splitlines()[0]
        for name, field in Config.model_fields.items()
        if isinstance(kind := field.annotation, type) and issubclass(kind, ConfigSection)
    }
