"""The report page as a reader of it finds it: whole, offline, and right in its numbers."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from run_builder import build_contents

from tigon.report import components, factors, figures, scatter, write_report
from tigon.report.facts import Groups
from tigon.report.grouping import group_cells
from tigon.scaling.embedding.rows import TILE_CELLS
from tigon.storage.errors import InputError, OutputExistsError
from tigon.storage.runs.contents import RunContents
from tigon.storage.runs.run import Run
from tigon.storage.runs.write import write_run

HOSTILE = ["<script>alert(1)</script>", '"><img src=x onerror=1>', "a/b & $x_1$", "x\0\x1b[31m"]


class Page(HTMLParser):
    """The tags, attributes and text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self._text: list[str] = []
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] != ["style"]:
            self._text.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self._text).split())

    def values(self, name: str) -> list[str]:
        return [value for _, key, value in self.attributes if key == name]


def make_page(folder: Path, contents: RunContents, **options: object) -> Page:
    run = write_run(folder / "run.zarr", contents)
    return Page(write_report(run, folder / "run.html", **options))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return make_page(tmp_path_factory.mktemp("report"), build_contents(n_unassigned=40))


def test_page_needs_nothing_else(page: Page) -> None:
    references = [*page.values("src"), *page.values("href"), *page.values("xlink:href")]
    assert len(references) > 10
    outside = [ref for ref in references if not ref.startswith(("#", "data:image/png;base64,"))]
    assert outside == []
    assert {"script", "link", "iframe", "object", "embed"}.isdisjoint(page.tags)
    for loader in ("@import", "url(http", "url('http", 'url("http'):
        assert loader not in page.source


def test_links_lead_somewhere(page: Page) -> None:
    """Section links and the parts of figures, whose ids would clash if not kept apart."""
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    inside = [
        ref[1:] for name in ("href", "xlink:href") for ref in page.values(name) if ref[0] == "#"
    ]
    assert set(inside) <= set(ids)


def test_page_states_the_numbers(page: Page) -> None:
    contents = build_contents(n_unassigned=40)
    sizes = contents.obs["tigon_dataset"].value_counts()
    for fact in (
        "3,000 cells",
        "60 genes used",
        "3 datasets",
        "8 factors",
        "8 clusters",
        "0.853 ARI",
        "0.921 kNN accuracy",
        "Objective F = 123,456.8",
        "Peak memory 1.2 GiB of the 2.0 GiB allowed (60%)",
        "factorise 21.9 s",
        "minibatch_size 5000 was clamped to 300",
        "tigon integrate atlas.zarr --batch-key batch",
        "solver.lam 5.0",
        f"donor2 {sizes['donor2']:,} {sizes['donor2'] / 3000:.1%}",
    ):
        assert fact in page.text
    panels = [value for value in page.values("alt") if value.startswith("UMAP")]
    assert [panel.rsplit(" ", 1)[1] for panel in panels] == ["dataset", "cluster", "label"]


def test_layouts_that_were_added_are_there_to_choose_from(tmp_path: Path) -> None:
    contents = build_contents(300)
    made = {"use": "X_pca", "n_cells": 300, "n_used": 300}
    added = {
        "layouts": {"X_tsne": {**made, "method": "tsne", "perplexity": 30.0}},
        "clusterings": {"by parts": {**made, "resolution": 0.4, "n_neighbors": 20}},
    }
    page = make_page(
        tmp_path,
        replace(
            contents,
            obsm={**contents.obsm, "X_tsne": -np.asarray(contents.obsm["X_umap"])},
            obs=contents.obs.assign(**{"by parts": contents.obs["tigon_cluster"]}),
            config={**contents.config, **added},
        ),
    )
    wanted = [f"{layout} of the cells, coloured by {by}" for layout in ("UMAP", "t-SNE")
              for by in ("dataset", "cluster", "by parts", "label")]  # fmt: skip
    assert page.values("alt") == wanted
    assert page.tags.count("input") == 2
    assert page.values("for") == ["show-umap", "show-tsne"]
    assert page.text.count("UMAP of the cells by their aligned factors;") == 1
    assert page.text.count("t-SNE of X_pca (perplexity 30);") == 1


def test_points_that_were_not_aligned_are_not_called_so(tmp_path: Path) -> None:
    contents = build_contents(300)
    config = {**contents.config, "align": {"align": "none"}}
    page = make_page(tmp_path, replace(contents, config=config))
    assert "UMAP of the cells by their factors;" in page.text
    assert "after alignment" not in page.text


