"""Takes a learner's steps as fast as the device allows, and survives what goes wrong in one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from medxlate.config import RuntimeConfig
from medxlate.dataset.loading import Batch
from medxlate.errors import ModelError
from medxlate.events import Listener, Warned
from medxlate.models.compiling import compile_where_it_pays, try_compile
from medxlate.models.device import Compute, is_out_of_memory
from medxlate.training.capture import CapturedStep
from medxlate.training.step import Learner, Losses, gradients, plan_buffers, update

SKIPPED_IN_A_ROW = 10  # steps whose loss is not finite, before the training is given up
CAPTURED_BATCH = 8  # largest batch whose steps are captured: launches cost less than work above


@dataclass(frozen=True)
class Window:
    """What happened since the last look.

    Attributes:
        losses: Means over the steps that counted.
        steps: Steps taken, skipped ones included.
        skipped: Steps without an update, because a loss was not finite.
    """

    losses: dict[str, float]
    steps: int
    skipped: int


class Stepper:
    """Steps of a learner: compiled, captured, in parts, without waiting for the device.

    Args:
        learner: The method.
        compute: Device and precision.
        runtime: ``compile``, ``accumulate``.
        listener: Told what was chosen and what went wrong.
        compiled: Whether the run's earlier steps were compiled; None: not decided yet.

    Attributes:
        compiled: The same, once decided.
        parts: In how many parts a batch is computed now.
    """

    def __init__(
        self,
        learner: Learner,
        *,
        compute: Compute,
        runtime: RuntimeConfig,
        listener: Listener,
        compiled: bool | None = None,
    ) -> None:
        self.compiled = compiled
        self.parts = runtime.accumulate
        self._learner = learner
        self._compute = compute
        self._choice = runtime.compile
        self._listener = listener
        self._prepared = False
        self._captured: CapturedStep | None = None
        self._may_capture = runtime.compile != "off"
        self._names: list[str] = []
        self._sums: Tensor | None = None  # of the losses, of skipped steps, of those in a row
        self._steps = 0
        self._statistics = _Statistics(learner)

    def prepare(self, batches: Mapping[str, Batch], *, steps: int) -> None:
        """Decide how steps are taken, by rehearsing one; no state of the learner changes.

        Args:
            batches: A batch of each modality, as all steps will have.
            steps: How many steps are planned.
        """
        self._prepared = True
        if self._compute.device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # all steps have the same shapes
        rehearse = lambda: self._rehearse(batches)  # noqa: E731
        if self.compiled is None:
            self.compiled = compile_where_it_pays(
                self._learner.networks,
                rehearse,
                choice=self._choice,
                device=self._compute.device.type,
                repeats=steps,
                unit="steps",
                listener=self._listener,
            )
        elif self.compiled and (reason := try_compile(self._learner.networks, rehearse)):
            self._listener(Warned(f"The steps cannot be compiled here any more: {reason}"))
            self.compiled = False

    def step(self, batches: Mapping[str, Batch], *, progress: float = 0.0) -> None:
        """Take a step; its losses are added up on the device.

        Args:
            batches: A batch of each modality on the device, of the same shapes in every step.
            progress: Which share of all steps is done, 0 to 1.

        Raises:
            ModelError: Memory does not even suffice for a single image of each modality.
        """
        if not self._prepared:
            self.prepare(batches, steps=0)
        plan_buffers(self._learner, batches)
        if self._captured is None and self._captures(batches):
            self._captured = CapturedStep(self._take, batches)
        if self._captured is None:
            self._take(batches, progress)
        else:
            self._play(self._captured, batches)
        self._steps += 1

    def collect(self) -> Window:
        """Return what happened since the last call; the one place that waits for the device.

        Raises:
            ModelError: Too many steps in a row had a loss that is not finite.
        """
        assert self._sums is not None
        *sums, skipped, row = self._sums.tolist()
        counted = self._steps - int(skipped)
        losses = {n: s / counted for n, s in zip(self._names, sums, strict=True) if counted}
        window = Window(losses, self._steps, int(skipped))
        self._sums[:-1].zero_()
        self._steps = 0
        if skipped:
            self._listener(
                Warned(f"{int(skipped)} steps were skipped: a loss was not a finite number.")
            )
            self._statistics.mend()
        self._statistics.keep()
        if row >= SKIPPED_IN_A_ROW:
            raise ModelError(
                f"The training diverged: in the last {int(row)} steps a loss was not finite.",
                "Lower optimizer.translator_lr and optimizer.predictor_lr; the checkpoints made "
                "before are sound.",
            )
        return window

    def _play(self, captured: CapturedStep, batches: Mapping[str, Batch]) -> None:
        """Play the captured step, or the eager one for good where it cannot be captured."""
        try:
            captured.play(batches)
        except RuntimeError as problem:
            first = str(problem).splitlines()[0]
            self._listener(Warned(f"A step cannot be captured as a CUDA graph: {first}"))
            self._captured, self._may_capture = None, False
            self._take(batches)

    def _take(self, batches: Mapping[str, Batch], progress: float = 0.0) -> None:
        losses = self._gradients(batches, progress)
        skipped = update(self._learner, losses)
        values = torch.stack(list(losses.values()))
        if self._sums is None:
            self._names = list(losses)
            self._sums = values.new_zeros(len(values) + 2)
        row = (self._sums[-1:] + 1) * skipped
        counted = torch.where(skipped > 0, torch.zeros_like(values), values)
        self._sums[:-2].add_(counted)
        self._sums[-2:-1].add_(skipped)
        self._sums[-1:].copy_(row)

    def _gradients(self, batches: Mapping[str, Batch], progress: float = 0.0) -> Losses:
        """Take gradients; where memory runs out, in more parts until it suffices."""
        batch_size = len(next(iter(batches.values())).labels)
        while True:
            try:
                return gradients(self._learner, batches, progress=progress, parts=self.parts)
            except RuntimeError as problem:
                if not is_out_of_memory(problem):
                    raise
            for optimizer in self._learner.optimizers.values():
                optimizer.zero_grad(set_to_none=True)
            if self._compute.device.type == "cuda":
                torch.cuda.empty_cache()
            if self.parts >= batch_size:
                raise ModelError(
                    "Memory does not suffice for one image of each modality.",
                    "Set runtime.recompute=true, or a smaller data.image_size.",
                )
            self.parts = min(2 * self.parts, batch_size)
            each = -(-batch_size // self.parts)
            self._listener(
                Warned(
                    f"Memory ran out; a batch of {batch_size} is now computed in {self.parts} "
                    f"parts of at most {each} (runtime.accumulate={self.parts})."
                )
            )

    def _rehearse(self, batches: Mapping[str, Batch]) -> None:
        """Take the gradients of a step and forget them; waits for the device."""
        device, learner = self._compute.device, self._learner
        kept = {name: buffer.state() for name, buffer in learner.buffers.items()}
        self._statistics.keep()
        try:
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                plan_buffers(learner, batches)
                losses = self._gradients(batches)
                torch.stack(list(losses.values())).tolist()
        finally:
            for name, buffer in learner.buffers.items():
                buffer.load_state(kept[name], device)
            for optimizer in learner.optimizers.values():
                optimizer.zero_grad(set_to_none=True)
            self._statistics.restore()

    def _captures(self, batches: Mapping[str, Batch]) -> bool:
        """Return whether steps are captured in a CUDA graph."""
        small = len(next(iter(batches.values())).labels) <= CAPTURED_BATCH
        on_gpu = self._compute.device.type == "cuda"
        return on_gpu and small and self._may_capture and self._learner.capturable


class _Statistics:
    """The running statistics of batch norms, which a loss that is not finite spoils."""

    def __init__(self, learner: Learner) -> None:
        self._now = list(learner.networks.buffers())
        self._kept: list[Tensor] = []
        self.keep()

    def keep(self) -> None:
        self._kept = [buffer.clone() for buffer in self._now]

    def restore(self) -> None:
        for buffer, kept in zip(self._now, self._kept, strict=True):
            buffer.copy_(kept)

    def mend(self) -> None:
        """Bring back those that are not finite any more; they forget within a few steps anyway."""
        for buffer, kept in zip(self._now, self._kept, strict=True):
            if buffer.is_floating_point() and not bool(torch.isfinite(buffer).all()):
                buffer.copy_(kept)
