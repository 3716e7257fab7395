"""What a decomposition proves of itself.

*Residuals.* With sigma and v of a component, u = A v / sigma and C = A^T A,

    |A^T u - sigma v| = |C v - sigma^2 v| / sigma,

and A v = sigma u by definition. So there is a singular value of A within that residual of
sigma (Weyl). The sine of the angle between v and the true vector is at most the residual over
the distance from sigma to the other singular values: where these are close to each other, only
the subspace that they span is known.

*Completeness.* Residuals do not tell of a singular value that was missed. Let v be an
eigenvector of C with eigenvalue b x that is orthogonal to all components that were found, b
being the smallest eigenvalue found. A Gaussian probe G (m x p) was carried through the passes,
so that the basis Q holds C^t G for all t up to a degree. For any polynomial f of that degree,

    |f(b x)| |G^T v| = |v^T f(C) G| = |v^T Q f(T) Q^T G| <= |rest of f(T) Q^T G|,

where T = Q^T C Q and the rest has no part in the components. |G^T v|^2 is chi-squared with
p degrees of freedom: below its quantile of MISSED / m with that probability for each of the m
eigenvectors, and for any of them, as what is missed depends on the probe, with MISSED. The
largest x that this allows bounds what was missed. Polynomials tried are x^a times a Chebyshev
polynomial, at most 1 up to b and steep above.

References
----------
Saad (2011), doi:10.1137/1.9781611970739, chapter 3. Kuczynski and Wozniakowski (1992),
doi:10.1137/0613066, for the probability of single vectors.
"""

from __future__ import annotations

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray
from scipy.optimize import brentq

Float64 = NDArray[np.float64]

MISSED = 1e-6
"""Probability with which a larger singular value may have been missed."""

PROBES = 12
"""Columns of the probe."""

_FARTHEST = 1e6

_ROUNDING = 1e-14
"""Eigenvalues below this share of the first are rounding."""


def residuals_of(CV: Float64, V: Float64, values: Float64, rounding: float = 0.0) -> Float64:
    """|A^T u - sigma v| of each component, in the unit of the singular values.

    Parameters
    ----------
    CV
        C V, shape (m, k).
    V, values
        Vectors, shape (m, k), and their eigenvalues sigma^2, shape (k,).
    rounding
        How far C itself may be off.
    """
    sigma = np.sqrt(np.maximum(values, 0.0))
    norms = np.linalg.norm(CV - V * values, axis=0) + rounding
    # Where sigma vanishes, sigma <= sqrt(|C v|) bounds it.
    found: Float64 = np.minimum(
        np.divide(norms, sigma, out=np.full(len(sigma), np.inf), where=sigma > 0),
        np.sqrt(norms + sigma**2),
    )
    return found


def completeness_of(
    values: Float64, rest: Float64, n_found: int, degree: int, n_rows: int
) -> float:
    """How much larger than the smallest found a missed singular value may be.

    Parameters
    ----------
    values
        Eigenvalues of T, descending, shape (c,).
    rest
        The probe in the eigenvectors of T, shape (c, p).
    n_found
        Components that were found, the first ones.
    degree
        Largest t for which the basis holds C^t G.
    n_rows
        m.

    Returns
    -------
    float
        A factor of at least 1, of the smallest found or of what rounding is; infinite where
        nothing can be told.
    """
    from scipy.stats import chi2

    b = max(float(values[n_found - 1]), _ROUNDING * float(values[0]))
    if b <= 0:
        return 1.0  # a probe of a matrix that is not zero would not be
    least = float(np.sqrt(chi2.ppf(MISSED / n_rows, rest.shape[1])))
    others, left = np.clip(values[n_found:] / b, 0.0, 1.0), rest[n_found:]
    if degree < 1:
        return np.inf
    bounds = [_largest(others, left, least, a, degree - a) for a in range(degree + 1)]
    return float(np.sqrt(min(bounds)))


def _largest(others: Float64, left: Float64, least: float, power: int, steepness: int) -> float:
    """The largest x of a missed eigenvalue, relative to the smallest found."""
    of_one = [0.0] * steepness + [1.0]

    def f(x: Float64) -> Float64:
        value: Float64 = x**power * chebyshev.chebval(2 * x - 1, of_one)
        return value

    norm = float(np.linalg.norm(f(others)[:, None] * left, 2)) if len(others) else 0.0
    allowed = norm / least
    if allowed <= 1:
        return 1.0
    if f(np.array(_FARTHEST)) <= allowed:
        return np.inf
    return float(brentq(lambda x: float(f(np.array(x))) - allowed, 1.0, _FARTHEST))
