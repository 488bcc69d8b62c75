"""What `medxlate` offers to Python says what it takes, gives and raises."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

import medxlate
from medxlate.config import ConfigSection

PLAIN = ("Return ", "Load ")  # a first line that says what is returned


def public() -> Iterator[tuple[str, Any]]:
    """The public functions and classes, and the public methods of the classes."""
    for name in medxlate.__all__:
        thing = getattr(medxlate, name)
        if callable(thing):
            yield name, thing
        for method, found in vars(thing).items() if inspect.isclass(thing) else ():
            visible = not method.startswith("_") or method == "__call__"
            if visible and (callable(getattr(thing, method)) or isinstance(found, property)):
                yield f"{name}.{method}", getattr(thing, method)


PUBLIC = dict(public())
WORKING = [name for name in medxlate.__all__ if inspect.isfunction(PUBLIC.get(name))]


def sections(text: str) -> dict[str, str]:
    """The sections of a docstring in Google style by name; what comes before them is ""."""
    parts = re.split(r"^(Args|Returns|Raises|Attributes):\n", text, flags=re.MULTILINE)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def described(text: str) -> set[str]:
    """The names that a section explains."""
    found = re.findall(r"^    (\*{0,2}\w+(?:, \w+)*):", text, flags=re.MULTILINE)
    return {name for names in found for name in names.split(", ")}


def parameters(thing: Any) -> dict[str, inspect.Parameter]:
    if isinstance(thing, property) or (inspect.isclass(thing) and issubclass(thing, ConfigSection)):
        return {}  # of the configuration: docs/reference/config.md, from the fields themselves
    found = inspect.signature(thing).parameters
    return {name: each for name, each in found.items() if name != "self"}


@pytest.mark.parametrize("name", PUBLIC)
def test_every_parameter_is_explained_and_none_that_is_not_there(name: str) -> None:
    thing = PUBLIC[name]
    text = inspect.getdoc(thing)
    assert text, f"{name} has no docstring"
    held = sections(text)
    assert held[""].strip(), f"{name} does not say what it is"
    told = described(held.get("Args", "") + held.get("Attributes", ""))
    expected = set(parameters(thing))
    assert expected <= told, f"{name} does not explain {sorted(expected - told)}"
    if "Args" in held:
        assert described(held["Args"]) <= expected, f"{name} explains what it does not take"


@pytest.mark.parametrize("name", WORKING)
def test_every_function_says_which_errors_it_raises(name: str) -> None:
    errors = described(sections(inspect.getdoc(PUBLIC[name]) or "").get("Raises", ""))
    assert errors, f"{name} does not say what it raises"
    from medxlate.base import errors as kinds

    unknown = {error for error in errors if not hasattr(kinds, error)}
    assert not unknown, f"{name} names errors that medxlate does not have"


@pytest.mark.parametrize("name", [name for name in PUBLIC if "." in name])
def test_every_method_says_what_it_returns(name: str) -> None:
    held = sections(inspect.getdoc(PUBLIC[name]) or "")
    assert "Returns" in held or held[""].startswith(PLAIN) or isinstance(PUBLIC[name], property)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_parameter_has_a_type(name: str) -> None:
    for each in parameters(PUBLIC[name]).values():
        assert each.annotation is not inspect.Parameter.empty, each
    if name in WORKING:
        assert inspect.signature(PUBLIC[name]).return_annotation is not inspect.Signature.empty


def test_dir_lists_what_is_not_loaded_yet() -> None:
    assert set(medxlate.__all__) <= set(dir(medxlate))
    script = "import medxlate, sys; assert 'train' in dir(medxlate); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_the_package_is_marked_as_typed_and_costs_no_torch() -> None:
    import importlib.resources

    assert (importlib.resources.files("medxlate") / "py.typed").is_file()
    code = "import sys, medxlate; medxlate.Config, medxlate.resolve; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
