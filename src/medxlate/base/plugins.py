"""Parts that other installed packages add: found by entry points, imported only when one is named.

A package offers a part under ``medxlate.KIND`` (``medxlate.losses``...). Looking for parts reads
metadata alone; nothing of a package runs before a configuration, an option or a model names its
part. ``medxlate.extend`` describes what the object behind an entry point has to be.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from medxlate.base.errors import ConfigError, MedxlateError, ModelError, nearest
from medxlate.base.events import Listener, Warned

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from importlib.metadata import EntryPoint

Kind = Literal["methods", "generators", "predictors", "losses", "recipes", "layouts"]
KINDS: tuple[Kind, ...] = get_args(Kind)
WORDS: Mapping[Kind, str] = {
    "methods": "method",
    "generators": "generator",
    "predictors": "predictor",
    "losses": "loss",
    "recipes": "recipe",
    "layouts": "layout",
}
# An incompatible change of what an entry point's object has to be gets new groups, such as
# medxlate.losses.2, so that a package made for one protocol is never taken for the other.
PROTOCOL = 1
GROUP = re.compile(r"medxlate\.(\w+)(?:\.(\d+))?")
MEMORY = re.compile(r"memory|ALLOC_FAILED")  # how torch says that it ran out
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")  # of a part: names become keys and parts of files

Part = TypeVar("Part")
# They are shared with a model, so no text may be a path.
Setting = bool | int | float | Annotated[str, Field(pattern=r"^[^/\\\n]*$", max_length=200)]
Settings = dict[str, Setting]
_SETTINGS = TypeAdapter(Settings)


class PluginError(MedxlateError):
    """A plug-in cannot be loaded, or does not do what its protocol says."""


class PluginRecord(BaseModel):
    """Which plug-in was used, as a run, a study, a dataset and a model record it.

    Attributes:
        kind: The group of its entry point: methods, generators, predictors, losses, recipes or
            layouts.
        name: The name of its entry point.
        distribution: The installed package, as pip names it.
        version: Its version.
        sha256: SHA-256 over its files; see ``hash_of``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    name: Annotated[str, Field(pattern=f"^{NAME.pattern}$", max_length=100)]
    # These two become part of a command that a message shows.
    distribution: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=200)]
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+!-]*$", max_length=200)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]

    def __str__(self) -> str:
        return f"{WORDS[self.kind]} '{self.name}' of {self.distribution} {self.version}"


@dataclass(frozen=True)
class Plugin:
    """A part that an installed package offers.

    Attributes:
        kind: The group of its entry point.
        protocol: Which protocol it was made for.
        name: By which it is asked for.
        distribution: The package, as pip names it.
        version: Its version.
        target: Where its object is: ``module:attribute``.
    """

    kind: Kind
    protocol: int
    name: str
    distribution: str
    version: str
    target: str

    def __str__(self) -> str:
        return f"{WORDS[self.kind]} '{self.name}' of {self.distribution} {self.version}"


@cache
def installed() -> tuple[Plugin, ...]:
    """Return the parts of all installed packages, without importing any."""
    from importlib import metadata

    found: dict[str, list[Plugin]] = {}
    for package in metadata.distributions():
        offered = [each for each in package.entry_points if GROUP.fullmatch(each.group)]
        # Where a package is on the path twice, the first one is imported.
        if offered and (key := re.sub(r"[-_.]+", "-", package.name).lower()) not in found:
            of = package.name, package.version
            found[key] = [part for each in offered for part in _parts(each, *of)]
    return tuple(part for _, parts in sorted(found.items()) for part in parts)


def _parts(entry: EntryPoint, distribution: str, version: str) -> Iterator[Plugin]:
    """Yield the part of an entry point; nothing for a group that this medxlate does not know."""
    group = GROUP.fullmatch(entry.group)
    for kind in KINDS:
        if group is not None and group[1] == kind:
            protocol = int(group[2] or 1)
            yield Plugin(kind, protocol, entry.name, distribution, version, entry.value)


def names(kind: Kind) -> list[str]:
    """Return the names that plug-ins add to a kind."""
    return sorted({p.name for p in installed() if p.kind == kind and p.protocol == PROTOCOL})