def test_unshared_genes_are_told_apart(tmp_path: Path) -> None:
    contents = build_contents(300)
    shared = np.arange(60) < 45
    model = contents.model
    without = replace(model, W=np.where(shared, model.W, np.float32(0)))
    var = contents.var.assign(tigon_shared=shared)
    page = make_page(tmp_path, replace(contents, var=var, model=without))
    assert "60 genes used, 15 unshared" in page.text
    assert "The 15 genes that not all datasets measure have no weight in W" in page.text
    genes = contents.var.index.to_numpy()
    for number, card in enumerate(page.text.split("strongest in cluster")[1:]):
        own, others = card.split("Own to a dataset:")[1].split("Not measured by all:")
        largest = np.maximum.reduce([V[number] for V in model.V.values()])
        assert genes[np.argmax(largest * shared)] in own.split()
        assert genes[np.argmax(largest * ~shared)] in others.split()


@pytest.mark.parametrize(
    ("residual", "said"),
    [
        ([np.nan] * 4, {"Loss of each mini-batch"}),
        ([0.1] * 4, {"Loss of all cells by iteration;"}),
        ([np.nan, np.nan, 0.1, 0.1], {"Loss of each mini-batch", "After the epochs come"}),
    ],
)
def test_the_loss_says_what_its_steps_are(
    tmp_path: Path, residual: list[float], said: set[str]
) -> None:
    history = {
        "loss": np.array([4.0, 3.0, 2.5, 2.4]),
        "step": np.arange(4),
        "epoch": np.array([0, 0, 1, 2]),
        "residual": np.array(residual),
    }
    page = make_page(tmp_path, replace(build_contents(300), history=history))
    known = {"Loss of each mini-batch", "Loss of all cells by iteration;", "After the epochs come"}
    assert {text for text in known if text in page.text} == said


def test_one_layout_leaves_no_choice(page: Page) -> None:
    assert "input" not in page.tags


def test_top_genes_are_those_of_the_weights(page: Page) -> None:
    contents = build_contents(n_unassigned=40)
    card = page.text.split("Factor 3 ")[1].split("Factor 4 ")[0]
    shared, specific = card.split("Own to a dataset:")
    genes = contents.var.index.to_numpy()
    w = contents.model.W / np.linalg.norm(contents.model.W, axis=1, keepdims=True)
    best = np.argsort(-(w[3] ** 2) / w.sum(axis=0))[:10]
    assert shared.split()[-10:] == genes[best].tolist()
    V = np.stack([V[3] for V in contents.model.V.values()])
    gene = int(V.max(axis=0).argmax())
    owner = list(contents.model.V)[int(V[:, gene].argmax())]
    share = 100 * V.max() / contents.model.W[3].max()
    assert specific.strip().startswith(f"{genes[gene]} ({owner}, {share:.0f} %)")
    assert "active in one dataset only can still be in the shared W" in page.text


def test_the_axis_of_the_loss_leaves_out_what_is_far_off() -> None:
    loss = np.append([4000.0, np.nan], np.linspace(11, 10, 198))
    low, high = figures.loss_range(loss)
    assert 10 < low < 10.02
    assert 10.9 < high < 11
    history = {"loss": loss, "step": np.arange(1, 201), "epoch": np.repeat(np.arange(10), 20)}
    assert "svg" in str(figures.draw_history(history))


def test_means_of_epochs() -> None:
    step, loss = figures.epoch_means(
        np.array([1.0, 2.0, 3.0]), np.array([6.0, 4.0, 3.0]), np.array([1, 1, 2])
    )
    assert (step.tolist(), loss.tolist()) == ([1.5, 3.0], [5.0, 3.0])


