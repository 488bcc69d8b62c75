"""The four networks between one source modality and the target (paper, section 3.1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn

from medxlate.base.plugins import Setting
from medxlate.config import DiscriminatorNorm, Skip, Upsample
from medxlate.method.discriminator import Discriminator
from medxlate.method.generator import GeneratorShape, build_generator


class TranslatorNetworks(nn.Module):
    """G, F, D_s and D_t of one source modality, with the paper's names.

    Attributes:
        g: Source to target.
        f: Target to source; None where training is one-sided.
        d_s: Judges source images; likewise.
        d_t: Judges target images.
    """

    def __init__(
        self,
        *,
        width: int,
        blocks: int,
        discriminator_width: int,
        discriminator_layers: int = 3,
        upsample: Upsample = "transposed",
        discriminator_norm: DiscriminatorNorm = "instance",
        skip: Skip = "none",
        one_sided: bool = False,
        recompute: bool = False,
        generator: str = "resnet",
        settings: Mapping[str, Setting] | None = None,
    ) -> None:
        super().__init__()
        shape = GeneratorShape(width, blocks, upsample, skip, recompute)

        def new_generator() -> nn.Module:
            return build_generator(generator, shape, settings)

        def discriminator() -> Discriminator:
            return Discriminator(
                width=discriminator_width, layers=discriminator_layers, norm=discriminator_norm
            )

        self.g = new_generator()
        self.f = None if one_sided else new_generator()
        self.d_s = None if one_sided else discriminator()
        self.d_t = discriminator()

    def generator_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters of G and F."""
        yield from self.g.parameters()
        if self.f is not None:
            yield from self.f.parameters()

    def discriminator_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters of D_s and D_t."""
        if self.d_s is not None:
            yield from self.d_s.parameters()
        yield from self.d_t.parameters()
