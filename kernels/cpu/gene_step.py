"""All that a step does with a range of genes, in one call (Numba).

Between the calls of kernels the GIL would be taken, and threads would wait for each other:
half of a step's time, where each of its kernels is called by itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from tigon.kernels.cpu.folding import fold
from tigon.kernels.cpu.genes import add_product, hals, update_specific
from tigon.kernels.cpu.sweep import BLOCK, lay_out_each

Float64 = NDArray[np.float64]


def addresses_of(arrays: list[Float64]) -> NDArray[np.int64]:
    """Where contiguous float64 arrays lie, for kernels that take as many as there are.

    They have to be held for as long as the addresses are used.
    """
    for array in arrays:
        if array.dtype != np.float64 or not (array.flags.c_contiguous and array.flags.aligned):
            raise ValueError(f"an array of {array.dtype}, shape {array.shape}, is not contiguous")
    return np.array([array.__array_interface__["data"][0] for array in arrays], np.int64)


@intrinsic
def _float64_at(_typing: Any, address: Any) -> Any:
    """Pointer to float64 at an address."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(sig.return_type))

    return types.CPointer(types.float64)(types.int64), generate


@njit(cache=True, nogil=True)
def take_in_grams(A, A_previous, S, in_pattern, datasets, deltas, fades, remaining):  # type: ignore[no-untyped-def]
    """Replace what datasets contributed to A and S, in place.

    Parameters
    ----------
    A, A_previous, S
        float64, shapes (d, k, k), (d, k, k) and (p, k, k); A and S are written.
    in_pattern
        Which datasets inform the genes of a pattern, bool, shape (p, d).
    datasets
        Which, int64, shape (c,).
    deltas
        Addresses of H^T H of each, float64, shape (k, k), see :func:`addresses_of`.
    fades, remaining
        Change of the weight of the previous sums of each, and the weight, float64, shape (c,).

    Returns
    -------
    changes
        By how much A of each grew, as blocks of :class:`tigon.kernels.cpu.sweep.SolverGrams`.
    own, shared
        A of each with the previous sums, and S, as arrays of the same.
    """
    k = A.shape[1]
    # Loops, as whole arrays in expressions take seconds to compile.
    changes, own = np.empty((len(datasets), k, k)), np.empty((len(datasets), k, k))
    for c in range(len(datasets)):
        i, delta = datasets[c], carray(_float64_at(deltas[c]), (k, k))
        for a in range(k):
            for b in range(k):
                A[i, a, b] += delta[a, b]
                changes[c, a, b] = delta[a, b] + fades[c] * A_previous[i, a, b]
                own[c, a, b] = A[i, a, b] + remaining[c] * A_previous[i, a, b]
                for p in range(len(S)):
                    if in_pattern[p, i]:
                        S[p, a, b] += changes[c, a, b]
    return lay_out_each(changes)[0], lay_out_each(own), lay_out_each(S)


@njit(cache=True, nogil=True, inline="always")
def take_in(arrays, news, start, stop):  # type: ignore[no-untyped-def]
    """Replace what datasets contributed to B and T, for the genes of a range, in place.

    Parameters
    ----------
    arrays
        W and V, float32, shapes (k, m) and (d, k, m); B and B_previous, float64, (d, k, m);
        T, float64, (k, m). B and T are written.
    news
        Which datasets, int64, shape (c,). Of each of these: the address of X^T H, float64,
        shape (m, k), see :func:`addresses_of`; the change of the weight of its previous sums,
        float64; and by how much A grew, blocks of :class:`tigon.kernels.cpu.sweep.SolverGrams`.
    start, stop
        The range of genes.
    """
    _, V, B, B_previous, T = arrays
    datasets, deltas, fades, changes = news
    k, m = T.shape
    for c in range(len(datasets)):
        i = datasets[c]
        delta = carray(_float64_at(deltas[c]), (m, k))
        fold(B[i], B_previous[i], T, delta, fades[c], start, stop)
        add_product(T, changes[c], V[i], -1.0, start, stop)


@njit(cache=True, nogil=True, inline="always")
def update_shared(W, T, grams, patterns, start, stop):  # type: ignore[no-untyped-def]
    """A sweep of HALS over W for the genes of a range, in place.

    Parameters
    ----------
    W, T
        float32 and float64, shape (k, m); W is written.
    grams
        S of each pattern: arrays of :class:`tigon.kernels.cpu.sweep.SolverGrams`. Where one
        has no cell, W stays as it is.
    patterns
        Pattern of each gene, int64, shape (m,).
    start, stop
        The range of genes.
    """
    blocks, step, reach = grams
    k, several = len(W), len(step) > 1
    factor, target, first, last = W, T, start, stop
    chosen = np.empty(stop - start, np.int64)
    if several:
        factor, target = np.empty((k, len(chosen)), W.dtype), np.empty((k, len(chosen)))
    for p in range(len(step)):
        if several:
            informed = False
            for j in range(k):
                informed = informed or step[p, j] != 0
            if not informed:
                continue
            first, last = np.int64(0), np.int64(0)
            for g in range(start, stop):
                if patterns[g] == p:
                    chosen[last] = g
                    last += 1
            for j in range(k):
                for i in range(last):
                    factor[j, i], target[j, i] = W[j, chosen[i]], T[j, chosen[i]]
        hals(factor, target, blocks[p], step[p], reach[p], np.int64(1), first, last)
        if several:
            for j in range(k):
                for i in range(last):
                    W[j, chosen[i]] = factor[j, i]


@njit(cache=True, nogil=True, inline="always")
def update_own(arrays, own, start, stop):  # type: ignore[no-untyped-def]
    """A sweep of HALS over V of some datasets for the genes of a range, and T, in place.

    Parameters
    ----------
    arrays
        As for :func:`take_in`; V and T are written.
    own
        Which datasets, int64, shape (c,); of each of these, the weight of its previous sums and
        lambda, float64, shape (c,), and A, arrays of
        :class:`tigon.kernels.cpu.sweep.SolverGrams`; genes that all measure, bool, shape (d, m).
    start, stop
        The range of genes.
    """
    W, V, B, B_previous, T = arrays
    datasets, remaining, lam, grams, measured = own
    blocks, step, reach = grams
    for c in range(len(datasets)):
        i = datasets[c]
        sums, weights = (B[i], B_previous[i], T), (remaining[c], lam[c])
        gram = (blocks[c], step[c], reach[c])
        update_specific(V[i], W, *sums, *weights, measured[i], *gram, start, stop)


@njit(cache=True, nogil=True)
def step_range(arrays, news, shared, own, n_sweeps, start, stop):  # type: ignore[no-untyped-def]
    """:func:`take_in`, then :func:`update_shared` and :func:`update_own` in turn.

    Parameters
    ----------
    arrays, news, own, start, stop
        As for these; ``news`` may be of no dataset.
    shared
        S of each pattern and the patterns of the genes, as for :func:`update_shared`.
    n_sweeps
        How often W and V are updated.
    """
    W, _, _, _, T = arrays
    grams, patterns = shared
    take_in(arrays, news, start, stop)
    for _ in range(n_sweeps):
        update_shared(W, T, grams, patterns, start, stop)
        update_own(arrays, own, start, stop)


def no_news(k: int) -> tuple[NDArray[Any], ...]:
    """For steps that take nothing in."""
    k4 = -(-k // BLOCK) * BLOCK
    nothing = np.zeros(0, np.int64)
    return nothing, nothing, np.zeros(0), np.zeros((0, k4 * k4), np.float32)
