"""Running a network over many images: in batches that fit into memory, without waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medxlate.artifacts.info import ModelInfo
from medxlate.base.device import Compute, choose_compute, is_out_of_memory
from medxlate.base.errors import CapacityError
from medxlate.base.events import Listener, Warned, silent
from medxlate.inference.pipeline import ahead
from medxlate.inference.request import MULTIPLE
from medxlate.inference.tiles import run_tiles

# Pixels computed at once where nobody says how many. On a processor (Zen 4, one thread, other work
# going on) a slice of 256 x 256 took the paper's generator 1.1 s in batches of 1 and 2, 1.5 s in
# batches of 4 and 2.0 s in batches of 8, in float32; 1.0, 1.1, 1.1 and 1.2 s in bf16: batches do
# not stay in its caches. A GPU wants many; where memory runs out, they are halved.
PIXELS = {"cpu": 256**2, "cuda": 64 * 256**2, "mps": 8 * 256**2}
MOST_IMAGES = 256  # however small they are
SMALLEST_TILE = 64  # a generator sees little of the anatomy in less


@dataclass(frozen=True)
class Pending:
    """Outputs that are on their way from the device.

    Attributes:
        outputs: float32 [B, ...], on the CPU; its content is not there yet.
        copied: When it will be; None: it is there.
    """

    outputs: Tensor
    copied: torch.cuda.Event | None

    def wait(self) -> Tensor:
        """Return the outputs, float32 [B, ...] on the CPU."""
        if self.copied is None:
            return self.outputs
        self.copied.synchronize()
        return self.outputs.clone()  # pinned memory is scarce


class Engine:
    """Computes batches with a network in eval mode, whatever their size.

    Batches larger than what fits into memory are computed in parts. Where memory runs out, the part
    is halved and computed again; where not even one image fits, it is computed in tiles.

    Args:
        network: On ``compute.device``.
        compute: Device and precision.
        batch_size: How many images are computed at once to begin with; None: as many as there are.
        tile: Compute images in tiles of this side, pixels, a multiple of 4; 0: whole.
        tiles: Whether the network makes images of images, so that tiles are possible.
        call: What to call in place of the network's forward (its features, say).
        listener: Receives a warning where memory does not suffice.

    Attributes:
        batch_size: How many images are computed at once.
        tile: Side of the tiles, 0 for whole images.
        padded: Whether smaller batches are filled up to ``batch_size``, because the network was
            compiled for that.
    """

    def __init__(
        self,
        network: nn.Module,
        compute: Compute,
        *,
        batch_size: int | None = None,
        tile: int = 0,
        tiles: bool = False,
        call: Callable[[Tensor], Tensor] | None = None,
        listener: Listener = silent,
    ) -> None:
        self.batch_size = batch_size
        self.tile = tile
        self.padded = False
        self._tiles = tiles
        self._call = call or network
        self._compute = compute
        self._listener = listener

    @property
    def on_cuda(self) -> bool:
        """Whether images are best handed over in pinned memory."""
        return self._compute.device.type == "cuda"

    # Not inference_mode, whose tensors count as others to a compiled network: it would be compiled
    # again for a batch that was filled up.
    @torch.no_grad()
    def start(self, images: Tensor) -> Pending:
        """Begin to compute a batch, on CUDA without waiting for the result.

        Args:
            images: float32 [B, 1, S, S] in [-1, 1].

        Raises:
            CapacityError: Memory does not hold the smallest part.
        """
        with self._compute.autocast():
            done: list[Tensor] = []
            while (begin := sum(map(len, done))) < len(images):
                size = min(self.batch_size or len(images), len(images) - begin)
                part = self._fitting(images[begin : begin + size])
                if part is not None:
                    done.append(part)
            outputs = done[0] if len(done) == 1 else torch.cat(done)
        if outputs.device.type != "cuda":
            return Pending(outputs.cpu(), None)
        copy = outputs.to("cpu", non_blocking=True)  # into pinned memory
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record()
        return Pending(copy, copied)

    def __call__(self, images: Tensor) -> Tensor:
        """Return the outputs, float32 [B, ...] on the CPU, of a batch [B, 1, S, S]."""
        return self.start(images).wait()

    def _fitting(self, part: Tensor) -> Tensor | None:
        """Compute a part; None where memory ran out and less is to be tried."""
        try:
            return self._compute_part(part)
        except (RuntimeError, MemoryError) as problem:
            if not is_out_of_memory(problem):
                raise
        # Only here are the tensors let go that the exception's frames held.
        if self.on_cuda:
            torch.cuda.empty_cache()
        self._shrink(len(part), part.shape[-1])
        return None

    def _compute_part(self, part: Tensor) -> Tensor:
        count = len(part)
        if self.padded and self.batch_size is not None and count < self.batch_size:
            part = torch.cat([part, part[-1:].expand(self.batch_size - count, -1, -1, -1)])
        images = part.to(self._compute.device, non_blocking=True)
        if not self.tile:
            return self._call(images).float()[:count]
        return run_tiles(self._call, images, self.tile)[:count]

    def _shrink(self, count: int, side: int) -> None:
        """Compute half as much at once from here on."""
        if count > 1:
            self.batch_size = count // 2
            text = f"using {self.batch_size} from now on (--batch-size)."
            self._listener(Warned(f"Memory ran out with batches of {count} images: {text}"))
            return
        tile = (self.tile or side) // 2 // MULTIPLE * MULTIPLE
        if not self._tiles or tile < SMALLEST_TILE:
            what = f"a tile of {self.tile}" if self.tile else f"a single image of {side}"
            raise CapacityError(
                f"The device {self._compute.device} has too little memory for {what} px.",
                "Stop other programs that use it, choose another --device, or train with a "
                "smaller data.image_size.",
            )
        self.batch_size, self.tile = 1, tile
        self._listener(
            Warned(
                f"There is too little memory for an image of {side} px: using tiles of {tile} px "
                "from now on (--tile), whose result differs slightly from that of a whole image."
            )
        )


def run(
    network: nn.Module,
    images: Iterable[Tensor],
    *,
    compute: Compute,
    call: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Return the outputs [N, ...] of a network, float32 on the CPU, for batches of images.

    The network runs in eval mode, whatever mode it is in, and is left as it was found. A thread
    prepares the next batches meanwhile, unless they are there already.

    Args:
        network: On ``compute.device``.
        images: Batches float32 [B, 1, S, S] in [-1, 1].
        compute: Device and precision.
        call: What to call in place of the network's forward (its features, say).

    Raises:
        CapacityError: Memory does not hold a single image.
    """
    engine = Engine(network, compute, call=call)
    was_training = network.training
    network.eval()
    try:
        with nullcontext(images) if isinstance(images, Sequence) else ahead(images) as batches:
            outputs = list(_one_behind(engine, batches))
    finally:
        network.train(was_training)
    return torch.cat(outputs)


def _one_behind(engine: Engine, batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield each batch's outputs once the next one is under way."""
    last: Pending | None = None
    for batch in batches:
        begun = engine.start(batch)
        if last is not None:
            yield last.wait()
        last = begun
    if last is not None:
        yield last.wait()


def starting_size(compute: Compute, image_size: int) -> int:
    """Return how many images of [image_size, image_size] are computed at once to begin with."""
    pixels = PIXELS.get(compute.device.type, PIXELS["cpu"])
    return max(1, min(MOST_IMAGES, pixels // image_size**2))


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
