"""Layouts and clusters of any matrix of a run, as a user asks for them."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from command_line import refused, works
from numpy.typing import NDArray
from run_builder import SCORES, build_contents
from sklearn.manifold import trustworthiness
from sklearn.metrics import adjusted_rand_score
from technical import handled_cells

import tigon
from tigon.scaling.embedding.layout import umap_layout
from tigon.scaling.embedding.neighbors import nearest, neighbors
from tigon.scaling.embedding.tsne import tsne_layout
from tigon.scaling.extending.config import ClusterConfig, LayoutConfig
from tigon.scaling.extending.points import points_of
from tigon.storage.errors import InputError, OutputExistsError
from tigon.storage.progress import Progress
from tigon.storage.runs.contents import RunContents
from tigon.storage.runs.run import Run
from tigon.storage.runs.write import write_run

N_CELLS = 260
SHORT: dict[str, Any] = dict(method="tsne", perplexity=10, n_epochs=30, n_threads=1)
"""A t-SNE that is no picture yet; threads of OpenMP wait busily, which slows other tests."""


def contents_with(**obsm: NDArray[Any]) -> RunContents:
    """A run's contents with principal components of its types, and what else is given."""
    contents = build_contents(N_CELLS, 2, n_genes=12, n_clusters=4)
    codes = contents.obs["label"].cat.codes.to_numpy()
    rng = np.random.default_rng(1)
    X_pca = rng.normal(0, 6, (4, 5))[codes] + rng.normal(0, 1, (N_CELLS, 5))
    return replace(contents, obsm={**contents.obsm, "X_pca": X_pca.astype(np.float32), **obsm})


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("written") / "run.zarr", contents_with())


@pytest.fixture
def run(written: Path, tmp_path: Path) -> Path:
    """A run of its own for each test."""
    return shutil.copytree(written, tmp_path / "run.zarr")