@pytest.mark.parametrize("aligned", [True, False])
def test_shares_of_groups_are_means_over_their_cells(
    aligned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The made-up alignment changes nothing: its squares are the shares of the loadings."""
    monkeypatch.setattr(factors, "_READ_ROWS", 130)
    contents = build_contents(n_cells=400, n_unassigned=40)
    run = write_run(tmp_path / "run.zarr", contents)
    groups = group_cells("cluster", contents.obs["tigon_cluster"])
    found = factors.mean_shares(factors.cell_shares(Run.open(run), aligned=aligned), 8, groups)
    H = np.asarray(contents.obsm["X_inmf"], dtype=float)
    shares = H / np.where(H.any(axis=1), H.sum(axis=1), 1)[:, None]
    expected = pd.DataFrame(shares).groupby(groups.codes).mean()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-12)
    assert (found[-1] == 0).all()
    assert groups.names[-1] == "unassigned"


def test_scores_in_the_tiles_are_chosen_by_name(tmp_path: Path) -> None:
    scores = {"n_scored": 50.0, "best_ari": 0.5, "mixing": 0.25, "ari": 0.75}
    page = make_page(tmp_path, replace(build_contents(n_cells=100), scores=scores))
    tiles = page.text.split("8 clusters ")[1].split(" tigon integrate")[0]
    assert tiles == "0.750 ARI 0.250 mixing"


def test_scores_that_are_not_known_have_no_tile(tmp_path: Path) -> None:
    scores = {"mixing": float("nan"), "ari": 0.75}
    page = make_page(tmp_path, replace(build_contents(n_cells=100), scores=scores))
    tiles = page.text.split("8 clusters ")[1].split(" tigon integrate")[0]
    assert tiles == "0.750 ARI"


def test_cells_that_are_not_scored_are_told(page: Page, tmp_path: Path) -> None:
    contents = build_contents(n_cells=100)
    label = pd.Series(["Unassigned", "a", None, "b", "b"] * 20, index=contents.obs.index)
    contents = replace(contents, obs=contents.obs.assign(label=label))
    told = make_page(tmp_path, contents).text
    assert "Not scored: 20 cells labelled 'Unassigned' and 20 cells without a label." in told
    assert "Not scored" not in page.text


def test_names_are_text(tmp_path: Path) -> None:
    names = [f"<b>gene{i}</b>" for i in range(20)]
    contents = build_contents(n_cells=400, dataset_names=HOSTILE, gene_names=names)
    clusters = contents.obs["tigon_cluster"].map(lambda name: f"<i>$c_{name}$</i>")
    contents = replace(contents, obs=contents.obs.assign(tigon_cluster=clusters))
    contents = replace(contents, notices=["<u>notice</u>"], command="tigon <u>")
    page = make_page(tmp_path, contents)
    assert {"script", "u"}.isdisjoint(page.tags)
    assert "x" not in page.values("src")
    for text in (*HOSTILE[:3], "<u>notice</u>", "<i>$c_0$</i>", names[0]):
        assert text in page.text
    assert not any(char in page.source for char in "\0\x1b")


@pytest.mark.parametrize(
    "options",
    [
        {"n_datasets": 1, "n_components": 1, "n_genes": 9, "n_clusters": 2, "labels": False},
        {"n_datasets": 40, "n_clusters": 50, "n_components": 3},
        {"n_cells": 3, "n_datasets": 2, "n_clusters": 1, "n_genes": 2, "n_components": 1},
        {"n_cells": 60, "n_unassigned": 60},
    ],
    ids=["one dataset", "many of all", "few of all", "no cell assigned"],
)
def test_awkward_runs_have_a_page(tmp_path: Path, options: dict[str, int]) -> None:
    page = make_page(tmp_path, build_contents(**options))
    for heading in ("Cells", "Data", "Genes of the factors", "Fit", "Time and memory"):
        assert heading in page.text
    assert ("Composition of the clusters" in page.text) == (options.get("n_datasets") != 1)


def test_groups_beyond_the_palette_are_told(tmp_path: Path) -> None:
    page = make_page(tmp_path, build_contents(n_datasets=45, n_clusters=3))
    assert "45 datasets" in page.text
    assert "5 others" in page.text


def test_cluster_of_one_dataset_is_named(tmp_path: Path) -> None:
    contents = build_contents(n_cells=1000)
    own = (contents.obs["tigon_dataset"] == "donor3").to_numpy()
    clusters = np.where(own & (np.arange(1000) % 2 == 0), "private", "shared")
    contents = replace(contents, obs=contents.obs.assign(tigon_cluster=clusters))
    page = make_page(tmp_path, contents)
    size = int((clusters == "private").sum())
    assert f"Cluster private: 100% of its {size} cells are from donor3." in page.text
    assert "Cluster shared:" not in page.text


def test_parts_that_a_run_lacks_are_left_out(tmp_path: Path) -> None:
    contents = build_contents(n_cells=100)
    obs = contents.obs[["label"]]
    contents = replace(
        contents,
        obs=obs,
        obsm={"X_inmf": contents.obsm["X_inmf"]},
        history={},
        timings_s={},
        scores={},
        notices=(),
        command="",
        peak_memory_bytes=0,
        memory_limit_bytes=None,
    )
    page = make_page(tmp_path, contents)
    assert "UMAP" not in page.text
    assert "Peak memory" not in page.text
    assert "Factors by dataset" in page.text


def test_one_dataset_is_no_colour(tmp_path: Path) -> None:
    page = make_page(tmp_path, build_contents(n_cells=100, n_datasets=1))
    assert "<figcaption>by cluster" in page.source
    assert "<figcaption>by dataset" not in page.source
    one, two = (group_cells("dataset", pd.Series(names)) for names in (["a", "a"], ["a", "b"]))
    labels = group_cells("kind", pd.Series(["x", "y"]))
    for datasets, kinds, captions in (
        (one, None, ["all cells"]),
        (one, labels, ["by kind"]),
        (two, labels, ["by dataset", "by kind"]),
    ):
        shown = Groups(datasets, None, kinds).coloured_by
        assert [grouping.caption for grouping in shown] == captions


@pytest.mark.parametrize("n", [1, 2, 3, 10, 50, 53])
def test_components_are_counted_from_one(n: int) -> None:
    axes = Figure().add_subplot()
    axes.plot(np.arange(1, n + 1), np.ones(n))
    components.number_components(axes, n)
    ticks = axes.get_xticks()
    assert ticks[0] == 1
    assert ticks[-1] <= n
    assert (ticks == np.rint(ticks)).all()
    assert axes.get_xlim()[0] > 0


def test_missing_labels_are_a_group(tmp_path: Path) -> None:
    contents = build_contents(n_cells=100)
    label = pd.Series([None, "a"] * 50, index=contents.obs.index)
    page = make_page(tmp_path, replace(contents, obs=contents.obs.assign(label=label)))
    assert "a 50" in page.text
    assert "missing 50" in page.text


def test_label_key_chooses_the_column(tmp_path: Path) -> None:
    contents = build_contents(n_cells=100, labels=False)
    contents = replace(contents, obs=contents.obs.assign(tissue="lung"))
    page = make_page(tmp_path, contents, label_key="tissue")
    assert "by tissue" in page.text
    with pytest.raises(InputError, match="no column 'organ' to show as labels"):
        write_report(tmp_path / "run.zarr", tmp_path / "other.html", label_key="organ")
    assert not (tmp_path / "other.html").exists()


def test_labels_that_nothing_is_drawn_with_are_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    contents = build_contents(n_cells=100)
    obsm = {name: rows for name, rows in contents.obsm.items() if name != "X_umap"}
    make_page(tmp_path, replace(contents, obsm=obsm))
    assert not caplog.messages
    write_report(tmp_path / "run.zarr", tmp_path / "other.html", label_key="label")
    assert caplog.messages[0].startswith("the labels of label are not shown: they colour the")


def test_many_cells_are_sampled_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scatter, "MAX_POINTS", 700)
    page = make_page(tmp_path, build_contents())
    assert "A random sample of 700 of the 3,000 cells is drawn." in page.text


def test_points_are_read_in_blocks_and_shuffled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scatter, "MAX_POINTS", 900)
    contents = build_contents(n_cells=TILE_CELLS + 3000)
    run = Run.open(write_run(tmp_path / "run.zarr", contents))
    points = scatter.draw_cells(run.obsm("X_umap"), seed=3)
    assert len(np.unique(points.cells)) == 900
    assert (np.diff(points.cells) > 0).mean() < 0.6
    np.testing.assert_array_equal(points.xy, np.asarray(contents.obsm["X_umap"])[points.cells])


def test_same_run_gives_the_same_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.zarr", build_contents(n_cells=300))
    first = write_report(run, tmp_path / "a.html").read_bytes()
    assert write_report(run, tmp_path / "b.html").read_bytes() == first


def test_existing_page_is_kept(tmp_path: Path) -> None:
    run = Run.open(write_run(tmp_path / "run.zarr", build_contents(n_cells=100)))
    out = tmp_path / "run.html"
    out.write_text("mine")
    with pytest.raises(OutputExistsError):
        write_report(run, out)
    assert out.read_text() == "mine"
    write_report(run, out, overwrite=True)
    assert "100 cells" in Page(out).text
