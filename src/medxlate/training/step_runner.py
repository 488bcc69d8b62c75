"""Takes a learner's steps as fast as the device allows, and survives what goes wrong in one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from medxlate.base.device import Compute, is_out_of_memory
from medxlate.base.distributed import ranks
from medxlate.base.errors import ModelError, plural
from medxlate.base.events import Listener, Warned
from medxlate.config import RuntimeConfig
from medxlate.dataset.loading import Batch
from medxlate.method.compiling import compile_where_it_pays, try_compile
from medxlate.method.learner import Learner
from medxlate.method.objective import Losses
from medxlate.training.capture import CapturedStep
from medxlate.training.exchange import add_up
from medxlate.training.loss_window import BatchStatistics, LossWindow, Window
from medxlate.training.state import TrainingProgress
from medxlate.training.step import gradients, plan_buffers, update

START = TrainingProgress()
NOTHING: Mapping[str, Tensor] = MappingProxyType({})
SKIPPED_IN_A_ROW = 10  # steps whose loss is not finite, before the training is given up
SMALLEST_SIDE = 64  # pixels; of less, ResNet50's last batch norm sees a single pixel
CAPTURED_BATCH = 8  # largest batch whose steps are captured: launches cost less than work above


class StepRunner:
    """Steps of a learner: compiled, captured, in parts, without waiting for the device.

    Args:
        learner: The method.
        compute: Device and precision.
        runtime: ``compile``, ``accumulate``.
        listener: Receives what was chosen and what went wrong.
        position: Whether the run's earlier steps were compiled, and taken in how many parts.
        window: Of an earlier runner's ``state``: what happened since its last look.

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
        position: TrainingProgress = START,
        window: Mapping[str, Tensor] = NOTHING,
    ) -> None:
        self.compiled = position.compiled
        # Several processes never divide a batch by themselves, and may be other ones than before.
        self.parts = (position.parts if ranks().is_alone else None) or runtime.accumulate
        self._learner = learner
        self._compute = compute
        self._choice = runtime.compile
        self._ranks = ranks()
        if not self._ranks.is_alone and self._choice == "auto":
            self._choice = "off"  # nothing compiled has been tried with several processes
        self._seed = runtime.seed
        self._whole = 0  # images of a modality in a step, of all processes
        self._listener = listener
        self._prepared = False
        self._captured: CapturedStep | None = None
        self._may_capture = (
            runtime.compile != "off" and not runtime.deterministic and self._ranks.is_alone
        )
        self._window = LossWindow(compute.device, window)
        self._statistics = BatchStatistics(learner.networks, window)

    def prepare(self, batches: Mapping[str, Batch], *, steps: int) -> None:
        """Decide how steps are taken, by rehearsing one; no state of the learner changes.

        Args:
            batches: A batch of each modality, as all steps will have.
            steps: How many steps are planned.
        """
        self._prepared = True
        self._count(batches)
        rehearse = lambda: self._rehearse(batches)  # noqa: E731
        if self.compiled is None:
            self.compiled = compile_where_it_pays(
                self._learner.networks,
                rehearse,
                choice=self._choice,
                device=self._compute.device.type,
                repeats=steps,
                listener=self._listener,
            )
        elif self.compiled and (reason := try_compile(self._learner.networks, rehearse)):
            self._listener(Warned(f"The steps can no longer be compiled here: {reason}"))
            self.compiled = False

    def estimate_seconds(self, batches: Mapping[str, Batch]) -> float:
        """Return about how many seconds a step takes: by rehearsing one at half the side.

        Convolutions, which a step consists of, cost in proportion to the pixels. On a processor the
        paper's networks at 256 px came to 9 s, where a step took 7.5 s.

        Args:
            batches: A batch of each modality, as the steps will have; no state changes.
        """
        side = next(iter(batches.values())).images.shape[-1]
        small = max(SMALLEST_SIDE, side // 2 // 4 * 4)
        if side <= small:
            return 0.0
        begin = (side - small) // 2
        middle = slice(begin, begin + small)
        parts = {
            name: Batch(batch.images[..., middle, middle], batch.labels)
            for name, batch in batches.items()
        }
        began = time.perf_counter()
        self._rehearse(parts)
        return (time.perf_counter() - began) * (side / small) ** 2

    def step(self, batches: Mapping[str, Batch], *, number: int = 0, progress: float = 0.0) -> None:
        """Take a step, or play the captured one; its losses are added up on the device.

        Args:
            batches: A batch of each modality on the device, of the same shapes in every step; of
                several processes each has its part of it.
            number: The step's number, from 0.
            progress: Which share of all steps is done, 0 to 1.

        Raises:
            ModelError: Memory does not even suffice for a single image of each modality.
        """
        if not self._prepared:
            self.prepare(batches, steps=0)
        if not self._ranks.is_alone:  # each process draws numbers of its own in a step
            torch.manual_seed(_seed_of(self._seed, number, self._ranks.rank))
        plan_buffers(self._learner, self._whole)
        if self._captured is None and self._captures(batches):
            self._captured = CapturedStep(self._take, batches)
        if self._captured is None:
            self._take(batches, progress)
        else:
            self._replay(self._captured, batches)
        self._window.count()

    def _take(self, batches: Mapping[str, Batch], progress: float = 0.0) -> None:
        """Take a step: forward and backward, reduce, update."""
        losses = self._gradients(batches, progress)
        if not self._ranks.is_alone:
            losses = add_up(self._learner, losses)
        skipped = update(self._learner, losses)
        self._window.add(losses, skipped)

    def collect(self) -> Window:
        """Return what happened since the last call; the one place that waits for the device.

        Raises:
            ModelError: Too many steps in a row had a loss that is not finite.
        """
        window = self._window.read()
        if window.skipped:
            self._listener(
                Warned(f"Skipped {plural(window.skipped, 'step')} with a loss that was not finite.")
            )
            self._statistics.repair()
        self._statistics.keep()
        if window.row >= SKIPPED_IN_A_ROW:
            raise ModelError(
                f"The training diverged: the last {window.row} steps had a loss that was not "
                "finite.",
                "Lower optimizer.translator_lr and optimizer.predictor_lr. Earlier checkpoints "
                "are sound.",
            )
        return window

    def state(self) -> dict[str, Tensor]:
        """Return what happened since the last look, from which a later runner goes on."""
        return self._statistics.state() | self._window.state()

    def _replay(self, captured: CapturedStep, batches: Mapping[str, Batch]) -> None:
        """Play the captured step, or the eager one for good where it cannot be captured."""
        try:
            captured.play(batches)
            return
        except RuntimeError as problem:
            cause = _first_cause(problem)
        self._listener(Warned(f"The training step cannot be captured as a CUDA graph: {cause}"))
        self._captured, self._may_capture = None, False
        try:
            torch.rand(1, device=self._compute.device).item()
        except RuntimeError:  # older versions of torch stay in the capture that failed
            raise ModelError(
                f"The training cannot continue after a failed CUDA graph capture: {cause}",
                "Set runtime.compile=off, which turns capturing off.",
            ) from None
        self._take(batches)

    def _gradients(self, batches: Mapping[str, Batch], progress: float = 0.0) -> Losses:
        """Take gradients; where memory runs out, in more parts until it suffices."""
        batch_size = _size(batches)
        while True:
            try:
                return gradients(
                    self._learner,
                    batches,
                    progress=progress,
                    parts=self.parts,
                    whole=self._whole,
                )
            except RuntimeError as problem:
                if "does not have a deterministic implementation" in str(problem):
                    first = str(problem).split(".")[0]
                    raise ModelError(
                        f"This network cannot be trained with runtime.deterministic: {first}.",
                        "Choose another model.predictor, or drop runtime.deterministic.",
                    ) from None
                if not is_out_of_memory(problem) or _is_capturing(self._compute.device):
                    raise
            for optimizer in self._learner.optimizers.values():
                optimizer.zero_grad(set_to_none=True)
            if self._compute.device.type == "cuda":
                torch.cuda.empty_cache()
            if not self._ranks.is_alone:  # the others would wait for parts that never come
                raise ModelError(
                    f"There is not enough memory for {batch_size} images of each modality.",
                    "Use more processes, or set runtime.accumulate or runtime.recompute=true.",
                )
            if self.parts >= batch_size:
                raise ModelError(
                    "There is not enough memory for one image of each modality.",
                    "Set runtime.recompute=true or a smaller data.image_size.",
                )
            self.parts = min(2 * self.parts, batch_size)
            each = -(-batch_size // self.parts)
            self._listener(
                Warned(
                    f"Memory ran out: computing a batch of {batch_size} in {self.parts} parts of "
                    "at "
                    f"most {each} from now on (runtime.accumulate={self.parts})."
                )
            )

    def _rehearse(self, batches: Mapping[str, Batch]) -> None:
        """Take the gradients of a step and discard them; waits for the device."""
        device, learner = self._compute.device, self._learner
        self._count(batches)
        kept = {name: buffer.state() for name, buffer in learner.buffers.items()}
        statistics = BatchStatistics(learner.networks)
        try:
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                plan_buffers(learner, self._whole)
                losses = self._gradients(batches)
                torch.stack(list(losses.values())).tolist()
        finally:
            for name, buffer in learner.buffers.items():
                buffer.load_state(kept[name], device)
            for optimizer in learner.optimizers.values():
                optimizer.zero_grad(set_to_none=True)
            statistics.restore()

    def _count(self, batches: Mapping[str, Batch]) -> None:
        """Find out how large the whole batch is, of all processes."""
        self._whole = self._whole or sum(self._ranks.gather(_size(batches)))

    def _captures(self, batches: Mapping[str, Batch]) -> bool:
        """Return whether steps are captured in a CUDA graph."""
        small = _size(batches) <= CAPTURED_BATCH
        on_gpu = self._compute.device.type == "cuda"
        return on_gpu and small and self._may_capture and self._learner.capturable


def _is_capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _first_cause(problem: BaseException) -> str:
    """Return the first line of the error with which everything began."""
    while (earlier := problem.__cause__ or problem.__context__) is not None:
        problem = earlier
    return (str(problem).splitlines() or [type(problem).__name__])[0]


def _size(batches: Mapping[str, Batch]) -> int:
    return len(next(iter(batches.values())).labels)


def _seed_of(seed: int, step: int, rank: int) -> int:
    """Return a seed that differs for every step and process."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0]) >> 1
