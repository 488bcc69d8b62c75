"""A step captured in a CUDA graph: launched as one piece, whatever the number of its kernels."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping

import torch

from medxlate.dataset.loading import Batch

WARM_UP = 3  # steps before the capture, in which libraries choose kernels and allocate


class CapturedStep:
    """Plays a captured step again with other images.

    The step must do the same on the device each time, and find everything that changes in tensors
    that stay where they are: images and labels in copies that are kept here, learning rates,
    weights, moments, image buffers and their plans where they are.

    Args:
        take: Takes a step.
        batches: Of the shapes that all steps have; no step is taken here.
    """

    def __init__(
        self, take: Callable[[Mapping[str, Batch]], object], batches: Mapping[str, Batch]
    ) -> None:
        self._take = take
        self._warm = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs = {
            name: Batch(batch.images.clone(), batch.labels.clone())
            for name, batch in batches.items()
        }
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        # Earlier steps, such as rehearsals, ran on another stream. Where an exception or a cycle
        # keeps one's graph alive, gradients would still be added up there, which no capture allows.
        # Torch's thread for backward passes may not have released an exception yet: it has when it
        # has taken another pass.
        device = next(iter(self._inputs.values())).images.device
        torch.zeros((), device=device, requires_grad=True).clone().backward()  # type: ignore[no-untyped-call]
        gc.collect()

    def play(self, batches: Mapping[str, Batch]) -> None:
        """Take a step with these batches."""
        for name, batch in batches.items():
            self._inputs[name].images.copy_(batch.images, non_blocking=True)
            self._inputs[name].labels.copy_(batch.labels, non_blocking=True)
        if self._graph is not None:
            self._graph.replay()
            return
        self._stream.wait_stream(torch.cuda.current_stream())
        if self._warm < WARM_UP:  # real steps, on the side stream that a capture wants
            with torch.cuda.stream(self._stream):
                self._take(self._inputs)
            torch.cuda.current_stream().wait_stream(self._stream)
            self._warm += 1
            return
        graph = torch.cuda.CUDAGraph()
        # Threads that read images or write checkpoints are none of the capture's business.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            self._take(self._inputs)  # recorded, not run
        self._graph = graph
        graph.replay()
