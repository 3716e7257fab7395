"""The matrix C = A^T A as what multiplies blocks, each product a pass over the cells."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tigon.kernels.sketches import GeneProducts
from tigon.scaling.pca.moments import Moments

Float64 = NDArray[np.float64]


class Products(Protocol):
    """What sums products of a matrix of cells by genes, Y, that is as long as the cells."""

    n_passes: int
    bytes_read: int

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and genes."""
        ...

    def moments(self) -> GeneProducts:
        """Sums of the genes and of their squares; the product is of no matter."""
        ...

    def sketch(self, Q: Float64, **figures: float) -> GeneProducts:
        """Y^T (Y Q), shape (m, l), and moments; ``figures`` are told."""
        ...

    def gram(self) -> GeneProducts:
        """Y^T Y, shape (m, m), and moments."""
        ...

    def sampled(self, rng: np.random.Generator) -> Products:
        """The same of some of the cells."""
        ...


class Operator:
    """C = A^T A of centred and scaled cells.

    Parameters
    ----------
    passes
        The cells.
    center, scale
        Whether means are subtracted, and deviations divided by.

    Notes
    -----
    Means come with the first product. Deviations are needed before it: a pass of its own.
    """

    def __init__(self, passes: Products, *, center: bool, scale: bool) -> None:
        self.passes, self._center, self._scale = passes, center, scale
        self._moments: Moments | None = None
        self._figures: dict[str, float] = {}

    @property
    def moments(self) -> Moments:
        """Of the genes; reads the cells if nothing did so far."""
        if self._moments is None:
            found = self.passes.moments()
            self._moments = Moments.of(found, center=self._center, scale=self._scale)
        return self._moments

    def tell(self, residual: float) -> None:
        """What the next pass shows: the largest residual after the last one."""
        self._figures = {"largest residual": residual}

    def product(self, Q: Float64) -> Float64:
        """C Q, float64, shape (m, l)."""
        onto = self.moments.onto_genes(Q) if self._scale else Q
        found = self.passes.sketch(onto, **self._figures)
        if self._moments is None:
            self._moments = Moments.of(found, center=self._center, scale=False)
        return self._moments.finish(found.product, onto)

    def gram(self) -> Float64:
        """C itself, float64, shape (m, m), exactly symmetric."""
        found = self.passes.gram()
        self._moments = Moments.of(found, center=self._center, scale=self._scale)
        return self._moments.gram(found.product)
