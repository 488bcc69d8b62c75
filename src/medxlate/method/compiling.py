"""Networks compiled by torch.compile, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import torch
from torch import nn

from medxlate.base.events import Listener, Stage, Warned, silent
from medxlate.config import Compiling
from medxlate.method.predictor import PredictorNetwork
from medxlate.method.translator import TranslatorNetworks

# Of torch.compile; tests put a failing one in its place.
BACKEND: str | Callable[..., object] = "inductor"

# Where nobody decides, networks are compiled on a GPU, for at least so many repeats: compiling
# takes a minute or two. On processors it saved nothing over the layers of ``cpu_kernels``
# (docs/benchmarks.md).
WORTH_COMPILING = 2000


def compile_where_it_pays(
    network: nn.Module,
    rehearse: Callable[[], object],
    *,
    choice: Compiling,
    device: str,
    repeats: int,
    listener: Listener = silent,
) -> bool:
    """Compile networks in place, or not, and report which; return whether they are compiled.

    Args:
        network: As for ``try_compile``.
        rehearse: As for ``try_compile``; waits for its result.
        choice: ``auto``: on a GPU, for many repeats; ``on``: always; ``off``: never.
        device: Its type: cpu, cuda...
        repeats: How often what is rehearsed will be done.
        listener: Receives the choice, and a warning where compiling fails.
    """
    if choice == "off" or (choice == "auto" and (device != "cuda" or repeats < WORTH_COMPILING)):
        return False
    listener(Stage("Compiling the networks (takes a minute or more)"))
    if reason := try_compile(network, rehearse):
        listener(Warned(f"Compiling the networks failed, so they run in eager mode: {reason}"))
        return False
    return True


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
    for part in _whole_networks(network):
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


def _whole_networks(module: nn.Module) -> Iterator[nn.Module]:
    """Yield generators, discriminators and predictors, or a module that holds none as it is."""
    if isinstance(module, TranslatorNetworks):
        yield from module.children()
    elif isinstance(module, nn.ModuleDict):
        for part in module.values():
            if isinstance(part, TranslatorNetworks | PredictorNetwork):
                yield from _whole_networks(part)
    else:
        yield module


def undo_compile(network: nn.Module) -> None:
    """Run a module, and all in it, eagerly again."""
    for part in network.modules():
        part._compiled_call_impl = None  # torch has no public way back


def eagerly() -> AbstractContextManager[object]:
    """Return a context in which compiled networks run eagerly: for shapes that come seldom."""
    stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance
