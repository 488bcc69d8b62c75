"""Source images that follow the labels of the target's: label-matched sampling (data.match_labels).

Drawn independently, the images of a step have the labels of their modalities. Where these are
distributed differently, a discriminator sees the difference of labels as one of modality, and the
generator removes it: it adds or takes away what the label stands for (Cohen, Luck and Honari,
MICCAI 2018). Here each target image of a step brings a source image of its class, or of the
nearest label: class-aligned sampling (Jiang et al., ICML 2020), for values with the cells of
nearest-neighbour importance weighting (Loog, MLSP 2012).

The sources follow the target, not the reverse: the target's images come in their own order,
as without it, so that every method still shows each of them once a pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from medxlate.base.errors import ConfigError
from medxlate.base.events import Listener, Warned, silent
from medxlate.config import Config
from medxlate.dataset.labels import Task
from medxlate.dataset.loading import Order, Slices
from medxlate.dataset.training_data import Data

Groups = npt.NDArray[np.intp]
Labels = npt.NDArray[Any]  # int64 classes or float32 values
HINT = (
    "Set data.match_labels=false, or use data.where to select images with labels that both "
    "modalities have."
)


class MatchedOrder(Order):
    """An order over a source's items in which position p has the label of the target's item there.

    Within a group of ``label_groups`` every pass shows each item once, so that a pass over the
    target shows each group exactly as often as the target has it. Position p depends on seed,
    names and labels alone, as in ``Order``.

    Args:
        labels: Of the source [M]: int64 classes or float32 values.
        target: Labels of the target [N], likewise.
        seed: Of the target's order, and of the source's.
        name: The source modality.
        target_name: The target modality.
    """

    def __init__(
        self, labels: Tensor, target: Tensor, *, seed: int, name: str, target_name: str
    ) -> None:
        super().__init__(len(labels), seed=seed, name=name)
        self._followed = Order(len(target), seed=seed, name=target_name)
        self._wanted, found = label_groups(target.numpy(), labels.numpy())
        self._sizes = np.bincount(self._wanted)
        self._members = [np.flatnonzero(found == group) for group in range(len(self._sizes))]
        self._orders = [
            Order(len(members), seed=seed, name=f"{name}.{group}")
            for group, members in enumerate(self._members)
        ]
        self._places = -1, self._wanted, self._wanted

    def at(self, position: int) -> int:
        """Return the item at a position of the endless order."""
        number, within = divmod(position, len(self._wanted))
        groups, earlier = self._pass_of(number)
        group = groups[within]
        place = number * int(self._sizes[group]) + int(earlier[within])
        return int(self._members[group][self._orders[group].at(place)])

    def _pass_of(self, number: int) -> tuple[Groups, Groups]:
        """Return the group at each position of a pass, and how often the pass had it before."""
        if self._places[0] != number:
            groups = self._wanted[self._followed.shuffled(number)]
            by_group = np.argsort(groups, kind="stable")
            first = np.cumsum(self._sizes) - self._sizes
            earlier = np.empty_like(groups)
            earlier[by_group] = np.arange(len(groups)) - first[groups[by_group]]
            self._places = number, groups, earlier
        return self._places[1:]


def orders(slices: Mapping[str, Slices], *, seed: int, follow: str = "") -> dict[str, Order]:
    """Return the order of each modality's slices.

    Args:
        slices: By modality.
        seed: Of all orders.
        follow: The modality whose labels the others' slices have at each position; "": each has
            an order of its own.
    """
    found = {name: Order(len(some), seed=seed, name=name) for name, some in slices.items()}
    if not follow:
        return found
    others = {name: some for name, some in slices.items() if name != follow}
    return found | {
        name: MatchedOrder(
            some.labels, slices[follow].labels, seed=seed, name=name, target_name=follow
        )
        for name, some in others.items()
    }


def matched(data: Data, config: Config, task: Task, listener: Listener = silent) -> Data:
    """Return the data of which steps show sources that follow the target's labels.

    Sources with labels that the target does not have are left out; an epoch has as many steps as
    with them.

    Args:
        data: What is trained on.
        config: It names sources and target.
        task: What the labels are.
        listener: Receives warnings: what is left out, and labels that cannot be matched well.

    Raises:
        ConfigError: The labels of source and target cannot be matched.
    """
    target, kept = config.data.target, {}
    wanted = data.train[target].labels.numpy()
    for name in config.data.sources:
        labels = data.train[name].labels.numpy()
        groups, found = label_groups(wanted, labels)
        if (groups < 0).any():
            problem = f"no {name} training image has a label within the range of {target}"
            if task.kind == "classification":
                lacking = ", ".join(task.classes[i] for i in np.unique(wanted[groups < 0]))
                problem = f"{target} has training images of {lacking}, and {name} has none"
            raise ConfigError(f"data.match_labels cannot be used: {problem}.", HINT)
        for note in _notes(wanted, labels, found, target, name):
            listener(Warned(note))
        kept[name] = data.train[name].picked(np.flatnonzero(found >= 0))
    return replace(data.showing(kept), follow=target)


def _notes(
    wanted: Labels, labels: Labels, found: Groups, target: str, source: str
) -> Iterator[str]:
    if left_out := int((found < 0).sum()):
        yield (
            f"data.match_labels leaves out {left_out} of {len(labels)} {source} images: no "
            f"{target} training image has a matching label."
        )
    beyond = int(((wanted < labels.min()) | (wanted > labels.max())).sum())
    if beyond and wanted.dtype.kind == "f":
        yield (
            f"{beyond} of {len(wanted)} {target} images have labels outside the range of "
            f"{source}: data.match_labels pairs them with the nearest."
        )


def label_groups(target: Labels, source: Labels) -> tuple[Groups, Groups]:
    """Return the group of each target image [N] and of each source image [M]: who goes with whom.

    Classes: a group is a class that both have. Values: a group is the cell of source labels that
    are nearer to one target label than to any other (of two as near, the lower one); a target
    label whose cell is empty joins the cell of the source that is nearest to it. Groups are counted
    from 0. Labels that only one side has, or source values outside of the target's range, have -1.

    Args:
        target: Labels [N]: integers are classes, floats are values.
        source: Labels [M], likewise.
    """
    return (_by_value if target.dtype.kind == "f" else _by_class)(target, source)


def _by_class(target: Labels, source: Labels) -> tuple[Groups, Groups]:
    both = np.intersect1d(target, source)
    one, other = (
        np.where(np.isin(labels, both), np.searchsorted(both, labels), -1)
        for labels in (target, source)
    )
    return one, other


def _by_value(target: Labels, source: Labels) -> tuple[Groups, Groups]:
    inside = (source >= target.min()) & (source <= target.max())
    if not inside.any():
        return np.full(len(target), -1), np.full(len(source), -1)
    values, shown = np.unique(target), np.unique(source[inside])
    centres = np.unique(_nearest(values, shown))
    joined = _nearest(values, _nearest(shown, target))
    own = np.where(np.isin(target, centres), target, joined)
    cells = np.searchsorted(centres, _nearest(values, source))
    return np.searchsorted(centres, own), np.where(inside, cells, -1)


def _nearest(among: Labels, values: Labels) -> Labels:
    """Return the nearest number among increasing ones to each value, the lower of two as near."""
    right = np.minimum(np.searchsorted(among, values), len(among) - 1)
    left = np.maximum(right - 1, 0)
    is_left = values - among[left] <= among[right] - values
    return np.asarray(np.where(is_left, among[left], among[right]))
