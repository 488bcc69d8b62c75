"""The buffer of earlier fakes that discriminators learn from (Shrivastava et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor

from medxlate.base.distributed import ranks
from medxlate.base.errors import ModelError


class ImageBuffer:
    """Keeps up to ``size`` fakes; afterwards swaps a new one for an old one half of the time.

    The images are one tensor on the device. What happens to the fakes of a step is drawn on the
    processor before (``plan``) and copied to the device as numbers, so that nothing waits for the
    device, and a captured step can be played again with other draws. The images change only at
    the end of a step (``commit``): a step that fails half-way can be taken again.

    Where several processes share a step, each keeps the whole buffer: they plan alike, and show
    one another their fakes, so that it is the buffer that one process would have.

    Args:
        size: Images kept; 0 hands every fake straight on.
        seed: Seed of its own random draws.
    """

    def __init__(self, size: int, *, seed: int) -> None:
        self._size = size
        self._ranks = ranks()
        self._kept = 0
        self._before = 0  # how many were kept before the plan
        self._random = torch.Generator().manual_seed(seed)
        self._images: Tensor | None = None  # [size + 1, C, H, W]; the last row is for scrap
        self._fakes: Tensor | None = None  # the fakes of this step, [planned, C, H, W]
        self._planned = torch.empty(0, 4, dtype=torch.int64)
        self._draws: Tensor | None = None  # the same on the device
        self._next = 0

    def plan(self, count: int) -> None:
        """Draw what happens to the fakes of the next step, those of all processes.

        Of fake i the plan holds the row of the buffer that is shown in its place, the fake of this
        step that is (itself, or one that an earlier exchange of the step put into that row),
        whether it is the row, and the row that it goes to.
        """
        self._before = self._kept
        holder: dict[int, int] = {}  # which fake of this step a row will hold
        plan = []
        for i in range(count):
            if self._kept < self._size:
                row, old = self._kept, False
                self._kept += 1
            else:
                coin, pick = torch.rand(2, generator=self._random).tolist()
                row, old = int(pick * self._size), coin > 0.5
                if not old:
                    row = self._size
            shown = holder.get(row, i) if old else i
            plan.append([row if old else self._size, shown, int(old and row not in holder), row])
            if row < self._size:
                if row in holder:
                    plan[holder[row]][3] = self._size  # overwritten before the step has ended
                holder[row] = i
        self._planned = torch.tensor(plan, dtype=torch.int64).reshape(count, 4)
        self._next = 0
        if self._draws is not None and self._draws.shape == self._planned.shape:
            self._draws.copy_(_pinned(self._planned, self._draws.device), non_blocking=True)
        else:
            self._draws = self._fakes = None

    def forget(self) -> None:
        """Take back the plan of a step that shows no fakes: no row waits for an image."""
        self._kept = self._before

    def exchange(self, fakes: Tensor) -> Tensor:
        """Return as many images as there are fakes [B, C, H, W], detached; some may be older.

        Those of a step may come in several parts, as many in all as were planned.
        """
        fakes = fakes.detach()
        if self._size == 0:
            return fakes
        images, seen, draws = self._place(fakes)
        own, fakes = self._shared(fakes)
        part = slice(self._next, self._next + len(fakes))
        self._next += len(fakes)
        seen[part] = fakes
        rows, shown, old, _ = draws[part][own].unbind(1)
        return torch.where(old.view(-1, 1, 1, 1) > 0, images[rows], seen[shown])

    def rewind(self) -> None:
        """Take back the exchanges of a step that failed; it can be taken again as planned."""
        self._next = 0

    def commit(self) -> None:
        """Keep what was planned to be kept, but no image that is not finite."""
        if self._size == 0 or self._fakes is None or self._next == 0:  # nothing was shown
            return
        assert self._images is not None
        assert self._draws is not None
        rows = self._draws[:, 3]
        sound = torch.isfinite(self._fakes).flatten(1).all(dim=1).view(-1, 1, 1, 1)
        self._images.index_copy_(0, rows, torch.where(sound, self._fakes, self._images[rows]))

    def state(self) -> dict[str, Tensor]:
        """Return everything that decides future draws, as tensors."""
        state = {"random": self._random.get_state()}
        if self._kept and self._images is not None:
            state["images"] = self._images[: self._kept].cpu()
        return state

    def load_state(self, state: dict[str, Tensor], device: torch.device) -> None:
        """Take over what ``state`` returned."""
        self._random.set_state(state["random"])
        images = state.get("images")
        if images is not None and (images.dim() != 4 or len(images) > self._size):
            raise ValueError(f"a buffer of {list(images.shape)} images, for {self._size}")
        self._kept = self._before = 0 if images is None else len(images)
        self._images = self._fakes = self._draws = None
        if images is not None:
            self._images = self._empty(images.to(device))
            self._images[: self._kept] = images.to(device)

    def _shared(self, fakes: Tensor) -> tuple[slice, Tensor]:
        """Return the fakes of all processes, and which of them are this one's."""
        if self._ranks.is_alone:
            return slice(None), fakes
        sizes = self._ranks.sizes(len(self._planned))
        if len(fakes) != sizes[self._ranks.rank]:  # a batch in parts, which all have the same size
            sizes = [len(fakes)] * self._ranks.count
        before = sum(sizes[: self._ranks.rank])
        return slice(before, before + len(fakes)), self._ranks.join_rows(fakes, sizes)

    def _place(self, fakes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return images, fakes of the step and plan on the device; made once."""
        if self._images is None:
            self._images = self._empty(fakes)
        if self._images.shape[1:] != fakes.shape[1:]:
            raise ModelError("The image buffers of the checkpoint contain images of another size.")
        if self._fakes is None:
            self._fakes = fakes.new_zeros((len(self._planned), *fakes.shape[1:]))
        if self._draws is None:
            self._draws = self._planned.to(fakes.device)
        return self._images, self._fakes, self._draws

    def _empty(self, like: Tensor) -> Tensor:
        return like.new_zeros((self._size + 1, *like.shape[1:]))


def _pinned(values: Tensor, device: torch.device) -> Tensor:
    return values.pin_memory() if device.type == "cuda" else values
