"""Intensity recipes: from physical values to the networks' [-1, 1], and back.

A recipe says how a modality's scans are read and which physical values become black and white.
What lies between keeps its meaning: the recipe is stored with the dataset and with the model, so
a translated image can be given back in physical units.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from medxlate.base.errors import ImageError, UsageError, nearest
from medxlate.base.grey_levels import PEAKS, Bits, Stored, peak_of, to_levels, to_unit
from medxlate.base.plugins import (
    PluginError,
    PluginRecord,
    Setting,
    Settings,
    blamed,
    choose,
    described,
    find,
    names,
    record,
    with_settings,
)
from medxlate.images.orientation import Plane
from medxlate.images.square import resize, to_square
from medxlate.images.stack import FloatArray, Stack

Limits = tuple[float, float]
Kind = Literal["ct", "mr", "pet", "xray", "as-is"]
KINDS: tuple[Kind, ...] = ("ct", "mr", "pet", "xray", "as-is")

# Level and width in HU, as radiology workstations offer them.
WINDOWS: dict[str, tuple[float, float]] = {
    "brain": (40, 80),
    "subdural": (80, 200),
    "bone": (400, 1800),
    "lung": (-600, 1500),
    "soft-tissue": (40, 400),
    "wide": (1024, 4096),
}
DEFAULT_WINDOWS: dict[str, tuple[float, float]] = {"ct": WINDOWS["soft-tissue"], "pet": (5, 10)}
DEFAULT_PERCENTILES = (0.5, 99.5)
UNITS = {"ct": "HU", "pet": "SUVbw"}

SAMPLED_SLICES = 64  # of a volume, evenly spaced, for its percentiles
SAMPLED_VOXELS = 4_000_000
SMALLEST, LARGEST = 1e-30, 1e30  # well within what float32 can hold
DARK = 0.05  # share of the recipe's range up to which a pixel counts as background
LEAST_SHOWN = 0.01  # a slice with a smaller share of pixels above that is near-empty


Unit = Literal["", "HU", "SUVbw"]


@dataclass(frozen=True)
class IntensityRecipe:
    """A recipe of a plug-in: which values of a scan become black and white.

    Between the two a recipe is linear, so that what is translated can be given back in the unit in
    every format.

    Attributes:
        limits: From a scan (``Stack``), and settings of its own as keywords, to the values that
            become -1 and 1; values beyond them are cut off. It raises ImageError, with the reason,
            where a scan cannot be used, and gives the same for the same scan.
        unit: Unit of the values: "HU" or "SUVbw", which scans then must have, or "": as stored.
    """

    limits: Callable[..., Limits]
    unit: Unit = ""


NO_RECIPES: Mapping[str, IntensityRecipe] = {}  # the built-in ones are kinds of Recipe


class Recipe(BaseModel):
    """How the scans of one modality are read and their values mapped.

    Attributes:
        kind: ``ct`` a window in HU; ``pet`` a window in SUVbw; ``mr`` percentiles over the volume;
            ``xray`` percentiles of the image; ``as-is`` the range of the stored type; or the name
            of a plug-in's.
        window: Level and width in HU or SUVbw, for ``ct`` and ``pet``.
        percentiles: Lower and upper, for ``mr`` and ``xray``.
        n4: Whether the bias field of each volume is corrected first (N4), for ``mr``.
        channel: Which channel of colour images is read, from 0; None: luma.
        plane: The plane along which volumes are cut.
        volume: Which volume of 4-D files is read, from 0.
        dicom_modality: The only DICOM Modality that is read; "": decided by the files, or else
            by the modality's name.
        bits: Depth of the stored values, 8 or 16.
        unit: Unit of the physical values: "HU", "SUVbw" or "".
        output_range: The physical values that -1 and 1 stand for in translated images. For
            percentiles and plug-ins, the median over the dataset's scans.
        plugin: The plug-in, if the recipe comes from one.
        settings: Settings of the plug-in.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    window: tuple[float, float] | None = None
    percentiles: tuple[float, float] | None = None
    n4: bool = False
    channel: int | None = None
    plane: Plane = "axial"
    volume: int | None = None
    dicom_modality: str = ""
    bits: Bits = 16
    unit: str = ""
    output_range: Limits = (0.0, 0.0)
    plugin: PluginRecord | None = None
    settings: Settings = {}

    @model_validator(mode="after")
    def _known(self) -> Recipe:
        own = self.kind in KINDS
        if own != (self.plugin is None) or (self.plugin and self.plugin.name != self.kind):
            raise ValueError(f"there is no recipe '{self.kind}'")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what only plug-ins have: hashes of recipes stay those of older versions."""
        values: dict[str, Any] = handler(self)
        if self.plugin is None:
            del values["plugin"], values["settings"]
        return values

    def limits(self, stack: Stack) -> Limits:
        """Return the physical values of this scan that become black and white.

        Raises:
            ImageError: The scan has another unit, or no two values that could be told apart.
        """
        low, high = self._limits(stack)
        if not (abs(low) < LARGEST and SMALLEST < high - low < LARGEST):
            raise ImageError(f"its values, from {low:g} to {high:g}, cannot be distinguished")
        return low, high

    def _limits(self, stack: Stack) -> Limits:
        if self.unit and stack.unit != self.unit:
            raise ImageError(
                f"the recipe '{self.kind}' needs {_NAMES[self.unit]}, which the image lacks",
                "Use --recipe mr, xray or as-is for images without a physical unit.",
            )
        if self.plugin is not None:
            return self._of_plugin(stack)
        if self.window is not None:
            level, width = self.window
            return level - width / 2, level + width / 2
        if self.percentiles is not None:
            values = sample(stack)
            if not values.size:
                raise ImageError("the scan is empty: all voxels are padding")
            low, high = (float(v) for v in np.percentile(values, self.percentiles))
            if low == high:
                low, high = float(values.min()), float(values.max())
            if low == high:
                raise ImageError(f"the scan is empty: all voxels are {low:g}")
            return low, high
        return stack.full_range

    def _of_plugin(self, stack: Stack) -> Limits:
        made = choose("recipes", self.kind, NO_RECIPES, IntensityRecipe)
        limits = with_settings("recipes", self.kind, made.limits, self.settings)
        with blamed("recipes", self.kind):
            low, high = (float(value) for value in limits(stack))
        if not low < high:
            what = described("recipes", self.kind)
            raise PluginError(f"The {what} gave {low:g} to {high:g}: no range.")
        return low, high

    @property
    def peak(self) -> int:
        """The largest stored value: 255 or 65535."""
        return PEAKS[self.bits]

    def store(
        self,
        pixels: FloatArray,
        size: int,
        *,
        limits: Limits,
        spacing: tuple[float, float] = (1.0, 1.0),
    ) -> Stored:
        """Map a slice to the dataset's form: integers [size, size], 0 black, ``peak`` white.

        Args:
            pixels: float32 [H, W], physical values; overwritten. NaN, where nothing was measured,
                becomes black.
            size: Side of the square, pixels.
            limits: What ``limits`` returned for its scan.
            spacing: Distance between rows and between columns, mm: the aspect ratio is kept.
        """
        low, high = limits
        pixels -= np.float32(low)  # in place: fresh memory costs more than the sums
        pixels *= np.float32(1 / (high - low))
        np.clip(pixels, 0, 1, out=pixels)
        padding = np.isnan(pixels)
        if padding.any():
            pixels[padding] = 0
        square = to_square(pixels, size, background=0.0, spacing=spacing)
        return to_levels(square, self.bits)

    def physical(self, network: FloatArray) -> FloatArray:
        """Bring a network's values in [-1, 1] to physical ones, by ``output_range``."""
        low, high = self.output_range
        unit = (np.clip(network, -1, 1) + 1) / 2
        return (unit * np.float32(high - low) + np.float32(low)).astype(np.float32)

    @property
    def rescale(self) -> tuple[float, float]:
        """Slope and intercept that bring stored integers to physical values, by output_range."""
        low, high = self.output_range
        return (high - low) / self.peak, low


