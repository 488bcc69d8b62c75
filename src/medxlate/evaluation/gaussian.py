"""Sets of features as Gaussians: mean and covariance in one pass, and the distance of two."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigvalsh
from scipy.linalg.blas import dsyr, dsyrk
from scipy.linalg.lapack import dpstrf

from medxlate.base.errors import DataError

Array = npt.NDArray[np.floating[Any]]
_BLOCK = 512  # rows that are turned into float64 at once


@dataclass(frozen=True)
class Gaussian:
    """A normal distribution.

    Attributes:
        mean: [D].
        factor: F [R, D] whose product F^T F is the covariance; R is its rank or a little more. The
            centred rows themselves where they were few, else Cholesky's factor with pivoting
            (LAPACK ``dpstrf``), which stops where what remains is rounding: features that are
            always zero do it no harm.
    """

    mean: Array
    factor: Array


class Moments:
    """Mean and covariance of rows that come batch by batch, in float64.

    As many rows as there are columns are kept as they came; only when more come are they folded
    into a scatter matrix [D, D]. So memory does not depend on the number of rows, and a set that
    is smaller than its features are wide, whose covariance has no full rank, keeps the rows that
    span it. Blocks are centred by their own mean and put together by the update of Chan, Golub and
    LeVeque (1983), which loses no digits where the mean is far from zero.

    Args:
        width: Columns (D).
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self._folded = 0  # rows in the scatter matrix
        self._center = np.zeros(width)  # their mean
        self._scatter: Array | None = None  # Fortran order; its upper triangle alone is kept
        self._rows: list[Array] = []
        self._waiting = 0  # rows in the list

    @property
    def count(self) -> int:
        """Rows so far."""
        return self._folded + self._waiting

    @property
    def mean(self) -> Array:
        """The mean [D] of the rows."""
        total: Array = self._center * self._folded
        for rows in self._rows:
            total = total + rows.sum(axis=0, dtype=np.float64)
        return total / self.count

    def add(self, rows: Array) -> None:
        """Take in rows [N, D], float32 or float64."""
        if rows.ndim != 2 or rows.shape[1] != self.width:
            raise ValueError(f"rows of {self.width} columns are needed, not {rows.shape}")
        while len(rows):
            if self._waiting == self.width:
                self._fold()
            taken = rows[: self.width - self._waiting]
            self._rows.append(np.array(taken))
            self._waiting += len(taken)
            rows = rows[len(taken) :]

    def merge(self, other: Moments) -> None:
        """Take in all that another has seen; it stays as it is."""
        if other._scatter is not None:
            self._fold()
            self._scatter = self._zeros() if self._scatter is None else self._scatter
            self._scatter += other._scatter
            self._shift(other._folded, other._center)
        for rows in other._rows:
            self.add(rows)

    def covariance(self) -> Array:
        """Return the unbiased covariance [D, D]."""
        upper = np.triu(self._upper())
        return upper + np.triu(upper, 1).T

    def gaussian(self) -> Gaussian:
        """Return the Gaussian with this mean and covariance."""
        return Gaussian(self.mean, self._factor())

    def _factor(self) -> Array:
        if self._scatter is None and self.count <= self.width:
            rows = np.concatenate(self._rows).astype(np.float64)
            rows -= self.mean
            rows /= np.sqrt(self._freedom())
            return rows
        root, pivots, rank, _ = dpstrf(self._upper(), lower=0, overwrite_a=1)
        order = np.argsort(pivots)
        for start in range(0, rank, _BLOCK):  # in place, for it is as large as the scatter matrix
            block = root[start : start + _BLOCK]
            block[:] = np.triu(block, start)[:, order]
        factor: Array = root[:rank]
        return factor

    def _upper(self) -> Array:
        """Return a matrix in Fortran order whose upper triangle is the covariance's."""
        self._fold()
        assert self._scatter is not None
        return self._scatter / self._freedom()

    def _freedom(self) -> int:
        if self.count < 2:
            raise DataError(f"{self.count} images are too few for a covariance; 2 are needed.")
        return self.count - 1

    def _fold(self) -> None:
        """Bring the waiting rows into the scatter matrix."""
        for rows in _blocks(self._rows):
            scatter = self._zeros() if self._scatter is None else self._scatter
            center = rows.mean(axis=0)
            rows -= center
            # In place: a second matrix would cost a pass over memory for each block.
            self._scatter = dsyrk(1.0, rows.T, beta=1.0, c=scatter, overwrite_c=1)
            self._shift(len(rows), center)
        self._waiting = 0

    def _shift(self, count: int, center: Array) -> None:
        """Account for the distance of the means when rows with another mean came in."""
        total = self._folded + count
        apart = center - self._center
        weight = self._folded * count / total
        self._scatter = dsyr(weight, apart, a=self._scatter, overwrite_a=1)
        self._center = self._center + apart * (count / total)
        self._folded = total

    def _zeros(self) -> Array:
        return np.zeros((self.width, self.width), order="F")


def frechet_distance(one: Gaussian, other: Gaussian) -> float:
    """Return the squared Fréchet distance of two Gaussians (Dowson and Landau 1982).

    |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2). With S1 = F1^T F1, S2 = F2^T F2 and
    P = F1 F2^T, the eigenvalues of S1 S2 other than zero are those of P P^T, which is symmetric and
    as small as the smaller set's rank; the trace of the root is the sum of their roots. Rounding
    may bring the result a little below zero.

    Raises:
        DataError: There are values that are not finite.
    """
    difference = one.mean - other.mean
    small, large = sorted((one.factor, other.factor), key=len)
    gram = np.zeros((len(small), len(small)), order="F")  # P P^T; its upper triangle alone
    for start in range(0, len(large), _BLOCK):
        part = small @ large[start : start + _BLOCK].T  # columns of P; it never is whole
        gram = dsyrk(1.0, part, beta=1.0, c=gram, overwrite_c=1)
    if not np.isfinite(gram).all() or not np.isfinite(difference).all():
        raise DataError("The features hold values that are not finite numbers.")
    eigenvalues = eigvalsh(gram, lower=False, overwrite_a=True, check_finite=False)
    root_trace = np.sqrt(eigenvalues.clip(0)).sum()  # below zero by rounding alone
    traces = np.linalg.norm(small) ** 2 + np.linalg.norm(large) ** 2
    return float(difference @ difference + traces - 2 * root_trace)


def _blocks(rows: list[Array]) -> Iterator[Array]:
    """Yield what came in small batches in blocks, and empty the list on the way."""
    block: list[Array] = []
    while rows:
        block.append(rows.pop())
        if not rows or sum(map(len, block)) + len(rows[-1]) > _BLOCK:
            joined = np.concatenate(block).astype(np.float64)
            block = []
            yield from (joined[i : i + _BLOCK] for i in range(0, len(joined), _BLOCK))
