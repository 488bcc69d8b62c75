"""A trained translator as a dictionary transform of MONAI and TorchIO.

Neither library is imported: their objects are known by what they offer.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medxlate.artifacts.info import read_model
from medxlate.artifacts.runs import find_model
from medxlate.base.errors import MedxlateError, UsageError, nearest
from medxlate.images.stack import FloatArray
from medxlate.inference.affine import translate_grid
from medxlate.inference.engine import validated_compute
from medxlate.inference.in_memory import Spacing
from medxlate.inference.outputs import mark
from medxlate.inference.translator import Translator

MARK = "medxlate"  # the entry of an image's metadata that says that it is synthetic
_LOADING = threading.Lock()  # MONAI's caching data sets call a transform from several threads


class Translated:
    """Translate images of a MONAI dictionary or a TorchIO subject, as ``translate`` does files.

    An image is a ``MetaTensor``, a ``torchio.ScalarImage``, or a plain tensor or array of one
    channel. Orientation and spacing come from its affine; values go in in the source's units and
    come out as float32 in the target's (CT: HU), on the same grid, device and affine. What the
    dictionary held stays unchanged. The metadata of a translated image says that it is synthetic.

    The model is loaded on first use, and once in each worker of a ``DataLoader``; pickling the
    transform copies no weights. A GPU is not available in a worker that was forked: use
    ``device="cpu"`` there, or no workers.

    Args:
        keys: The entries to translate.
        model: A model folder, a run folder, ``runs/latest``, or ``hf://OWNER/NAME@REVISION``.
        source: The source modality; needed where the model has several.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto (bf16 where the hardware has it and the model was validated in it), fp32 or
            bf16.
        batch_size: Slices computed at once; None: by the device.
        allow_missing_keys: Whether entries that are missing are passed over.
    """

    def __init__(
        self,
        keys: str | Sequence[str],
        model: Path | str = "runs/latest",
        *,
        source: str | None = None,
        device: str = "auto",
        precision: str = "auto",
        batch_size: int | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        self.keys = (keys,) if isinstance(keys, str) else tuple(keys)
        self.model = model
        self.source = source
        self.device = device
        self.precision = precision
        self.batch_size = batch_size
        self.allow_missing_keys = allow_missing_keys
        self._translator: Translator | None = None

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return a copy with the entries translated.

        Args:
            data: A dictionary as MONAI's transforms take it, or a TorchIO subject.

        Returns:
            A dictionary, or a subject.

        Raises:
            UsageError: An entry is missing, or is not an image of one channel with an affine.
            ImageError: Its values or its geometry cannot be used with the source's recipe.
            ModelError: The model cannot be used.
        """
        is_subject = hasattr(data, "get_images_dict")
        result: Any = copy.deepcopy(data) if is_subject else dict(data)
        for key in self.keys:
            if key in data:
                result[key] = self._entry(key, result[key])
            elif not self.allow_missing_keys:
                known = [str(name) for name in data]
                raise UsageError(f"There is no entry '{key}'.", nearest(key, known))
        if is_subject:
            result.update_attributes()
        return result  # type: ignore[no-any-return]

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled: how to load the model, and not its weights."""
        return {**self.__dict__, "_translator": None}

    def _entry(self, key: str, image: Any) -> Any:
        try:
            if hasattr(image, "set_data"):
                return self._torchio(image)
            if isinstance(image, Tensor) and hasattr(image, "meta"):
                return self._meta_tensor(image)
            return self._plain(image)
        except MedxlateError as problem:
            raise type(problem)(f"The entry '{key}': {problem.message}", problem.hint) from None

    def _torchio(self, image: Any) -> Any:
        if image.type != "intensity":
            raise UsageError(f"it is a map of the type '{image.type}', not an image.")
        image.set_data(self._translate(image.data, image.affine))
        image[MARK] = self._mark()
        return image

    def _meta_tensor(self, image: Any) -> Any:
        if image.pending_operations:
            raise UsageError(
                "operations on it are pending.",
                "Apply them first: `ApplyPendingd`, or no `lazy=True` in what comes before.",
            )
        lps = str(image.meta.get("space", "RAS")) == "LPS"
        affine = torch.as_tensor(image.affine).cpu().numpy()
        return type(image)(
            self._translate(image.as_tensor(), affine, lps=lps),
            meta={**copy.deepcopy(image.meta), MARK: self._mark()},
            applied_operations=copy.deepcopy(image.applied_operations),
        )

    def _plain(self, image: Any) -> Any:
        if not isinstance(image, (Tensor, np.ndarray)):
            raise UsageError(f"a {type(image).__name__} is not an image.", "Load it first.")
        if image.ndim != 3:
            raise UsageError(
                f"a {type(image).__name__} of the shape {tuple(image.shape)} does not say how it "
                "lies in the patient.",
                "Give a MetaTensor or a torchio.ScalarImage, which have an affine, or a single "
                "image [1, H, W].",
            )
        rows = torch.as_tensor(image).transpose(1, 2)  # an image [X, Y] is a transposed one
        translated = self._translate(rows, np.eye(4)).transpose(1, 2).contiguous()
        return translated.numpy() if isinstance(image, np.ndarray) else translated

    def _translate(self, image: Tensor, affine: Any, *, lps: bool = False) -> Tensor:
        """Translate [1, X, Y(, Z)] to float32 of the same shape, on the same device."""
        if not len(image.shape) > 1 or image.shape[0] != 1:
            raise UsageError(
                f"it has the shape {tuple(image.shape)}, not one channel.",
                "Choose a channel first; volumes are [1, X, Y, Z], images [1, X, Y].",
            )
        translator = self._loaded()
        values = image[0].detach().cpu()
        values = values.float() if values.is_floating_point() else values

        def translate(slices: Any, spacing: Spacing) -> FloatArray:
            return translator(slices, spacing=spacing)

        found = translate_grid(
            values.numpy(), affine, translator.reader.recipe.plane, translate, lps=lps
        )
        return torch.from_numpy(np.ascontiguousarray(found)).unsqueeze(0).to(image.device)

    def _loaded(self) -> Translator:
        with _LOADING:
            if self._translator is None:
                folder = find_model(Path(self.model), "a translator")
                compute = validated_compute(read_model(folder), self.device, self.precision)
                self._translator = Translator(
                    folder, source=self.source, compute=compute, batch_size=self.batch_size
                )
            return self._translator

    def _mark(self) -> str:
        return mark(self._loaded().source, self._loaded().info.target)