@pytest.fixture(scope="module")
def integrated(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A main job with a layout, whose alignment does nothing."""
    out = tmp_path_factory.mktemp("integrated") / "run.zarr"
    options: dict[str, Any] = dict(n_components=5, n_genes="all", n_epochs=2, align="none")
    layout = dict(n_neighbors=10, n_layout_epochs=20)
    data = handled_cells(600)
    keys = dict(batch_key="batch", label_key="kind")
    return tigon.integrate(data, out=out, report=False, **keys, **options, **layout)


@pytest.fixture
def tsne() -> None:
    pytest.importorskip("openTSNE")


def types_of(run: Run) -> NDArray[Any]:
    return run.obs["label"].cat.codes.to_numpy()


class TestTheMainJobsOwn:
    """The same steps on the same points give the same bytes."""

    def test_clusters(self, integrated: Run, tmp_path: Path) -> None:
        made = tigon.cluster(
            integrated, use="X_inmf_aligned", n_neighbors=10, name="again", out=tmp_path / "o.zarr"
        )
        assert made.obs["again"].tolist() == made.obs["tigon_cluster"].tolist()
        record = made.config["clusterings"]["again"]
        assert record["ari"] == pytest.approx(integrated.scores["ari"])
        assert record["nmi"] == pytest.approx(integrated.scores["nmi"])

    def test_layout(self, integrated: Run, tmp_path: Path) -> None:
        options: dict[str, Any] = dict(n_neighbors=10, n_epochs=20, overwrite=True)
        made = tigon.embed(
            integrated, use="X_inmf_aligned", out=tmp_path / "o.zarr", n_threads=1, **options
        )
        np.testing.assert_array_equal(
            np.asarray(made.obsm("X_umap")), np.asarray(integrated.obsm("X_umap"))
        )

    def test_loadings_are_compared_as_where_nothing_is_aligned(self, integrated: Run) -> None:
        points = points_of(integrated, "X_inmf")
        aligned = np.asarray(integrated.obsm("X_inmf_aligned"))
        assert points.shape == aligned.shape
        np.testing.assert_allclose(points.read(0, 600), aligned, atol=1e-6)

    def test_what_is_of_loadings_goes_with_the_factors(
        self, integrated: Run, tmp_path: Path
    ) -> None:
        path = shutil.copytree(integrated.path, tmp_path / "run.zarr")
        tigon.cluster(path, use="X_inmf", name="of_loadings")
        run = tigon.cluster(path, use="X_umap", name="of_picture", n_neighbors=10)
        made = tigon.drop_factors(run, [0], tmp_path / "dropped.zarr", report=False)
        assert "of_picture" in made.obs
        assert "of_loadings" not in made.obs
        assert list(made.config["clusterings"]) == ["of_picture"]
        updated = tigon.update(run, None, tmp_path / "u.zarr", drop=["b0"], report=False)
        assert not {"of_picture", "of_loadings"} & set(updated.obs)
        assert "clusterings" not in updated.config


@pytest.mark.usefixtures("tsne")
class TestLayouts:
    def test_it_is_where_scanpy_looks_and_says_what_it_is_of(self, run: Path) -> None:
        before = anndata.read_zarr(run)
        made = tigon.embed(run, use="X_pca", command="a call", **SHORT)
        after = anndata.read_zarr(run)
        assert after.obsm["X_tsne"].shape == (N_CELLS, 2)
        assert after.obsm["X_tsne"].dtype == np.float32
        assert after.obs.equals(before.obs)
        for name, matrix in before.obsm.items():
            np.testing.assert_array_equal(after.obsm[name], matrix)
        record = made.config["layouts"]["X_tsne"]
        wanted = dict(use="X_pca", method="tsne", perplexity=10, n_epochs=30, command="a call")
        assert {name: record[name] for name in wanted} == wanted
        assert {"openTSNE", "scikit-learn", "tigon"} <= set(record["versions"])
        assert [path.name for path in run.parent.iterdir()] == ["run.zarr"]

    def test_cells_of_a_type_lie_together(self, run: Path) -> None:
        made = tigon.embed(run, use="X_pca", **{**SHORT, "n_epochs": 200})
        layout, types = np.asarray(made.obsm("X_tsne")), types_of(made)
        spot = nearest(layout, layout, 6).indices[:, 1:]
        assert (types[spot] == types[:, None]).mean() > 0.97

    def test_threads_do_not_matter_and_the_seed_does(self, run: Path, tmp_path: Path) -> None:
        found = [
            np.asarray(
                tigon.embed(
                    run, use="X_pca", out=tmp_path / f"{i}.zarr", **{**SHORT, **options}
                ).obsm("X_tsne")
            )
            for i, options in enumerate(
                [dict(n_threads=1), dict(n_threads=2), dict(random_state=1)]
            )
        ]
        np.testing.assert_array_equal(found[0], found[1])
        assert not np.array_equal(found[0], found[2])

    def test_of_many_cells_a_sample_is_laid_out(
        self, run: Path, written: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        made = tigon.embed(
            run, use="X_pca", n_landmarks=100, n_placing=5, **{**SHORT, "n_epochs": 200}
        )
        at = made.obs["tigon_tsne_landmark"].to_numpy()
        assert at.sum() == 100
        layout, types = np.asarray(made.obsm("X_tsne")), types_of(made)
        spot = nearest(layout[~at], layout[at], 3).indices
        assert (types[at][spot] == types[~at][:, None]).mean() > 0.95
        assert "the layout is of a sample of 100 of 260 cells" in caplog.text
        assert made.config["layouts"]["X_tsne"]["n_used"] == 100
        # Whoever lays out all of them takes the column back.
        whole = tigon.embed(run, use="X_pca", overwrite=True, **SHORT)
        assert list(whole.obs) == list(Run.open(written).obs)

    def test_cells_without_loadings_lie_in_a_corner(self, tmp_path: Path) -> None:
        contents = build_contents(N_CELLS, 2, n_genes=12, n_unassigned=20)
        run = write_run(tmp_path / "run.zarr", contents)
        made = tigon.embed(run, **SHORT)
        layout = np.asarray(made.obsm("X_tsne"))
        assert made.config["layouts"]["X_tsne"]["use"] == "X_inmf_aligned"
        assert made.config["layouts"]["X_tsne"]["n_cells"] == N_CELLS - 20
        assert (layout[:20] <= layout[20:].min(axis=0)).all()
        clusters = tigon.cluster(run, name="c", use="X_inmf").obs["c"]
        assert (clusters[:20] == "unassigned").all()
        assert (clusters[20:] != "unassigned").all()

    def test_a_handful_of_cells_has_a_layout(self) -> None:
        for n in (0, 1, 3, 5):
            X = np.random.default_rng(n).normal(size=(n, 4)).astype(np.float32)
            layout = tsne_layout(X, neighbors(X, 4), seed=0, perplexity=2, n_epochs=5)
            assert layout.shape == (n, 2)
            assert np.isfinite(layout).all()


class TestClusters:
    def test_progress_is_told_as_by_the_main_job(
        self, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for i, progress in enumerate([True, False, None]):
            options = dict(n_neighbors=10, out=tmp_path / f"{i}.zarr", progress=progress)
            tigon.cluster(run, use="X_pca", name="c", **options)
            told = "looking at cells: 260 cells" in capsys.readouterr().err
            assert told == (progress is True)

    def test_the_same_bytes_for_any_threads(self, run: Path, tmp_path: Path) -> None:
        calls = [dict(n_threads=1), dict(n_threads=1), dict(n_threads=2), dict(random_state=3)]
        made = [
            tigon.cluster(
                run, use="X_pca", name="c", n_neighbors=10, out=tmp_path / f"{i}.zarr", **options
            )
            for i, options in enumerate(calls)
        ]
        codes = [(m.path / "obs" / "c" / "codes" / "c" / "0").read_bytes() for m in made]
        assert codes[0] == codes[1] == codes[2]
        assert adjusted_rand_score(types_of(made[0]), made[0].obs["c"]) > 0.99
        assert made[3].config["clusterings"]["c"]["random_state"] == 3

    def test_many_cells(self, run: Path) -> None:
        made = tigon.cluster(
            run, use="X_pca", n_neighbors=8, n_landmarks=100, n_placing=5, overwrite=True
        )
        assert made.obs["tigon_landmark"].sum() == 100
        rest = ~made.obs["tigon_landmark"].to_numpy()
        assert adjusted_rand_score(types_of(made)[rest], made.obs["tigon_cluster"][rest]) > 0.95
        # Scores of the run that were of its clusters are of the new ones.
        record = made.config["clusterings"]["tigon_cluster"]
        assert made.scores["ari"] == record["ari"] > 0.95
        assert made.scores["mixing"] == SCORES["mixing"]

    def test_a_column_of_another_is_not_taken_for_the_landmarks(self, tmp_path: Path) -> None:
        contents = contents_with()
        obs = contents.obs.assign(mine_landmark=np.arange(N_CELLS))
        run = write_run(tmp_path / "run.zarr", replace(contents, obs=obs))
        with pytest.raises(OutputExistsError, match="the run has mine_landmark already"):
            tigon.cluster(run, use="X_pca", name="mine", n_neighbors=8)
        assert Run.open(run).obs["mine_landmark"].tolist() == list(range(N_CELLS))


@pytest.mark.usefixtures("tsne")
def test_the_commands(run: Path) -> None:
    short = ("--method", "tsne", "--perplexity", "10", "--n-epochs", "30")
    told = works("embed", run, "--use", "X_pca", *short).stdout
    assert 'obsm["X_tsne"], t-SNE of X_pca (perplexity 10)' in told
    assert told.endswith(f"tigon report {run}\n")
    page = run.with_suffix(".html")
    page.write_text("of before")
    again = works("embed", run, "--use", "X_pca", *short, "--overwrite").stdout
    assert again.endswith(f"tigon report {run} --overwrite\n")
    page.unlink()
    facts = json.loads(
        works(
            "cluster", run, "--use", "X_pca", "--name", "c", "--n-neighbors", "9", "--json"
        ).stdout
    )
    assert facts["kind"] == "clusters"
    assert sum(facts["clusters"].values()) == N_CELLS
    assert facts["ari"] > 0.99
    assert facts["command"].startswith("tigon cluster ")
    info = works("info", run).stdout
    assert "t-SNE of X_pca (perplexity 10)" in info
    assert "Leiden of X_pca (resolution 0.4, 9 neighbours)" in info
    assert [path.name for path in run.parent.iterdir()] == ["run.zarr"]


def test_the_commands_refuse(run: Path, tmp_path: Path) -> None:
    for arguments, said in (
        (("embed", "--use", "X_nothing"), "it has X_inmf, X_inmf_aligned, X_pca, X_umap"),
        (("embed", "--use", "X_pca"), "the run has X_umap already"),
        (("cluster", "--name", "a/b"), "name is 'a/b': a column of obs has a name, without '/'"),
        (("cluster", "--name", ".a"), "no dot at its beginning; choose another"),
        (("cluster", "--name", ""), "a column of obs has a name"),
        (("cluster",), "the run has tigon_cluster already"),
        (("cluster", "--name", "tigon_dataset"), "that column is another's"),
        (("cluster", "--name", " "), "a column of obs has a name"),
        (("cluster", "--name", "c", "--n-neighbors", "260"), "each of 260 cells has 259 others"),
        (("cluster", "--name", "c", "--resolution", "0"), "resolution is not positive"),
        (("embed", "--overwrite", "--n-neighbors", "300"), "give --n-neighbors 259 or less"),
        (("embed", "--n-landmarks", "100", "--overwrite", "--n-neighbors", "100"), "of 100 cells"),
        (("embed", "--perplexity", "30"), "no option of the method umap"),
        (("embed", "--method", "tsne", "--min-dist", "0.2"), "no option of the method tsne"),
        (("embed", "--method", "tsne", "--perplexity", "1"), "perplexity is out of range"),
        (("embed", "--overwrite", "--n-epochs", "0"), "error: n_epochs is too small (0)"),
        (("embed", "--overwrite", "--random-state", "-1"), "random_state is out of range"),
        (("embed", "--overwrite", "--memory-limit", "64MiB"), "64.0 MiB is too small"),
        (("cluster", "--name", "c", "--memory-limit", "64MiB"), "64.0 MiB is too small"),
        (("embed", "--overwrite", "--out", str(run)), "is the run itself"),
        (("cluster", "--name", "c", "--out", str(run / "obs")), "is the run itself or lies in it"),
    ):
        assert said in refused(tmp_path, arguments[0], run, *arguments[1:])
    assert "there is no run" in refused(tmp_path, "embed", tmp_path / "none.zarr")
    crowded = ("embed", run, "--method", "tsne", "--perplexity", "87")
    assert "give --perplexity 86 or less" in refused(tmp_path, *crowded)


def test_tsne_without_its_library(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openTSNE", None)
    said = refused(run.parent, "embed", run, "--method", "tsne")
    assert "install tigon[tsne], or take --method umap" in said


def _with_gaps(X: NDArray[np.float32]) -> NDArray[Any]:
    X[[7, 9]] = np.nan
    return X


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_with_gaps, r"2 of 260 rows of X_odd hold NaN .* \(the first is row 7, from 0\)"),
        (lambda X: X.astype(np.float64) * 1e300, "260 of 260 rows of X_odd hold NaN or infinite"),
        (lambda X: X[:, :, None], r"of the shape \(260, 5, 1\): a row of numbers"),
        (lambda X: X > 0, "an array of bool"),
    ],
    ids=["NaN", "beyond float32", "three dimensions", "no numbers"],
)
def test_matrices_that_cannot_be_used(
    spoil: Callable[[Any], Any], said: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    X = spoil(rng.normal(1, 0.1, (N_CELLS, 5)).astype(np.float32))
    run = write_run(tmp_path / "run.zarr", contents_with(X_odd=X))
    with pytest.raises(InputError, match=said):
        tigon.cluster(run, use="X_odd", name="c")
    assert "c" not in Run.open(run).obs


def test_few_cells(tmp_path: Path) -> None:
    contents = build_contents(1, 1, n_genes=12, n_clusters=1)
    run = write_run(tmp_path / "run.zarr", contents)
    for arguments in (("embed", run, "--overwrite"), ("cluster", run, "--overwrite")):
        assert "there is 1 cell to compare" in refused(tmp_path, *arguments)
    for n in (3, 4):
        LayoutConfig(n_neighbors=2).check_cells(n)
        ClusterConfig(n_neighbors=2).check_cells(n)
    with pytest.raises(InputError, match="take --method umap"):
        LayoutConfig(method="tsne").check_cells(6)
    LayoutConfig(method="tsne", perplexity=2).check_cells(7)


@pytest.mark.data
def test_layouts_of_real_cells_are_as_good_as_the_libraries_own(shared_data: Path) -> None:
    opentsne = pytest.importorskip("openTSNE")
    X = anndata.read_h5ad(shared_data / "harmony_cell_lines_pcs.h5ad").X[::16].astype(np.float32)
    umap = umap_layout(X, neighbors(X, 20), seed=0)
    # umap-learn's own fit of these 593 cells reaches 0.958, their two first components 0.916.
    assert trustworthiness(X, umap, n_neighbors=15) > 0.95
    # Where a descent ends hangs on the last bit, which processors differ in: by 2 % or so.
    near, ours, theirs = neighbors(X, 90), [], []
    for seed in range(3):
        figures_of: list[float] = []
        tsne = tsne_layout(X, near, seed=seed, progress=_noting(figures_of))
        ours.append((figures_of[-1], trustworthiness(X, tsne, n_neighbors=15)))
        peer = opentsne.TSNE(random_state=seed, neighbors="exact").fit(X)
        theirs.append((peer.kl_divergence, trustworthiness(X, np.asarray(peer), n_neighbors=15)))
    (divergence, trust), (of_peer, peers_trust) = np.median(ours, 0), np.median(theirs, 0)
    assert divergence < 1.02 * of_peer
    assert trust > peers_trust - 0.01


def _noting(figures_of: list[float]) -> Progress:
    def tell(stage: str, done: int, total: int, **figures: float) -> None:
        figures_of.extend(figures.values())

    return tell