_NAMES = {"HU": "Hounsfield units", "SUVbw": "standardised uptake values"}


def to_network(stored: npt.NDArray[Any], size: int) -> FloatArray:
    """Bring stored integers [S, S] to float32 [size, size] in [-1, 1]: what every network sees."""
    return resize(to_unit(stored), size, size) * 2 - 1


def is_near_empty(stored: Stored) -> bool:
    """Whether a stored slice shows next to nothing.

    The rule: fewer than 1 % of the square's pixels lie above 5 % of the recipe's range.
    """
    threshold = int(DARK * peak_of(stored))
    return int(np.count_nonzero(stored > threshold)) < LEAST_SHOWN * stored.size


def make_recipe(
    kind: str,
    *,
    modality: str,
    guess: Kind,
    bits: Bits,
    window: str | tuple[float, float] | None = None,
    percentiles: tuple[float, float] | None = None,
    n4: bool = False,
    channel: int | None = None,
    plane: Plane = "axial",
    volume: int | None = None,
    dicom_modality: str = "",
    settings: Mapping[str, Setting] | None = None,
) -> Recipe:
    """Build the recipe of a modality before its images are read.

    Args:
        kind: One of KINDS, the name of a plug-in's, or ``auto``: ``guess``.
        modality: Its name, for messages.
        guess: What the files look like.
        bits: Depth of the deepest image.
        window: For ``ct`` and ``pet``: level and width, or for ``ct`` one of WINDOWS; default
            soft-tissue (40, 400 HU), or 0 to 10 SUVbw.
        percentiles: For ``mr`` and ``xray``; default 0.5, 99.5.
        n4: Whether bias fields are corrected, for ``mr``.
        channel: Which channel of colour images is read, from 0.
        plane: The plane along which volumes are cut.
        volume: Which volume of 4-D files is read, from 0.
        dicom_modality: The only DICOM Modality that is read.
        settings: Settings of the plug-in.

    Raises:
        UsageError: An unknown kind, or a parameter that does not belong to it.
        PluginError: The plug-in cannot be loaded.
    """
    chosen = guess if kind == "auto" else kind
    plugin, unit = _plugin(chosen, settings or {})
    windowed = chosen in DEFAULT_WINDOWS
    if window is not None and not windowed:
        raise UsageError(
            f"--window applies to the recipes ct and pet only; {modality} uses {chosen}."
        )
    if percentiles is not None and chosen not in ("mr", "xray"):
        raise UsageError(
            f"--percentiles applies to the recipes mr and xray only; {modality} uses {chosen}."
        )
    if n4 and chosen != "mr" and plugin is None:
        raise UsageError(f"--n4 applies to the recipe mr only; {modality} uses {chosen}.")
    return Recipe(
        kind=chosen,
        window=_window(chosen, window) if windowed else None,
        percentiles=_percentiles(percentiles) if chosen in ("mr", "xray") else None,
        n4=n4,
        channel=channel,
        plane=plane,
        volume=volume,
        dicom_modality=dicom_modality,
        bits=bits,
        unit=unit,
        plugin=plugin,
        settings=dict(settings or {}),
    )


