"""The four networks between one source modality and the target (paper, section 3.1)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from medxlate.models.discriminator import Discriminator
from medxlate.models.generator import Generator, Skip, Upsample


class TranslatorNetworks(nn.Module):
    """G, F, D_s and D_t of one source modality, with the paper's names.

    Attributes:
        g: Source to target.
        f: Target to source.
        d_s: Judges source images.
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
        skip: Skip = "none",
        recompute: bool = False,
    ) -> None:
        super().__init__()

        def generator() -> Generator:
            return Generator(
                width=width, blocks=blocks, upsample=upsample, skip=skip, recompute=recompute
            )

        def discriminator() -> Discriminator:
            return Discriminator(width=discriminator_width, layers=discriminator_layers)

        self.g, self.f = generator(), generator()
        self.d_s, self.d_t = discriminator(), discriminator()

    def generator_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters of G and F."""
        yield from self.g.parameters()
        yield from self.f.parameters()

    def discriminator_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters of D_s and D_t."""
        yield from self.d_s.parameters()
        yield from self.d_t.parameters()