def find(kind: Kind, name: str) -> Plugin | None:
    """Return the plug-in of that name, or None.

    Raises:
        PluginError: Two packages offer it, or it is made for another protocol.
    """
    if not any(each.kind == kind and each.name == name for each in installed()):
        installed.cache_clear()  # it may have been installed since
    same = [each for each in installed() if each.kind == kind and each.name == name]
    fitting = [each for each in same if each.protocol == PROTOCOL]
    if len(fitting) > 1:
        owners = " and ".join(f"{each.distribution} {each.version}" for each in fitting)
        raise PluginError(
            f"The {WORDS[kind]} '{name}' comes from two packages: {owners}.",
            f"Remove one, as by `pip uninstall {fitting[-1].distribution}`.",
        )
    if same and not fitting:
        raise PluginError(
            f"The {same[0]} is made for protocol {same[0].protocol} of plug-ins; this medxlate has "
            f"protocol {PROTOCOL}.",
            f"Install a version of {same[0].distribution} that is made for this medxlate.",
        )
    if fitting and not NAME.fullmatch(name):
        raise PluginError(
            f"The {fitting[0]} cannot be used: its name may hold letters, digits, - and _ alone."
        )
    return fitting[0] if fitting else None


def choose(
    kind: Kind, name: str, built_in: Mapping[str, Part], of: type[Part] | None = None
) -> Part:
    """Return the part of that name: a built-in one, which always wins, or a plug-in's.

    Args:
        kind: What it is.
        name: Its name.
        built_in: The parts that medxlate has itself.
        of: The type of a plug-in's object; None: it is a function, or another callable.

    Raises:
        ConfigError: There is none.
        PluginError: It cannot be loaded, or is something else.
    """
    if name in built_in:
        return built_in[name]
    plugin = find(kind, name)
    if plugin is None:
        raise unknown(kind, name, built_in)
    return load(plugin, of)


def unknown(kind: Kind, name: str, built_in: Iterable[str]) -> ConfigError:
    """Return the error that there is no such part; it names the nearest one."""
    known = nearest(name, {*built_in, *names(kind)})
    return ConfigError(f"Unknown {WORDS[kind]} '{name}'.", known)


def load(plugin: Plugin, of: type[Part] | None = None) -> Part:
    """Import a plug-in and return its object.

    Args:
        plugin: Which one.
        of: The type that the object has; None: it is callable.

    Raises:
        PluginError: It cannot be imported, or is something else.
    """
    from importlib.metadata import EntryPoint

    try:
        found: Any = EntryPoint(plugin.name, plugin.target, plugin.kind).load()
    except (Exception, SystemExit) as cause:
        raise PluginError(
            f"The {plugin} cannot be loaded from {plugin.target}: {_in_words(cause)}.",
            f"Install another version of {plugin.distribution}, or leave the {plugin.name} out.",
        ) from cause
    if not (isinstance(found, of) if of is not None else callable(found)):
        wanted = f"a medxlate.extend.{of.__name__}" if of is not None else "a function"
        raise PluginError(
            f"The {plugin} is not usable: {plugin.target} is {type(found).__name__}, not {wanted}."
        )
    part: Part = found
    return part


def described(kind: Kind, name: str) -> str:
    """Return a part in words, with the package that it comes from and its entry point."""
    plugin = find(kind, name)
    return f"{WORDS[kind]} '{name}'" if plugin is None else f"{plugin} ({plugin.target})"


def expected(found: object, of: type[Part], kind: Kind, name: str) -> Part:
    """Return what a plug-in's function gave; raises PluginError where it is of another type."""
    if isinstance(found, of):
        return found
    given = type(found).__name__
    raise PluginError(f"The {described(kind, name)} gave a {given}, not a {of.__name__}.")


@contextmanager
def blamed(kind: Kind, name: str) -> Iterator[None]:
    """Raise what goes wrong in a plug-in's own code as a PluginError that names it.

    Errors of medxlate pass, and so does what says that memory ran out.

    Args:
        kind: What the plug-in is.
        name: Its name.
    """
    try:
        yield
    except (MedxlateError, MemoryError):
        raise
    except Exception as cause:
        if isinstance(cause, RuntimeError) and MEMORY.search(str(cause)):
            raise  # of a device: whoever called divides the work
        what = described(kind, name)
        raise PluginError(f"The {what} failed: {_in_words(cause)}.") from cause


def _in_words(cause: BaseException) -> str:
    """Return an error with the place in which it was raised."""
    frames = [f for f in traceback.extract_tb(cause.__traceback__) if f.filename[:1] != "<"]
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    text = (str(cause).splitlines() or [""])[0]
    return f"{type(cause).__name__}: {text}{where}"