def _plugin(kind: str, settings: Mapping[str, Setting]) -> tuple[PluginRecord | None, str]:
    """Return the plug-in of a recipe, None for one of medxlate's own, and its unit."""
    if kind in KINDS:
        if settings:
            raise UsageError(
                f"--recipe-set applies to the recipes of plug-ins only; {kind} is medxlate's own."
            )
        return None, UNITS.get(kind, "")
    plugin = find("recipes", kind)
    if plugin is None:
        raise UsageError(f"Unknown recipe '{kind}'.", nearest(kind, {*KINDS, *names("recipes")}))
    made = choose("recipes", kind, NO_RECIPES, IntensityRecipe)
    with_settings("recipes", kind, made.limits, settings)  # refused before an image is read
    return record(plugin), made.unit


def _window(kind: str, window: str | tuple[float, float] | None) -> tuple[float, float]:
    if isinstance(window, str):
        if kind != "ct" or window not in WINDOWS:
            raise UsageError(
                f"The recipe {kind} has no window '{window}'.",
                nearest(window, WINDOWS) if kind == "ct" else "Give --window LEVEL,WIDTH in SUV.",
            )
        return WINDOWS[window]
    level, width = window or DEFAULT_WINDOWS[kind]
    if width <= 0:
        raise UsageError(f"The window width must be positive, not {width:g}.")
    return level, width


def _percentiles(percentiles: tuple[float, float] | None) -> tuple[float, float]:
    low, high = percentiles or DEFAULT_PERCENTILES
    if not 0 <= low < high <= 100:
        raise UsageError(
            f"Percentiles must be LOW,HIGH with 0 <= LOW < HIGH <= 100, not {low:g},{high:g}."
        )
    return low, high


def sample(stack: Stack) -> FloatArray:
    """Return every measured value of a single image; of a volume, those of a regular sample.

    Args:
        stack: The scan.

    Returns:
        float32 [N], in the scan's unit; padding is left out.

    Raises:
        ImageError: No slice can be read.
    """
    if stack.count == 1:
        return _measured(stack.read(0))
    numbers = np.unique(np.linspace(0, stack.count - 1, SAMPLED_SLICES).round().astype(int))
    pixels = len(numbers) * stack.height * stack.width
    step = max(1, int(np.ceil(np.sqrt(pixels / SAMPLED_VOXELS))))
    parts: list[FloatArray] = []
    problem: ImageError | None = None
    for number in numbers:
        try:
            parts.append(_measured(stack.read(int(number))[::step, ::step]))
        except ImageError as error:
            problem = error
    if not parts:
        assert problem is not None
        raise problem
    return np.concatenate(parts)


def _measured(pixels: FloatArray) -> FloatArray:
    """Return the pixels [N] that are not padding."""
    padding = np.isnan(pixels)
    return pixels[~padding] if padding.any() else pixels.ravel()
