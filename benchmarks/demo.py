"""The main job on a simulated atlas, beside what people do without Tigon.

    python benchmarks/demo.py                                   # or: make demo
    python benchmarks/demo.py --data FILE --batch-key COLUMN    # or: make demo DATA=FILE

Three donors share seven cell types in unequal proportions; an eighth is in one donor
only (see simulate.py). Every method gets the Leiden resolution that suits it best.
Ends with exit code 1 if Tigon's clusters miss the types.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import anndata
import baseline
import numpy as np
import pandas as pd
import simulate
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

MIN_ARI = 0.95
EMBEDDING_STAGES = ("cells and genes", "factorisation", "alignment")
MIN_SHARE = 0.90  # of the private type in its cluster, and of the cluster in the type


def integrate(sources: list[Path], out: Path, batch_key: str | None, label_key: str | None) -> None:
    """Run ``tigon integrate`` as a user would, and show the command."""
    command = ["tigon", "integrate", *map(str, sources)]
    command += ["--batch-key", batch_key] if batch_key else []
    command += ["--label-key", label_key] if label_key else []
    command += ["--out", str(out), "--overwrite"]
    print("\n$", " ".join(command), flush=True)
    beside_python = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    if code := subprocess.run(command, check=False, env=beside_python).returncode:
        sys.exit(code)  # the command has said why


@dataclass(frozen=True)
class Result:
    """How well a method did.

    Attributes
    ----------
    ari
        Adjusted Rand index of its clusters and the types.
    clusters
        How the clusters were made.
    time_s
        Seconds from counts to its embedding; for what Tigon ships, of the whole job.
    """

    ari: float
    clusters: str
    time_s: float


def compare(sources: list[Path], run: anndata.AnnData) -> dict[str, Result]:
    """What each method reached."""
    start = time.perf_counter()
    adata = anndata.concat([anndata.read_h5ad(path) for path in sources])
    labels, donors = np.asarray(adata.obs["cell_type"]), np.asarray(adata.obs["donor"])
    components = baseline.principal_components(adata.X)
    taken = time.perf_counter() - start
    results = {"PCA, not integrated": Result(*best(components, labels), taken)}
    if find_spec("harmonypy"):
        start = time.perf_counter()
        corrected = baseline.harmonise(components, donors)
        taken += time.perf_counter() - start
        results["Harmony"] = Result(*best(corrected, labels), taken)
    stages = {name: float(seconds) for name, seconds in run.uns["tigon"]["timings_s"].items()}
    truth = np.asarray(run.obs["cell_type"])
    embedded = best(run.obsm["X_inmf_aligned"], truth)
    results["Tigon"] = Result(*embedded, sum(stages[name] for name in EMBEDDING_STAGES))
    shipped = float(adjusted_rand_score(truth, run.obs["tigon_cluster"]))
    results["Tigon, tigon_cluster"] = Result(shipped, "as shipped", sum(stages.values()))
    return results


def best(embedding: NDArray[np.floating], labels: NDArray[np.str_]) -> tuple[float, str]:
    """The best ARI over Leiden resolutions, and that resolution."""
    by_resolution = baseline.leiden_ari(embedding, labels)
    resolution = max(by_resolution, key=by_resolution.__getitem__)
    return by_resolution[resolution], f"Leiden at resolution {resolution:g}"


@dataclass(frozen=True)
class Home:
    """The cluster that holds most cells of a type, and how much they have of each other."""

    cluster: str
    of_type: float
    of_cluster: float

    @property
    def is_own(self) -> bool:
        """Whether the type has this cluster to itself, and little elsewhere."""
        return min(self.of_type, self.of_cluster) >= MIN_SHARE


def home(labels: pd.Series[str], clusters: pd.Series[str], name: str) -> Home:
    """Where the cells of type ``name`` are."""
    is_type = (labels == name).to_numpy()
    counts = clusters[is_type].value_counts()
    cluster, n = str(counts.index[0]), int(counts.iloc[0])
    return Home(cluster, n / is_type.sum(), n / (clusters.astype(str) == cluster).sum())


def report(results: dict[str, Result], private: str, where: Home) -> None:
    """Print the table."""
    print("\nAdjusted Rand index of clusters against the simulated cell types, and the time from")
    print("counts to each embedding (for tigon_cluster: of the whole job, with UMAP and scores)")
    for method, found in results.items():
        print(f"  {method:<22}{found.ari:6.3f}{found.time_s:7.1f} s   {found.clusters}")
    print(
        f"\n{private}, the type of donor1 alone: {where.of_type:.1%} of it in cluster "
        f"{where.cluster}, of which it is {where.of_cluster:.1%}"
    )


def demo(folder: Path) -> int:
    """Simulate, integrate, compare; the exit code."""
    start = time.perf_counter()
    atlas = simulate.Atlas()
    print(f"Simulating {atlas.n_cells:,} cells of {atlas.n_donors} donors into {folder}/")
    sources = simulate.write_atlas(atlas, folder)
    integrate(sources, folder / "run.zarr", "tigon_dataset", "cell_type")
    print("\nComparing with PCA and Harmony", flush=True)
    run = anndata.read_zarr(folder / "run.zarr")
    results = compare(sources, run)
    where = home(run.obs["cell_type"], run.obs["tigon_cluster"], atlas.types[-1])
    report(results, atlas.types[-1], where)
    peak_mib = int(run.uns["tigon"]["peak_memory_bytes"]) / 2**20
    print(
        "\nThese data fit in memory, where PCA and Harmony do too. What Tigon adds: counts are "
        f"streamed,\nmemory is bounded (here {peak_mib:,.0f} MiB of 2 GiB allowed), and factors "
        "have genes that can be read."
    )
    print(f"\nReport: {(folder / 'run.html').resolve().as_uri()}")
    print(f"All of it took {time.perf_counter() - start:.0f} s")
    return 0 if results["Tigon"].ari >= MIN_ARI and where.is_own else 1


def main() -> int:
    """Run the demo, or the main job on a user's file."""
    parser = argparse.ArgumentParser(description="Integrate a simulated atlas, or a file of yours.")
    parser.add_argument("--data", type=Path, help="a file of yours, instead of the simulation")
    parser.add_argument("--batch-key", help="column of obs that names its datasets")
    parser.add_argument("--label-key", help="column of obs that names its cell types")
    parser.add_argument("--folder", type=Path, default=Path("demo"), help="where results go")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    if given.data is None:
        return demo(given.folder)
    out = given.folder / f"{given.data.stem}.zarr"
    integrate([given.data], out, given.batch_key, given.label_key)
    print(f"\nRun: {out}\nReport: {out.with_suffix('.html').resolve().as_uri()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
