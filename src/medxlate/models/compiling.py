"""Networks compiled by torch.compile, and back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import nn

from medxlate.models.discriminator import Discriminator
from medxlate.models.generator import Generator
from medxlate.models.predictor import PredictorNetwork

COMPILED = (Generator, Discriminator, PredictorNetwork)
# Of torch.compile; tests put a failing one in its place.
BACKEND: str | Callable[..., object] = "inductor"


def try_compile(network: nn.Module, rehearse: Callable[[], object]) -> str | None:
    """Compile the networks inside a module in place, or leave everything as it was.

    Weights and their names stay. Code is generated for the shapes that the rehearsal shows;
    other shapes later are compiled again.

    Args:
        network: A generator, discriminator or predictor, or a module that holds some.
        rehearse: Runs what will be run, forwards and backwards, without effect on any state.

    Returns:
        None, or the reason why it failed (no C++ compiler on the processor, say).
    """
    for part in network.modules():
        if isinstance(part, COMPILED):
            part.compile(dynamic=False, backend=BACKEND)
    try:
        rehearse()
    except torch.OutOfMemoryError:  # not the compiler's
        undo_compile(network)
        raise
    except Exception as problem:  # the compiler's backends raise kinds of their own
        undo_compile(network)
        lines = str(problem).split("\n")  # the first often only says which backend it was
        return " ".join(line.strip() for line in lines[:2]).strip() or type(problem).__name__
    return None


def undo_compile(network: nn.Module) -> None:
    """Run a module, and all in it, eagerly again."""
    for part in network.modules():
        part._compiled_call_impl = None  # torch has no public way back


def eagerly() -> AbstractContextManager[object]:
    """Return a context in which compiled networks run eagerly: for shapes that come seldom."""
    stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance
