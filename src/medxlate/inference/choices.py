"""What is chosen for the user: the precision, and whether a network is compiled."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal, get_args

from torch import nn

from medxlate.errors import UsageError, nearest
from medxlate.events import Listener, Stage, Warned, silent
from medxlate.models.compiling import try_compile, undo_compile
from medxlate.models.device import Compute, choose_compute
from medxlate.models.folder import ModelInfo

Compile = Literal["auto", "on", "off"]

# Seconds that compiling takes, and the share of a slice's time that it is hoped to save, by device.
# On two cores (Zen 4, other work going on) the paper's generator at 256 px took 29 to 58 s, in
# batches of 1 and 4, bf16 and fp32; on a GPU neither was measured. It is tried where that would
# save twice what it costs, and kept where it saves anything.
COMPILING = {"cpu": (60.0, 0.05), "cuda": (90.0, 0.3)}
LEAST_GAIN = 0.03
FEWEST_BATCHES = 100  # below, the rehearsals alone cost percents
TRIED = 2


def validated_compute(
    info: ModelInfo,
    device: str = "auto",
    precision: str = "auto",
    *,
    listener: Listener = silent,
) -> Compute:
    """Choose device and precision for a trained model.

    ``auto`` is bf16 only where the hardware multiplies it natively and the model was validated in
    it; a model that was validated in fp32 is computed in fp32.

    Args:
        info: The model's model.json.
        device: As ``choose_compute`` takes it.
        precision: auto, fp32 or bf16.
        listener: Warned where bf16 was asked for and fp32 is taken, for want of instructions.

    Raises:
        UsageError: The device or the precision does not exist.
    """
    if precision == "auto" and info.precision == "fp32":
        precision = "fp32"
    return choose_compute(device, precision, listener=listener)


def check_compile(choice: str) -> Compile:
    """Return the choice; raises UsageError where it is none of auto, on and off."""
    for known in get_args(Compile):
        if choice == known:
            return known  # type: ignore[no-any-return]
    raise UsageError(f"--compile {choice} is unknown.", nearest(choice, get_args(Compile)))


def compile_where_it_pays(
    network: nn.Module,
    rehearse: Callable[[], object],
    *,
    choice: Compile,
    device: str,
    slices: int,
    each: int,
    listener: Listener = silent,
) -> bool:
    """Compile a network in place, or not, and tell why; return whether it is compiled.

    Args:
        network: In eval mode.
        rehearse: Computes a batch of the size that all will have, and waits for its result.
        choice: ``auto``: where it saves more time than it takes, judged by ``slices`` and by
            rehearsing with and without; ``on``: always; ``off``: never.
        device: Its type: cpu, cuda...
        slices: How many slices there are.
        each: How many slices a rehearsal computes.
        listener: Told what was chosen, and warned where compiling fails.
    """
    if choice == "off" or (choice == "auto" and slices < FEWEST_BATCHES * each):
        return False
    eager = _seconds(rehearse) / each if choice == "auto" else 0.0
    if choice == "auto" and not worth_trying(device, slices * eager):
        return False
    listener(Stage("Compiling the network, which takes a minute or so"))
    if reason := try_compile(network, rehearse):
        listener(Warned(f"The network runs eagerly, for it does not compile: {reason}"))
        return False
    if choice == "auto":
        compiled = _seconds(rehearse) / each
        verdict = f"{eager:.3g} s a slice without, {compiled:.3g} s with"
        if compiled > (1 - LEAST_GAIN) * eager:
            undo_compile(network)
            listener(Stage(f"Not compiled, for it saves nothing here ({verdict})"))
            return False
        listener(Stage(f"Compiled, for {slices} slices ({verdict})"))
    return True


def worth_trying(device: str, seconds: float) -> bool:
    """Return whether compiling can be hoped to save more than it costs.

    Args:
        device: Its type: cpu, cuda...
        seconds: What all slices take without.
    """
    if device not in COMPILING:
        return False
    costs, share = COMPILING[device]
    return seconds * share > 2 * costs


def _seconds(rehearse: Callable[[], object]) -> float:
    """Return the shortest time of a rehearsal, after one that does not count."""
    rehearse()
    times = []
    for _ in range(TRIED):
        began = time.perf_counter()
        rehearse()
        times.append(time.perf_counter() - began)
    return min(times)
