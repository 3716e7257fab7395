"""Several starts against one: F, and how far two runs agree.

    python benchmarks/bench_consensus.py SOURCE... --batch-key batch

For each number of starts, and for pairs of seeds, two consensus runs are made that have no
draw in common. A line tells of one pair: F of the consensus beside that of its best start,
the agreement of the two runs, and that of single fits of the same seeds, as they are and
with as many batch iterations as refine a consensus. Agreement is the mean cosine of factors
matched one to one, the mean metagenes of ``tigon.scaling.inmf.consensus``. One JSON line a
result.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from record import machine

import tigon
from tigon.scaling.inmf.consensus import Metagenes, matched, mean_metagenes, unit_rows
from tigon.scaling.inmf.several import MAX_REFINING
from tigon.scaling.inmf.state import Problem


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sources", nargs="+", type=Path)
    parser.add_argument("--batch-key", default="batch")
    parser.add_argument("--n-components", type=int, default=20)
    parser.add_argument("--n-genes", type=int, default=2000)
    parser.add_argument("--n-epochs", default="auto")
    parser.add_argument("--starts", default="5,10")
    parser.add_argument("--pairs", type=int, default=3)
    chosen = parser.parse_args()
    for source in chosen.sources:
        for n_starts in map(int, chosen.starts.split(",")):
            for pair in range(chosen.pairs):
                for line in compared(source, chosen, n_starts, pair):
                    told = {"benchmark": "consensus", "data": source.stem}
                    print(json.dumps(machine() | told | line), flush=True)


def compared(
    source: Path, chosen: argparse.Namespace, n_starts: int, pair: int
) -> Iterator[dict[str, Any]]:
    """Two consensus runs, and single fits of the same two seeds."""
    fits, cpu_s = [], []
    with tigon.open(source) as atlas:
        for seed in (2 * pair, 2 * pair + 1):
            began = time.process_time()
            fits.append(fitted(atlas, chosen, n_starts, seed))
            cpu_s.append(time.process_time() - began)
        singles, polished = (
            [fitted(atlas, chosen, 1, seed, polish) for seed in (2 * pair, 2 * pair + 1)]
            for polish in (0, MAX_REFINING)
        )
    yield {
        "n_starts": n_starts,
        "seeds": [2 * pair, 2 * pair + 1],
        "objective": [fit.objective_ for fit in fits],
        "best_start": [float(fit.start_objectives_.min()) for fit in fits],
        "relative": [fit.objective_ / fit.start_objectives_.min() - 1 for fit in fits],
        "no_worse": all(fit.objective_ <= fit.start_objectives_.min() for fit in fits),
        "stability": [float(fit.stability_.mean()) for fit in fits],
        "agreement": agreement(*fits),
        "agreement_of_single": agreement(*singles),
        "objective_of_polished": [fit.objective_ for fit in polished],
        "agreement_of_polished": agreement(*polished),
        "cpu_s": cpu_s,
    }


def fitted(
    atlas: tigon.Atlas, chosen: argparse.Namespace, n_starts: int, seed: int, polish: int = 0
) -> tigon.OnlineINMF:
    """A fit of some starts."""
    epochs = chosen.n_epochs if chosen.n_epochs == "auto" else int(chosen.n_epochs)
    model = tigon.OnlineINMF(
        chosen.n_components,
        n_genes=chosen.n_genes,
        n_epochs=epochs,
        n_starts=n_starts,
        polish=polish,
        random_state=seed,
    )
    return model.fit(atlas, batch_key=chosen.batch_key)


def agreement(one: tigon.OnlineINMF, other: tigon.OnlineINMF) -> float:
    """Mean cosine of the matched factors of two fits of the same genes."""
    assert list(one.genes_) == list(other.genes_)
    a, b = factors(one), factors(other)
    return float((a * b[matched(a, b)]).sum(axis=1).mean())


def factors(model: tigon.OnlineINMF) -> NDArray[np.float64]:
    """Mean metagenes of length 1, shape (k, m)."""
    names = list(model.V_)
    measured = np.stack([model.measured_[name] for name in names])
    n_cells = np.array([model.n_cells_[name] for name in names])
    problem = Problem(n_cells, measured, measured.astype(float), model.lam)
    found = Metagenes(model.W_, np.stack([model.V_[name] for name in names]))
    return unit_rows(mean_metagenes(problem, found))[0]


if __name__ == "__main__":
    main()
