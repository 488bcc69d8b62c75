"""What the inference.json of an exported MONAI bundle calls; its names are part of old bundles.

MONAI itself is not imported: a bundle's configuration gives the objects that are called here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medxlate.artifacts.info import read_model
from medxlate.base.errors import ImageError, UsageError
from medxlate.images.stack import FloatArray
from medxlate.images.volumes import write_volume
from medxlate.inference.affine import geometry_of, translate_grid
from medxlate.inference.engine import Engine, starting_size, validated_compute
from medxlate.inference.in_memory import Spacing, Volume, translate_volume
from medxlate.inference.inputs import Reader
from medxlate.inference.outputs import mark
from medxlate.inference.transform import MARK
from medxlate.inference.translator import Translator

SUFFIXES = (".nii", ".nii.gz")


def images(folder: Path | str) -> list[dict[str, str]]:
    """Return MONAI's list of the NIfTI files below a folder, sorted by path.

    Args:
        folder: Searched recursively.

    Returns:
        A dictionary ``{"image": path}`` each.

    Raises:
        ImageError: There are none.
    """
    found = sorted(each for each in Path(folder).rglob("*") if each.name.endswith(SUFFIXES))
    if not found:
        raise ImageError(
            f"{folder} holds no NIfTI files.",
            "Name the images with --dataset_dir; for other formats give a --datalist of your own.",
        )
    return [{"image": str(path)} for path in found]


def network(folder: Path | str, device: torch.device | str = "cpu") -> nn.Module:
    """Return the generator of a bundle's models folder, its weights read from safetensors.

    Args:
        folder: The folder ``models`` of the bundle.
        device: Where it computes.

    Returns:
        From float32 [B, 1, S, S] in [-1, 1] to the same; in eval mode.

    Raises:
        ModelError: A file is missing or damaged.
    """
    folder = Path(folder)
    compute = validated_compute(read_model(folder), str(device))
    return Translator(folder, compute=compute).network


class Inferer:
    """Translates whole images with a network that sees slices, as an inferer of MONAI.

    Args:
        folder: The folder ``models`` of the bundle.
        device: Where the network computes.

    Raises:
        ModelError: model.json is missing or damaged.
    """

    def __init__(self, folder: Path | str, device: torch.device | str = "cpu") -> None:
        self._info = read_model(Path(folder))
        ((self._source, translator),) = self._info.translators.items()
        self._reader = Reader(translator.recipe, self._info.prepared_size, self._info.image_size)
        self._compute = validated_compute(self._info, str(device))

    def __call__(self, inputs: Any, network: nn.Module, *_: Any, **__: Any) -> Any:
        """Translate a batch of images.

        Args:
            inputs: A batched MetaTensor [B, 1, X, Y, Z] in the source's units.
            network: The generator.

        Returns:
            The same of float32 in the target's units; whole HU, as files have them.

        Raises:
            ImageError: Values or geometry cannot be used with the source's recipe.
        """
        size = starting_size(self._compute, self._info.image_size)
        engine = Engine(network, self._compute, batch_size=size, tiles=True)
        target = self._info.target_recipe

        def translate(slices: Volume, spacing: Spacing) -> FloatArray:
            values = translate_volume(
                slices, self._reader, engine, target, batch_size=size, spacing=spacing
            )
            return np.rint(values) if target.unit == "HU" else values

        affines = torch.as_tensor(inputs.affine).cpu().numpy()
        found = [
            translate_grid(_values(image), affine, self._reader.recipe.plane, translate)
            for image, affine in zip(inputs.as_tensor(), affines, strict=True)
        ]
        result = torch.from_numpy(np.stack(found)).unsqueeze(1).to(inputs.device)
        outputs = inputs.clone().to(torch.float32)
        outputs.as_tensor().copy_(result)
        outputs.meta[MARK] = [mark(self._source, self._info.target)] * len(found)
        return outputs


class Writer:
    """Writes translated volumes as NIfTI that says that it is synthetic, as a writer of MONAI.

    ``SaveImaged`` makes one for each image and calls the three methods in turn.

    Args:
        output_dtype: numpy.int16 (HU) or numpy.float32.
    """

    def __init__(self, output_dtype: Any = np.float32, **_: Any) -> None:
        self._dtype = output_dtype

    def set_data_array(self, data_array: Any, **_: Any) -> None:
        """Take the image, [1, X, Y, Z]."""
        self._values = torch.as_tensor(data_array).cpu().numpy()[0]

    def set_metadata(self, meta_dict: Mapping[str, Any], resample: bool = False, **_: Any) -> None:
        """Take what is known of it.

        Raises:
            UsageError: It is to be resampled.
        """
        if resample:
            raise UsageError("Translated images are not resampled.", "Set resample to false.")
        self._meta = meta_dict

    def write(self, filename: str, **_: Any) -> None:
        """Write the file.

        Raises:
            OutputError: It cannot be written.
            UsageError: The image is not one that ``Inferer`` made.
        """
        if MARK not in self._meta:
            raise UsageError("The image does not say from what it was translated.")
        affine = torch.as_tensor(self._meta["affine"]).cpu().numpy()
        codes = [int(self._meta.get(each, 0)) for each in ("sform_code", "qform_code")]
        write_volume(
            Path(filename),
            np.ascontiguousarray(self._values.transpose(2, 1, 0), dtype=self._dtype),
            geometry_of(self._values.shape, affine),
            facts={"description": str(self._meta[MARK])},
            xform=next(filter(None, codes), 1),
        )


def _values(image: Tensor) -> Volume:
    if image.shape[0] != 1:
        raise ImageError(f"An image has {image.shape[0]} channels, not one.")
    return image[0].cpu().numpy()
