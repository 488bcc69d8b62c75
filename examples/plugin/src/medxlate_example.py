"""A method, a loss, a generator and a recipe for medxlate, to start from."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from medxlate import extend


def inverted(source: str, data: extend.Data, config: extend.Config) -> extend.Slices:
    """Return the source's images with dark and bright exchanged: bone is dark in MRI, not in CT."""
    slices = data.train[source]
    return slices.with_images(lambda i: -slices.batch([i]).images[0, 0].numpy())


inverted_mix = extend.Method(
    extend.supervised("all"), uses_sources=True, scale_from="all", mixes=True, stand_in=inverted
)


def edges(images: extend.StepImages, *, power: float = 2.0) -> Tensor:
    """Return how far edges of a translation are from its source's (Nie et al. 2017, eq. 5)."""
    of_fake = [images.fake_t.diff(dim=dim).abs() for dim in (2, 3)]
    of_real = [images.y.diff(dim=dim).abs() for dim in (2, 3)]
    far = [(a - b).abs().pow(power).mean() for a, b in zip(of_fake, of_real, strict=True)]
    return torch.stack(far).sum()


gradient_difference = extend.Loss(edges, capturable=True)


class Residual(nn.Module):
    """A generator without halvings, which begins near its input."""

    def __init__(self, shape: extend.GeneratorShape, *, kernel: int = 5) -> None:
        super().__init__()
        widths = [1, *[shape.width] * (shape.blocks + 1)]
        layers = [nn.Conv2d(a, b, kernel, padding="same") for a, b in pairwise(widths)]
        self.layers = nn.Sequential(*(each for layer in layers for each in (layer, nn.ReLU())))
        self.last = nn.Conv2d(shape.width, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return images of the same shape, in [-1, 1]."""
        return torch.tanh(self.last(self.layers(images)) + 2 * images)


def around_mean(scan: extend.Stack, *, deviations: float = 2.0) -> tuple[float, float]:
    """Return so many standard deviations around the mean of what is brighter than the average."""
    values = extend.sample(scan)
    shown = values[values > values.mean()]
    if not shown.size:
        raise extend.ImageError("all of its voxels have one value")
    middle, width = float(shown.mean()), deviations * float(shown.std())
    return middle - width, middle + width


z_score = extend.IntensityRecipe(around_mean)
