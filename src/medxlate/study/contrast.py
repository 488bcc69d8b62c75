"""The primary contrast: the one comparison that is named before a study, and so needs no Holm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medxlate.base.errors import ConfigError, nearest
from medxlate.method.registry import find_method
from medxlate.study.comparison import CONSTANT, System, system_name


@dataclass(frozen=True)
class Contrast:
    """A comparison that was named before the study: its p-value stands for itself.

    Attributes:
        method: What is judged.
        sources: Its sources; "" for a method without.
        reference: The method that it is held against, with the same sources or without.
    """

    method: str
    sources: str
    reference: str

    def is_of(self, system: System, reference: System) -> bool:
        """Return whether these two are compared in it."""
        return (
            (system.method, system.sources) == (self.method, self.sources)
            and reference.method == self.reference
            and reference.sources in ("", self.sources)
        )

    def __str__(self) -> str:
        """As it is written on the command line: ``joint/mri:target-only``."""
        method = f"{self.method}/{self.sources}" if self.sources else self.method
        return f"{method}:{self.reference}"

    @property
    def words(self) -> str:
        """As it is read: ``joint (mri) against target-only``."""
        return f"{system_name(self.method, self.sources)} against {self.reference}"


def find_contrast(
    text: str, methods: Sequence[str], source_sets: Sequence[Sequence[str]]
) -> Contrast | None:
    """Return the contrast that ``METHOD[/SOURCES]:REFERENCE`` names; None for no text.

    Args:
        text: Such as ``joint:target-only``; ``joint/mri+pet:target-only`` with several source sets.
        methods: Those of the study.
        source_sets: Those of the study.

    Raises:
        ConfigError: It names a method or sources that the study does not have, or none, or two
            that are not compared.
    """
    if not text:
        return None
    left, colon, reference = text.partition(":")
    method, slash, sources = left.partition("/")
    if not (colon and method and reference):
        raise ConfigError(
            f"The primary contrast '{text}' names no two methods.",
            "Such as --primary joint:target-only.",
        )
    for name in (method, reference):
        if name not in methods:
            raise ConfigError(
                f"The primary contrast names '{name}', which is no method of this study.",
                nearest(name, methods),
            )
        if name == CONSTANT:
            raise ConfigError(
                "The constant is compared with every method anyway.",
                "Name another one with --primary, such as joint:target-only.",
            )
    if method == reference:
        raise ConfigError(
            f"The primary contrast '{text}' holds a method against itself.",
            "Such as --primary joint:target-only.",
        )
    return Contrast(method, _sources(text, method, sources, slash, source_sets), reference)


def _sources(
    text: str, method: str, sources: str, slash: str, source_sets: Sequence[Sequence[str]]
) -> str:
    sets = ["+".join(each) for each in source_sets]
    if not find_method(method).uses_sources:
        if slash:
            raise ConfigError(f"{method} has no sources ({text}).", f"Leave /{sources} out.")
        return ""
    if not slash and len(sets) == 1:
        return sets[0]
    if sources not in sets:
        raise ConfigError(
            f"The primary contrast '{text}' does not say with which of the study's sources.",
            f"Such as --primary {method}/{sets[0]}:target-only; there are {', '.join(sets)}.",
        )
    return sources
