"""A peer factorises scaled counts: factorise.py NAME FOLDER K LAMBDA N_THREADS LIMIT_S [SEED].

Runs in the peers' environment; benchmarks/bench_scaling_peers.py says which that is. In
FOLDER a file ``<dataset>.npz`` for every dataset has its cells (CSR, float32, cells x genes).
Prints one JSON line: the seconds of the factorisation alone, and the peak memory of this
process with what it factorises. Saves in ``<name>-metagenes.npz`` the metagenes W (k x m)
and V (d x k x m), as float64. After the limit of seconds, if it is not 0, the process ends
with the memory that it had taken by then.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from threading import Timer
from typing import Any, Protocol

import numpy as np

MEMORY = Path(__file__).parents[2] / "scaling" / "memory.py"
"""Read as a file: Tigon is not installed where this runs."""

Metagenes = tuple[Any, list[Any]]
"""W (k x m), and V (k x m) of each dataset."""


class Factorise(Protocol):
    """Takes what the peer holds, k, lambda and threads, and perhaps a seed."""

    def __call__(self, data: Any, k: int, lam: float, n_threads: int, **seed: int) -> Metagenes:
        """Metagenes, after the peer's own number of passes."""


@dataclass(frozen=True)
class Peer:
    """Who factorises.

    Attributes
    ----------
    package
        The name under which its version is known.
    hold
        Brings the CSR matrices of the datasets into the form that it takes; not timed.
    factorise
        What is timed: metagenes and the loadings of every cell.
    """

    package: str
    hold: Callable[[list[Any]], Any]
    factorise: Factorise


def hold_dense(matrices: list[Any]) -> list[Any]:
    """Dense, the sparse ones given up one by one."""
    import nmf  # noqa: F401 - torch takes seconds to import

    return [matrices.pop(0).toarray() for _ in range(len(matrices))]


def nmf_torch(data: list[Any], k: int, lam: float, n_threads: int, seed: int = 0) -> Metagenes:
    """The online mode of nmf-torch, its default, at most 20 passes."""
    import nmf

    _, W, V, _ = nmf.integrative_nmf(
        data, n_components=k, lam=lam, mode="online", random_state=seed, n_jobs=n_threads
    )
    return by_factor(W, V, k)


def nmf_torch_batch(
    data: list[Any], k: int, lam: float, n_threads: int, seed: int = 0
) -> Metagenes:
    """The batch mode of nmf-torch until ten iterations lower the root of F by a millionth."""
    import nmf

    how = {"mode": "batch", "tol": 1e-6, "batch_max_iter": 2000, "random_state": seed}
    _, W, V, _ = nmf.integrative_nmf(data, n_components=k, lam=lam, n_jobs=n_threads, **how)
    return by_factor(W, V, k)


def by_factor(W: Any, V: list[Any], k: int) -> Metagenes:
    """Metagenes of nmf-torch, a row a factor."""
    # It returns genes x k or k x genes, depending on its algorithm.
    turn = np.shape(W)[0] != k
    return np.asarray(W).T if turn else np.asarray(W), [
        np.asarray(v).T if turn else np.asarray(v) for v in V
    ]


def open_pyliger() -> None:
    """Make the parts of pyliger importable without all that it imports by itself.

    Its plots and clusterings need twenty packages that factorisations do without, not all
    of which install everywhere.
    """
    found = find_spec("pyliger")
    assert found is not None
    sys.modules["pyliger"] = module_from_spec(found)


def hold_liger(matrices: list[Any]) -> Any:
    """An object of pyliger's with the layers that its factorisations read, in memory."""
    open_pyliger()
    import anndata
    import pyliger.factorization._iNMF_ANLS
    import pyliger.factorization._online_iNMF  # noqa: F401 - before the clock starts
    from pyliger.pyliger import Liger

    parts = [anndata.AnnData(x, layers={"scale_data": x}) for x in matrices]
    liger = Liger(parts)
    liger.var_genes = list(parts[0].var_names)
    return liger


def pyliger_online(data: Any, k: int, lam: float, n_threads: int) -> Metagenes:
    """Online iNMF of pyliger: 5 epochs, mini-batches of 5,000 cells."""
    from pyliger.factorization._online_iNMF import online_iNMF

    online_iNMF(data, k=k, value_lambda=lam, verbose=False)
    return data.W.T, [v.T for v in data.V]


def pyliger_als(data: Any, k: int, lam: float, n_threads: int) -> Metagenes:
    """Alternating least squares of pyliger, at most 30 iterations."""
    from pyliger.factorization._iNMF_ANLS import optimize_ALS

    optimize_ALS(data, k=k, value_lambda=lam)
    return data.W.T, [v.T for v in data.V]


BATCH = Peer("nmf-torch", hold_dense, nmf_torch_batch)
"""For the objective at convergence, not for speed: benchmarks/bench_batch.py."""

PEERS = {
    "nmf-torch": Peer("nmf-torch", hold_dense, nmf_torch),
    "pyliger-online": Peer("pyliger", hold_liger, pyliger_online),
    "pyliger-als": Peer("pyliger", hold_liger, pyliger_als),
}


def matrices_in(folder: Path) -> list[Any]:
    """Those of the datasets, in order."""
    from scipy import sparse

    names = sorted(int(path.stem) for path in folder.glob("*.npz") if path.stem.isdigit())
    return [sparse.csr_matrix(sparse.load_npz(folder / f"{name}.npz")) for name in names]


def run(
    name: str, folder: Path, k: int, lam: float, n_threads: int, limit_s: float, **seed: int
) -> dict[str, Any]:
    """Factorise, and save the metagenes."""
    peer = {**PEERS, "nmf-torch-batch": BATCH}[name]
    data = peer.hold(matrices_in(folder))
    with runpy.run_path(str(MEMORY))["MemoryWatch"]() as memory:
        if limit_s:
            Timer(limit_s, stop, (limit_s, memory)).start()
        began = time.perf_counter()
        W, V = peer.factorise(data, k, lam, n_threads, **seed)
        seconds = time.perf_counter() - began
    np.savez(folder / f"{name}-metagenes.npz", W=np.asarray(W, float), V=np.array(V, float))
    return {
        "peer_version": version(peer.package),
        "seconds": seconds,
        "peak_bytes": memory.peak_bytes,
    }


def stop(limit_s: float, memory: Any) -> None:
    """Tell what is known and end the process, whatever it does."""
    print(json.dumps({"stopped_after_s": limit_s, "peak_bytes": memory.peak_bytes}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    name, folder, k, lam, n_threads, limit_s, *seed = sys.argv[1:]
    given = {"seed": int(seed[0])} if seed else {}
    numbers = int(k), float(lam), int(n_threads), float(limit_s)
    print(json.dumps(run(name, Path(folder), *numbers, **given)), flush=True)
    os._exit(0)  # a timer may be left
