"""Principal components as a job: the run, passes, the same bytes however it is run, refusals."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from atlases import planted
from command_line import refused, works
from scipy import sparse

import tigon
from tigon import pca
from tigon.pca_job import plan_pca
from tigon.report.components import tell_exactness
from tigon.scaling.engine import ThreadEngine
from tigon.scaling.job import Job, job_place
from tigon.scaling.pca import sampling
from tigon.scaling.pca.job import begin, running
from tigon.scaling.preparing import PrepareConfig, prepare
from tigon.storage.atlas import Atlas
from tigon.storage.errors import InputError, MemoryLimitError
from tigon.storage.runs.components import Components
from tigon.storage.runs.contents import RunContents
from tigon.storage.runs.run import Run

pytestmark = pytest.mark.usefixtures("one_blas_thread")

OPTIONS: dict[str, Any] = dict(n_components=4, n_genes=40, report=False, n_threads=1)
KRYLOV = OPTIONS | {"n_genes": "all", "solver": "krylov", "tol": 1e-6}
"""Some passes."""


class Stopped(Exception):
    """What ends a job before its time."""


@dataclass(frozen=True)
class Found:
    """What a job would have written, and most of what it costs is writing."""

    contents: RunContents
    scores: np.ndarray

    @property
    def components(self) -> Components:
        assert isinstance(self.contents.model, Components)
        return self.contents.model

    @property
    def genes(self) -> tuple[str, ...]:
        return tuple(self.contents.var.index)


def decomposed(source: Any, out: Path, **options: Any) -> Found:
    """Do all of a job but the writing of the run."""
    kept: list[Found] = []

    def keep(out: Path, contents: RunContents, *, overwrite: bool) -> None:
        rows = contents.obsm["X_pca"]
        kept.append(Found(contents, rows.read(0, rows.shape[0])))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "write_run", keep)
        patch.setattr(Run, "open", lambda out: kept[0])
        pca(source, out=out, **options)
    return kept[0]


@pytest.fixture(scope="module", autouse=True)
def small_sample() -> Iterator[None]:
    """So that iterations have something left to do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "SAMPLE_CELLS", 256)
        yield


@pytest.fixture(scope="module")
def counts() -> anndata.AnnData:
    """More cells than two blocks have."""
    return planted(n=4500, m=300, k=4, d=3, depth=600).adata


