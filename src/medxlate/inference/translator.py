"""A trained generator, loaded with everything needed to use it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from medxlate.artifacts.folder import load_generator
from medxlate.artifacts.hub import origin_of
from medxlate.artifacts.info import ModelInfo, check_plugins, read_model
from medxlate.artifacts.runs import find_model
from medxlate.base.device import Compute
from medxlate.base.events import Listener, silent
from medxlate.config import Compiling
from medxlate.images.pseudonym import Phi
from medxlate.images.stack import FloatArray
from medxlate.inference.engine import Engine, starting_size, validated_compute
from medxlate.inference.finite import check_finite
from medxlate.inference.in_memory import Spacing, Volume, restored, translate_volume
from medxlate.inference.inputs import Input, Reader, SliceBatch
from medxlate.inference.outputs import Made
from medxlate.method.compiling import compile_where_it_pays
from medxlate.method.placing import place


class Translator:
    """A trained generator with everything needed to use it.

    Args:
        model: A model folder, a run folder, ``runs/latest``, or ``hf://OWNER/NAME@REVISION``.
        source: The source modality; needed where the model has several.
        compute: Device and precision; None: chosen automatically.
        batch_size: How many slices are computed at once to begin with; None: by the device.
        tile: Compute in tiles of this side, pixels, a multiple of 4; 0: only where the whole does
            not fit into memory.
        listener: Receives a warning where memory does not suffice.

    Raises:
        ModelError: The model is missing, damaged or cannot translate.
    """

    def __init__(
        self,
        model: Path,
        *,
        source: str | None = None,
        compute: Compute | None = None,
        batch_size: int | None = None,
        tile: int = 0,
        listener: Listener = silent,
    ) -> None:
        folder = find_model(model, "a translator", listener)
        self.info: ModelInfo = read_model(folder)
        self.origin = origin_of(folder)
        check_plugins(folder, self.info, ("generators", "recipes"), listener)
        self.compute = compute or validated_compute(self.info, listener=listener)
        self.source, network = load_generator(folder, self.info, source)
        self.network = place(network, self.compute)
        self.reader = Reader(
            self.info.translators[self.source].recipe,
            self.info.prepared_size,
            self.info.image_size,
        )
        self.greys = self.info.translators[self.source].greys
        self.batch_size = batch_size or starting_size(self.compute, self.info.image_size)
        self.engine = Engine(
            self.network,
            self.compute,
            batch_size=self.batch_size,
            tile=tile,
            tiles=True,
            listener=listener,
        )

    @classmethod
    def load(cls, model: Path | str, *, source: str | None = None) -> Translator:
        """Load a translator; device and precision are chosen automatically.

        Args:
            model: A model folder, a run folder, ``runs/latest``, or ``hf://OWNER/NAME@REVISION``.
            source: The source modality; needed where the model has several.

        Raises:
            ModelError: The model is missing, damaged, cannot translate, or has several sources or
                not this one.
        """
        return cls(Path(model), source=source)

    def __call__(self, volume: Volume, *, spacing: Spacing = (1.0, 1.0, 1.0)) -> FloatArray:
        """Translate a volume, as ``translate`` does with a file.

        Args:
            volume: [slices, H, W] in the source's physical values (HU, SUVbw...), oriented as the
                recipe's plane is shown (axial: from the feet up, front on top, the patient's right
                on the left); or [H, W], a single image. A recipe with percentiles (MR) takes them
                over the whole array.
            spacing: mm between slices, rows and columns, which decides the aspect ratio.

        Returns:
            float32 of the same shape, in the target's physical values. Near-empty slices become
            the target's black.

        Raises:
            ImageError: The array cannot be used with the source's recipe.
            ModelError: The output of the network is not finite.
            UsageError: It is not a volume.
        """
        return translate_volume(
            volume,
            self.reader,
            self.engine,
            self.info.target_recipe,
            batch_size=self.batch_size,
            spacing=spacing,
        )

    def translate(self, batch: list[Input]) -> list[FloatArray]:
        """Translate slices that were read already.

        Near-empty slices, which no network was trained on, become the target's black.

        Args:
            batch: Slices, as ``reader`` reads them.

        Returns:
            Target images, float32 [H, W] in [-1, 1], each of its input's original size in pixels.

        Raises:
            CapacityError: Memory does not even hold a tile.
            ModelError: The output of the network is not finite.
        """
        prepared = SliceBatch.of(batch, {})
        images = prepared.images
        pending = None if images is None else self.engine.start(images)
        if pending is not None:
            check_finite(pending.wait().numpy(), "translator", "slices")
        return list(restored(prepared, pending))

    def facts(self) -> dict[str, Any]:
        """Return what a translation depends on beside its inputs, as JSON can hold it."""
        device = f"{self.compute.device.type} {self.compute.precision}"
        model = self.info.model_dump(mode="json")
        return {"model": model, "from": self.source, "device": device, "batch": self.batch_size}

    def made(self, phi: Phi, key: bytes, run: str, when: datetime) -> Made:
        """Return how images are made by this; see ``Made``.

        Args:
            phi: What of a patient's attributes is kept: keep, pseudonymise or remove.
            key: The secret of the pseudonyms.
            run: What tells this translation from others.
            when: When it was begun.
        """
        translator = self.info.translators[self.source]
        return Made(
            source=self.source,
            target=self.info.target,
            recipe=self.info.target_recipe,
            generator=translator.weights.sha256,
            model=self.origin,
            phi=phi,
            key=key,
            run=run,
            when=when,
        )

    def compile_where_it_pays(self, choice: Compiling, slices: int, listener: Listener) -> bool:
        """Compile the generator for batches of the engine's size, or not, and report why.

        Args:
            choice: auto (on a GPU, for many slices), on or off.
            slices: How many will be translated.
            listener: Receives the decision.

        Returns:
            Whether it is compiled.
        """
        engine, side = self.engine, self.info.image_size
        assert engine.batch_size is not None
        images = torch.zeros(engine.batch_size, 1, side, side)
        engine.padded = compile_where_it_pays(
            self.network,
            lambda: engine(images),
            choice=choice,
            device=self.compute.device.type,
            repeats=slices // len(images),
            listener=listener,
        )
        return engine.padded
