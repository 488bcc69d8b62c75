"""What is chosen for the user of a trained model."""

from __future__ import annotations

from typing import get_args

from medxlate.artifacts.info import ModelInfo
from medxlate.base.device import Compute, choose_compute
from medxlate.base.errors import UsageError, nearest
from medxlate.base.events import Listener, silent
from medxlate.method.compiling import Choice


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


def check_compile(choice: str) -> Choice:
    """Return the choice; raises UsageError where it is none of auto, on and off."""
    for known in get_args(Choice):
        if choice == known:
            return known  # type: ignore[no-any-return]
    raise UsageError(f"--compile {choice} is unknown.", nearest(choice, get_args(Choice)))