@pytest.fixture(scope="module")
def atlas(counts: anndata.AnnData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("atlas") / "atlas.zarr"
    tigon.write_atlas(tigon.open(counts), place)
    return place


@pytest.fixture(scope="module")
def written(atlas: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return pca(atlas, out=tmp_path_factory.mktemp("gram") / "run.zarr", **OPTIONS)


@pytest.fixture(scope="module")
def gram(atlas: Path, tmp_path_factory: pytest.TempPathFactory) -> Found:
    return decomposed(atlas, tmp_path_factory.mktemp("gram") / "run.zarr", **OPTIONS)


@pytest.fixture(scope="module")
def krylov(atlas: Path, tmp_path_factory: pytest.TempPathFactory) -> Found:
    return decomposed(atlas, tmp_path_factory.mktemp("krylov") / "run.zarr", **KRYLOV)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "run.zarr"


def normalised(counts: Any, total: float = 1e4) -> np.ndarray:
    X = counts.toarray().astype(float)
    return np.log1p(X * (total / X.sum(axis=1, keepdims=True)))


def assert_same(one: Found, other: Found) -> None:
    assert one.scores.tobytes() == other.scores.tobytes()
    assert one.contents.obs.equals(other.contents.obs)
    assert one.contents.var.equals(other.contents.var)
    for field in fields(Components):
        a, b = (getattr(found.components, field.name) for found in (one, other))
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), field.name


def test_a_run_is_where_scanpy_looks(counts: anndata.AnnData, written: Run, gram: Found) -> None:
    adata = anndata.read_zarr(written.path)
    Y = normalised(counts[:, adata.var_names].X)
    # Totals are of all genes.
    Y = normalised(counts.X)[:, counts.var_names.get_indexer(adata.var_names)]
    A = Y - Y.mean(axis=0)
    sigma = np.linalg.svd(A, compute_uv=False)
    assert adata.obsm["X_pca"].dtype == np.float32
    assert adata.varm["PCs"].shape == (40, 4)
    np.testing.assert_allclose(adata.obsm["X_pca"], A @ adata.varm["PCs"], atol=1e-4)
    found = adata.uns["pca"]
    np.testing.assert_allclose(found["variance"], sigma[:4] ** 2 / (len(A) - 1), rtol=1e-10)
    np.testing.assert_allclose(found["variance_ratio"], (sigma**2 / (sigma**2).sum())[:4])
    assert found["params"]["zero_center"]
    assert list(adata.obs_names) == list(counts.obs_names)
    assert {"batch", "kind", "tigon_dataset", "total_counts"} <= set(adata.obs.columns)
    assert "tigon_cluster" not in adata.obs
    components = Run.open(written.path).components
    assert adata.obsm["X_pca"].tobytes() == gram.scores.tobytes()
    assert components.vectors.tobytes() == gram.components.vectors.tobytes()
    assert (components.target_sum, components.log1p, components.solver) == (1e4, True, "gram")
    assert "few" in components.reason
    assert components.converged
    np.testing.assert_allclose(components.mean, Y.mean(axis=0))
    assert written.config["pca"]["solver"] == "auto"
    assert written.obsm_names == ("X_pca",)


def test_genes_are_those_that_an_integration_selects(atlas: Path, gram: Found) -> None:
    with tigon.open(atlas) as opened, ThreadEngine(1) as engine:
        prepared = prepare(opened, PrepareConfig(n_genes=40), 4, engine)
        assert list(opened.var.index[prepared.genes]) == list(gram.genes)


class Counted:
    """How often each cell was read, at least and at most."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, n_cells: int) -> None:
        self.times = np.zeros(n_cells, int)
        read = Atlas.read

        def counting(atlas: Atlas, start: int, stop: int) -> Any:
            self.times[start:stop] += 1
            return read(atlas, start, stop)

        monkeypatch.setattr(Atlas, "read", counting)

    @property
    def least(self) -> int:
        return int(self.times.min())

    @property
    def most(self) -> int:
        return int(self.times.max())


@pytest.mark.parametrize(
    ("changed", "n_passes"),
    [
        ({}, 2),  # the Gram matrix of all genes rides on the selection
        ({"n_genes": "all"}, 2),
        ({"n_genes": "all", "scale": True}, 2),
        ({"n_genes": ["gene3", "gene7", "gene1", "gene40", "MT-A"]}, 2),
    ],
)
def test_statistics_and_sums_ride_on_one_pass(
    counts: anndata.AnnData,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, Any],
    n_passes: int,
) -> None:
    counted = Counted(monkeypatch, len(counts))
    run = decomposed(counts, out, **OPTIONS | changed)
    assert counted.least == counted.most == run.components.n_passes == n_passes


@pytest.mark.parametrize(("n_genes", "scale", "besides"), [("all", False, 1), (40, True, 2)])
def test_iterations_begin_with_the_first_pass(
    counts: anndata.AnnData,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    n_genes: Any,
    scale: bool,
    besides: int,
) -> None:
    """One pass more than there are products, for scores; with a selection another."""
    told: list[str] = []

    def note(stage: str, done: int, total: int, **figures: float) -> None:
        if done == total:
            told.append(stage)

    counted = Counted(monkeypatch, len(counts))
    changed = {"n_genes": n_genes, "scale": scale}
    run = decomposed(counts, out, progress=note, **KRYLOV | changed)
    n_passes = run.components.n_passes
    # A sample of the cells was read once more.
    assert (counted.least, counted.most) == (n_passes, n_passes + 1)
    first = n_passes - besides
    sums = [f"sums over cells, pass {i}" for i in range(2, n_passes)]
    assert told == ["reading cells", *sums, f"scores, pass {n_passes}"]
    assert first >= 2


def test_many_genes_are_selected_before_their_sums(
    counts: anndata.AnnData, gram: Found, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(begin, "GRAM_GENES", 250)
    counted = Counted(monkeypatch, len(counts))
    run = decomposed(counts, out, **OPTIONS)
    assert counted.least == counted.most == run.components.n_passes == 3
    # The same sums, of fewer genes at a time.
    assert run.genes == gram.genes
    np.testing.assert_allclose(run.components.singular_values, gram.components.singular_values)


def test_figures_tell_the_largest_residual(atlas: Path, krylov: Found, out: Path) -> None:
    told: dict[str, float] = {}

    def note(stage: str, done: int, total: int, **figures: float) -> None:
        told.update({stage: figures["largest residual"]} if figures else {})

    assert_same(decomposed(atlas, out, progress=note, **KRYLOV | {"n_threads": 2}), krylov)
    assert list(told) == [f"sums over cells, pass {i}" for i in range(2, len(told) + 2)]
    assert list(told.values()) == sorted(told.values(), reverse=True)
    assert krylov.components.own_residuals.max() <= 1e-6 < list(told.values())[-1]


def test_solvers_agree(gram: Found, atlas: Path, out: Path) -> None:
    options = OPTIONS | {"solver": "krylov", "tol": 1e-6, "n_threads": 2, "memory_limit": None}
    found = decomposed(atlas, out, **options).components
    np.testing.assert_allclose(found.singular_values, gram.components.singular_values, rtol=1e-9)
    np.testing.assert_allclose(found.vectors, gram.components.vectors, atol=1e-4)


def test_the_window_of_a_limit_changes_no_byte(atlas: Path, gram: Found, out: Path) -> None:
    options = OPTIONS | {"n_threads": 4}
    with pytest.raises(MemoryLimitError) as error:
        decomposed(atlas, out, memory_limit="50MiB", **options)
    limit = re.search(r"--memory-limit (\d+)MiB or more", str(error.value))
    assert limit is not None
    with pytest.raises(MemoryLimitError):
        decomposed(atlas, out, memory_limit=f"{int(limit[1]) - 1}MiB", **options)
    # Eight tasks in flight and one take nearly the same here: what is 1 MiB more is one block.
    assert plan_pca(atlas, memory_limit=None, **options).window == 8
    run = decomposed(atlas, out, memory_limit=f"{limit[1]}MiB", **options)
    assert_same(run, gram)


COSTS = """
import tigon
from tigon.pca_job import plan_pca
for options in ({gram!r}, {krylov!r}):
    plan = plan_pca({source!r}, **options)
    run = tigon.pca({source!r}, out={out!r}, overwrite=True, **options)
    print(plan.peak_bytes, run.peak_memory_bytes)
"""


def test_projected_memory_is_no_less_than_measured(
    atlas: Path, gram: Found, krylov: Found, out: Path
) -> None:
    """In a process that holds nothing of other tests; kernels were compiled by others."""
    code = COSTS.format(gram=OPTIONS, krylov=KRYLOV, source=str(atlas), out=str(out))
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for line in ran.stdout.splitlines():
        projected, measured = map(int, line.split())
        assert measured <= projected <= 2.5 * measured


def stop_in(stage: str) -> Callable[..., None]:
    """Interrupt a job when it tells of a stage."""

    def progress(told: str, done: int, total: int, **figures: float) -> None:
        if told.startswith(stage):
            raise Stopped

    return progress


@pytest.mark.parametrize(
    ("stage", "not_again"),
    [
        ("reading cells", []),
        ("sums over cells, pass 2", ["reading cells"]),
        ("sums over cells, pass 3", ["reading cells", "sums over cells, pass 2"]),
        ("scores", ["reading cells", *(f"sums over cells, pass {i}" for i in range(2, 5))]),
    ],
)
def test_an_interrupted_job_goes_on_to_the_same_bytes(
    atlas: Path, krylov: Found, out: Path, stage: str, not_again: list[str]
) -> None:
    with pytest.raises(Stopped):
        decomposed(atlas, out, resume=True, progress=stop_in(stage), **KRYLOV)
    told: set[str] = set()

    def note(stage: str, done: int, total: int, **figures: float) -> None:
        told.add(stage)

    assert_same(decomposed(atlas, out, resume=True, progress=note, **KRYLOV), krylov)
    assert not set(not_again) & told
    assert list(out.parent.iterdir()) == []


def test_kept_sums_of_another_matrix_are_not_taken(
    atlas: Path, krylov: Found, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Stopped):
        decomposed(atlas, out, resume=True, progress=stop_in("sums over cells, pass 3"), **KRYLOV)
    load = Job.load

    def of_another(job: Job, name: str) -> Any:
        kept = load(job, name)
        if kept is None or name != "sums-2.npz":
            return kept
        return {**kept, "Q": kept["Q"] + 1e-12, "product": 2 * kept["product"]}

    monkeypatch.setattr(Job, "load", of_another)
    assert_same(decomposed(atlas, out, resume=True, **KRYLOV), krylov)


def test_what_rode_on_the_first_pass_is_kept(atlas: Path, gram: Found, out: Path) -> None:
    with pytest.raises(Stopped):
        decomposed(atlas, out, resume=True, progress=stop_in("scores"), **OPTIONS)
    place = job_place(out, out.parent)
    next(place.glob("*/components.npz")).unlink()
    run = decomposed(atlas, out, resume=True, progress=stop_in("reading"), **OPTIONS)
    assert_same(run, gram)


def test_another_job_is_not_gone_on_with(atlas: Path, out: Path) -> None:
    with pytest.raises(Stopped):
        decomposed(atlas, out, resume=True, progress=stop_in("scores"), **OPTIONS)
    with pytest.raises(InputError, match=r"pca.n_components was 4 and is 3.*--restart"):
        decomposed(atlas, out, resume=True, **OPTIONS | {"n_components": 3})
    with pytest.raises(InputError, match="is another one"):
        tigon.integrate(atlas, out=out, resume=True, n_components=3, report=False)
    decomposed(atlas, out, restart=True, **OPTIONS)


def test_workers_give_the_bytes_of_threads_also_when_one_is_killed(
    atlas: Path, gram: Found, krylov: Found, tmp_path: Path
) -> None:
    distributed = pytest.importorskip("distributed")
    killed: list[int] = []
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0", memory_limit=2**31
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):

        def kill(stage: str, done: int, total: int, **figures: float) -> None:
            if stage == "sums over cells, pass 2" and not killed:
                killed.append(min(client.run(os.getpid).values()))
                os.kill(killed[0], signal.SIGKILL)

        assert_same(decomposed(atlas, tmp_path / "a.zarr", client=client, **OPTIONS), gram)
        run = decomposed(atlas, tmp_path / "b.zarr", client=client, progress=kill, **KRYLOV)
        assert_same(run, krylov)
        assert killed


def test_less_exact_than_asked_for_is_said(
    atlas: Path, out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = decomposed(atlas, out, **KRYLOV | {"max_passes": 2, "tol": 1e-9})
    assert not run.components.converged
    (notice,) = run.contents.notices
    assert re.search(r"less exact than asked for .* 1e-09 asked for.*set max_passes higher", notice)
    assert notice in caplog.text


def test_cells_are_filtered_as_they_are_read(
    counts: anndata.AnnData, out: Path, tmp_path: Path
) -> None:
    options = {"cells": "batch != 'b1'", "min_counts": 500}
    few = counts[(counts.obs["batch"] != "b1") & (counts.X.sum(axis=1).A1 >= 500)].copy()
    for solver in (OPTIONS, KRYLOV):
        run = decomposed(counts, out, **solver | options)
        alone = decomposed(few, tmp_path / "few.zarr", **solver)
        assert run.contents.obs["total_counts"].tolist() == few.X.sum(axis=1).A1.tolist()
        assert 500 < len(few) < 2900
        np.testing.assert_allclose(
            run.components.singular_values, alone.components.singular_values, rtol=1e-9
        )
        np.testing.assert_allclose(run.scores, alone.scores, atol=1e-3)


def test_genes_that_a_dataset_lacks_are_left_out(counts: anndata.AnnData, out: Path) -> None:
    sources = [counts[:600, :50], counts[600:1200, 10:60]]
    run = decomposed([s.copy() for s in sources], out, join="outer", **OPTIONS | {"n_genes": "all"})
    assert list(run.genes) == list(counts.var_names[10:50])
    assert list(run.contents.notices) == [
        "20 of 60 genes are left out: not all datasets measure them"
    ]
    run = decomposed([s.copy() for s in sources], out, join="outer", **OPTIONS)
    assert set(run.genes) <= set(counts.var_names[10:50])
    with pytest.raises(InputError, match=r"1 of 2 listed genes .* \(gene3\)"):
        decomposed(
            [s.copy() for s in sources],
            out.with_name("other.zarr"),
            join="outer",
            **OPTIONS | {"n_genes": ["gene3", "gene20"], "n_components": 1},
        )


def test_constant_genes_are_not_scaled(counts: anndata.AnnData, out: Path) -> None:
    some = counts[:500].copy()
    X = some.X.toarray()
    X[:, 5] = 0
    some.X = sparse.csr_matrix(X)
    run = decomposed(some, out, **OPTIONS | {"n_genes": "all", "scale": True})
    assert list(run.contents.notices) == [
        "1 of 300 genes do not vary among the cells: they are not scaled"
    ]
    assert np.abs(run.components.vectors[:, 5]).max() < 1e-14
    assert run.components.deviation[5] == 1.0


def bad(name: str, counts: anndata.AnnData) -> anndata.AnnData:
    some = counts[:300].copy()
    if name == "one cell":
        return some[:1].copy()
    if name == "all zero":
        some.X = sparse.csr_matrix(some.shape, dtype=np.float32)
    if name == "constant":
        some.X = sparse.csr_matrix(np.ones(some.shape, np.float32))
    return some


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("one cell", {}, "1 cell and 40 genes have no components"),
        ("good", {"n_components": 300, "n_genes": "all"}, "at most 299 can be found"),
        ("good", {"n_components": 40}, "40 components of 300 cells and 40 genes are too many"),
        ("good", {"min_counts": 1e6}, "none of 300 cells passes the filters"),
        ("all zero", {}, "no gene that a dataset measures has a count"),
        ("all zero", {"n_genes": "all"}, "300 genes are the same in all 300 cells"),
        ("all zero", {"n_genes": "all", "center": False}, "300 genes are zero in all 300 cells"),
        ("all zero", {"n_genes": "all", "solver": "krylov"}, "the same in all 300 cells"),
        ("constant", {"n_genes": "all", "scale": True}, "the same in all 300 cells"),
        ("good", {"label_key": "type"}, "the label key 'type' is not a column of obs"),
        ("good", {"target_sum": 0}, "a number above zero is needed"),
        ("good", {"lam": 5}, "'lam' is not an option of pca"),
        ("good", {"n_genes": ["gene1", "x"]}, "1 of 2 listed genes are not in the atlas"),
    ],
)
def test_what_cannot_be_decomposed_is_refused(
    counts: anndata.AnnData, out: Path, name: str, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        decomposed(bad(name, counts), out, **OPTIONS | changed)
    assert list(out.parent.iterdir()) == []


def test_the_command_line(atlas: Path, out: Path) -> None:
    options = ["-k", "4", "--n-genes", "40", "--batch-key", "batch", "--label-key", "kind"]
    shown = works("pca", atlas, "--out", out, *options, "--dry-run").stdout
    assert re.search(r"passes over the counts +2, ", shown)
    assert not out.exists()
    shown = works("pca", atlas, "--out", out, *options).stdout
    assert re.search(r"components +4, \d+\.\d% of the variance", shown)
    assert "0.07 asked for), none larger than the last is missing" in shown
    run = Run.open(out)
    assert run.datasets == ("b0", "b1", "b2")
    assert run.command.startswith("tigon pca ")
    page = out.with_suffix(".html").read_text()
    top_gene = run.genes[int(run.components.vectors[0].argmax())]
    noise = "mostly noise, though a rare type of cells may sit there"
    for part in ("Exactness", "coloured by kind", "asked for: 0.07", top_gene, noise):
        assert part in page
    # Nothing is left to chance where the whole Gram matrix is there.
    assert "none larger than the last is missing.</p>" in page
    assert "4, " in works("info", out).stdout
    works("export", out, out.with_suffix(".h5ad"), "--atlas", atlas)
    assert anndata.read_h5ad(out.with_suffix(".h5ad")).obsm["X_pca"].shape == (4500, 4)
    works("report", out, "--overwrite")
    assert "PCs" in run.to_xarray()


def test_what_is_not_known_has_no_probability(krylov: Found) -> None:
    known = replace(krylov.components, completeness=1.5)
    assert tell_exactness(known).endswith("missing, but with a probability of one in a million.")
    unknown = replace(krylov.components, completeness=np.inf)
    assert tell_exactness(unknown).endswith("whether a larger one is missing is not known.")


def test_no_sum_is_asked_for_in_either_spelling(atlas: Path, tmp_path: Path) -> None:
    for word in ("none", "None"):
        few = ["pca", atlas, "--out", tmp_path / "out.zarr", "-k", "4", "--dry-run"]
        works(*few, "--target-sum", word)


def test_the_command_line_refuses(atlas: Path, written: Run, tmp_path: Path) -> None:
    run, out = tmp_path / "pca.zarr", tmp_path / "out.zarr"
    shutil.copytree(written.path, run)
    few = ["pca", atlas, "--out", out]
    assert "--target-sum is 'some'" in refused(tmp_path, *few, "--target-sum", "some")
    assert "max_passes is 1" in refused(tmp_path, *few, "--max-passes", "1")
    assert "exists" in refused(tmp_path, "pca", atlas, "--out", run)
    for command in (["update", run, atlas], ["project", run, atlas]):
        line = refused(tmp_path, *command, "--out", out)
        assert f"tigon {command[0]} needs the factors of a run of `tigon integrate`" in line
    assert "is a run of principal components" in refused(tmp_path, "factors", run)
    assert "is a run, which holds no counts" in refused(tmp_path, "ingest", run, "--out", out)
    with pytest.raises(InputError, match="W needs the factors"):
        _ = written.W


def test_one_component_and_no_normalisation(counts: anndata.AnnData, out: Path) -> None:
    changed = {"n_components": 1, "target_sum": None, "log1p": False, "center": False}
    run = decomposed(counts, out, **OPTIONS | changed | {"n_genes": "all"})
    sigma = np.linalg.svd(counts.X.toarray().astype(float), compute_uv=False)
    np.testing.assert_allclose(run.components.singular_values, sigma[:1], rtol=1e-10)
    scores = run.scores.astype(float)
    np.testing.assert_allclose(run.components.variance, scores.var(axis=0), rtol=1e-5)