def with_settings(
    kind: Kind, name: str, function: Callable[..., Part], settings: Mapping[str, Setting]
) -> Callable[..., Part]:
    """Return a plug-in's function with its settings as keyword arguments.

    Raises:
        ConfigError: It has no such setting, or a value is a path.
    """
    try:
        settings = _SETTINGS.validate_python(dict(settings))
    except ValidationError as problem:
        first = problem.errors()[0]
        raise ConfigError(
            f"The setting '{first['loc'][0]}' of the {WORDS[kind]} '{name}' is {first['input']!r}.",
            "Give a number, true, false or a word; no path, for settings are shared with a model.",
        ) from None
    parameters = inspect.signature(function).parameters.values()
    if not any(each.kind is each.VAR_KEYWORD for each in parameters):
        known = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
        for key in settings:
            if key not in known:
                raise ConfigError(
                    f"The {WORDS[kind]} '{name}' has no setting '{key}'.",
                    nearest(key, known) or "It has none at all.",
                )
    return partial(function, **settings)


def record(plugin: Plugin) -> PluginRecord:
    """Return what is kept of a plug-in that is used.

    Raises:
        PluginError: Its files are not found.
    """
    return PluginRecord(
        kind=plugin.kind,
        name=plugin.name,
        distribution=plugin.distribution,
        version=plugin.version,
        sha256=hash_of(plugin),
    )


def hash_of(plugin: Plugin) -> str:
    """Return the SHA-256 of a plug-in's files.

    The files are those of the outermost package or module of its entry point, without
    ``__pycache__``: the same for an installed wheel and an editable checkout. What they import from
    other packages does not count.

    Raises:
        PluginError: They are not found.
    """
    try:
        files = _files(plugin.target.partition(":")[0])
        found = hashlib.sha256()
        for name, path in files:
            found.update(f"{name}\0{path.stat().st_size}\0".encode())
            found.update(path.read_bytes())
    except (ImportError, OSError, ValueError) as problem:
        raise PluginError(f"The files of the {plugin} cannot be read: {problem}.") from None
    return found.hexdigest()


def _files(module: str) -> list[tuple[str, Path]]:
    """Return the files of a module's outermost package, by the names that they have in it."""
    spec = _outermost(module)
    if spec is None or spec.origin is None:
        raise ImportError(f"there is no module {module}")
    origin = Path(spec.origin)
    if not spec.submodule_search_locations:
        return [(origin.name, origin)]
    root = origin.parent
    found = [
        (path.relative_to(root).as_posix(), path)
        for path in root.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    return sorted(found)


def _outermost(module: str) -> ModuleSpec | None:
    """Return the first part of a module's name that has code; namespace packages have none."""
    from importlib.util import find_spec

    spec, name = None, ""
    for part in module.split("."):
        name = f"{name}.{part}".lstrip(".")
        spec = find_spec(name)
        if spec is None or spec.origin is not None:
            break
    return spec


def used(wanted: Iterable[tuple[Kind, str]]) -> tuple[PluginRecord, ...]:
    """Return the records of those parts that are plug-ins.

    Args:
        wanted: Kinds and names of what medxlate itself does not have.
    """
    found = {}
    for kind, name in wanted:
        if (plugin := find(kind, name)) is not None:
            found[kind, name] = record(plugin)
    return tuple(found.values())


def check_installed(
    records: Iterable[PluginRecord], of: object, listener: Listener
) -> tuple[PluginRecord, ...]:
    """Compare the plug-ins by which something was made with those that are installed.

    Args:
        records: What was kept.
        of: What was made with them, for messages.
        listener: Receives a warning for each that has another version or other files.

    Returns:
        Those whose files differ from the recorded ones.

    Raises:
        ModelError: One is not installed, or another package has one of that name.
    """
    changed = []
    for each in records:
        plugin = find(each.kind, each.name)
        if plugin is None or plugin.distribution != each.distribution:
            other = f"; that of {plugin.distribution} is another one" if plugin is not None else ""
            raise ModelError(
                f"{of} needs the {each}, which is not installed{other}.",
                f"Look at that package first, then: pip install "
                f"'{each.distribution}=={each.version}'",
            )
        now = record(plugin)
        if now == each:
            continue
        files = "the same" if now.sha256 == each.sha256 else "different"
        listener(
            Warned(
                f"{of} was made with the {each}; version {now.version} is here, "
                f"its files are {files}."
            )
        )
        if now.sha256 != each.sha256:
            changed.append(each)
    return tuple(changed)


def refuse_changed(records: Iterable[PluginRecord], of: str, listener: Listener) -> None:
    """Refuse to go on with other plug-ins: the rest would be made by something else, silently.

    Another version whose files are the same is a warning.

    Args:
        records: What was kept.
        of: What was begun with them, for messages.
        listener: Receives warnings.

    Raises:
        ModelError: One is not installed, or its files are not those by which the work was begun.
    """
    for each in check_installed(records, of, listener):
        raise ModelError(
            f"{of} was begun with other files of the {each}.",
            "Install what it was begun with, or begin anew.",
        )
