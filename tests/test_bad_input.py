"""Bad input is refused in one line, with exit code 2, and leaves nothing behind."""

from __future__ import annotations

import re
import resource
import tempfile
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from atlases import planted
from builders import make_adata, make_counts, write_h5ad
from command_line import check_refusal, listing, refused, start, tigon, works
from scipy import sparse

COMMANDS = ["ingest", "integrate"]
BY_BATCH = ("--batch-key", "batch", "--n-components", "3")
SMALL = (*BY_BATCH, "--n-epochs", "2", "--no-umap", "--no-report")


@pytest.fixture(autouse=True)
def _temporary_files_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Temporary files count as left behind too."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """Counts with which nothing is wrong."""
    return write_h5ad(planted(n=240, m=40, k=3).adata, tmp_path / "good.h5ad")


@pytest.fixture(params=COMMANDS)
def command(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def with_values(*entries: float) -> anndata.AnnData:
    """Counts of which those of cell2 from gene3 on are ``entries``."""
    counts = sparse.lil_matrix(make_counts())
    for offset, value in enumerate(entries):
        counts[2, 3 + offset] = value
    return make_adata(counts.tocsr())


# The file


def test_a_missing_file(command: str, tmp_path: Path) -> None:
    line = refused(tmp_path, command, tmp_path / "no.h5ad", "--out", tmp_path / "out.zarr")
    assert f"{tmp_path}/no.h5ad" in line
    assert "check the name" in line


def test_a_file_given_twice(command: str, good: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.h5ad"
    link.hardlink_to(good)
    (tmp_path / "folder").symlink_to(tmp_path)
    for again, said in (
        (good, f"the source {good} is given twice: its"),
        (link, f"the source {link} is given twice (as {good} too): its cells would count double"),
        (tmp_path / "folder" / "good.h5ad", f"is given twice (as {good} too)"),
    ):
        assert said in refused(tmp_path, command, good, again, "--out", tmp_path / "out.zarr")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no folder that takes no files")
def test_a_folder_that_takes_no_files(command: str, good: Path, tmp_path: Path) -> None:
    line = refused(tmp_path, command, good, "--out", "/proc/out.zarr")
    assert line == "error: the folder /proc takes no files: choose another place"


@pytest.mark.parametrize("name", ["a.h5ad", "a.h5"])
def test_a_file_that_is_not_what_its_name_says(command: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("cell,gene,count\n")
    line = refused(tmp_path, command, tmp_path / name, "--out", tmp_path / "out.zarr")
    assert f"{tmp_path}/{name} is not an HDF5 file, whatever its name says" in line


def test_a_folder_that_is_not_what_its_name_says(command: str, tmp_path: Path) -> None:
    (tmp_path / "a.zarr").mkdir()
    line = refused(tmp_path, command, tmp_path / "a.zarr", "--out", tmp_path / "out.zarr")
    assert "is not a Zarr store, whatever its name says" in line


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_file(command: str, share: float, good: Path, tmp_path: Path) -> None:
    content = good.read_bytes()
    good.write_bytes(content[: int(len(content) * share)])
    line = refused(tmp_path, command, good, "--out", tmp_path / "out.zarr")
    assert "it is cut short" in line
    assert "copy or download it again" in line


def test_a_link_to_itself(command: str, tmp_path: Path) -> None:
    (tmp_path / "loop.h5ad").symlink_to("loop.h5ad")
    line = refused(tmp_path, command, tmp_path / "loop.h5ad", "--out", tmp_path / "out.zarr")
    assert "there is no file" in line


# The counts


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (-1, "a negative value"),
        (float("nan"), "a missing or infinite value"),
        (float("inf"), "a missing or infinite value"),
        (1.5, "a value that is not a whole number"),
    ],
)
def test_what_is_not_a_count(command: str, value: float, problem: str, tmp_path: Path) -> None:
    path = write_h5ad(with_values(value), tmp_path / "a.h5ad")
    line = refused(
        tmp_path, command, path, "--out", tmp_path / "out.zarr", *_keys(command, "batch", k=3)
    )
    for part in (str(path), problem, "cell2", "gene3", f"{value:g}"):
        assert part in line


def test_normalised_data_are_offered_ways_out(command: str, tmp_path: Path) -> None:
    adata = with_values(1.5)
    adata.layers["counts"] = make_counts()
    path = write_h5ad(adata, tmp_path / "a.h5ad")
    keys = _keys(command, "batch", k=3)
    line = refused(tmp_path, command, path, "--out", tmp_path / "out.zarr", *keys)
    assert "--layer" in line
    assert "--allow-non-integer" in line


def test_the_ways_out_of_normalised_data_work(tmp_path: Path) -> None:
    adata = with_values(1.5)
    adata.layers["counts"] = make_counts()
    path = write_h5ad(adata, tmp_path / "a.h5ad")
    works("ingest", path, "--layer", "counts", "--out", tmp_path / "layer.zarr")
    works("ingest", path, "--allow-non-integer", "--out", tmp_path / "any.zarr")
    line = refused(tmp_path, "ingest", path, "--raw", "--out", tmp_path / "raw.zarr")
    assert "has no .raw" in line
    line = refused(
        tmp_path, "ingest", path, "--raw", "--layer", "counts", "--out", tmp_path / "raw.zarr"
    )
    assert "both --raw and --layer" in line


# Genes and cells


def test_duplicate_gene_names(command: str, tmp_path: Path) -> None:
    names = [f"gene{j}" for j in range(25)]
    names[7] = names[8] = "gene2"
    names[11] = "gene5"
    path = write_repeated(names, tmp_path / "a.h5ad")
    line = refused(tmp_path, command, path, "--out", tmp_path / "out.zarr")
    assert "2 gene names appear more than once (gene2, gene5)" in line


def write_repeated(names: list[str], path: Path) -> Path:
    """A file whose genes have these names, although some are the same."""
    with pytest.warns(UserWarning, match="not unique"):
        return write_h5ad(make_adata(genes=names), path)


def test_duplicate_cell_names_are_told_apart_with_a_notice(tmp_path: Path) -> None:
    paths = [write_h5ad(make_adata(seed=s), tmp_path / f"s{s}.h5ad") for s in (1, 2)]
    result = works("ingest", *paths, "--out", tmp_path / "out.zarr")
    notices = [line for line in result.stderr.splitlines() if line.startswith("note: ")]
    assert len(notices) == 1
    assert "60 cell names appear more than once" in notices[0]
    assert anndata.read_zarr(tmp_path / "out.zarr").obs_names.is_unique


def test_no_shared_genes(command: str, tmp_path: Path) -> None:
    one = write_h5ad(make_adata(), tmp_path / "one.h5ad")
    other = make_adata(genes=[f"other{j}" for j in range(25)])
    two = write_h5ad(other, tmp_path / "two.h5ad")
    line = refused(tmp_path, command, one, two, "--out", tmp_path / "out.zarr")
    for part in ("no gene is in all 2 sources", "gene0", "other0", "--join outer"):
        assert part in line


# The batch key and the label key


@pytest.mark.parametrize("key", ["donor", "batch,donor"])
def test_a_batch_key_that_is_no_column(key: str, good: Path, tmp_path: Path) -> None:
    line = refused(tmp_path, "integrate", good, "--out", tmp_path / "out.zarr", "--batch-key", key)
    assert "'donor' is not a column of obs: there are batch, kind" in line


def test_a_batch_key_with_missing_values(tmp_path: Path) -> None:
    adata = planted(n=240, m=40, k=3).adata
    adata.obs["donor"] = np.where(np.arange(240) < 7, None, "d1")
    path = write_h5ad(adata, tmp_path / "a.h5ad")
    out = ("--out", tmp_path / "out.zarr")
    line = refused(tmp_path, "integrate", path, *out, "--batch-key", "donor")
    assert "'donor' has 7 missing values of 240 (first at cell 'cell0')" in line
    assert "--cells" in line


def test_a_label_key_that_is_no_column(good: Path, tmp_path: Path) -> None:
    line = refused(
        tmp_path, "integrate", good, "--out", tmp_path / "out.zarr", "--label-key", "type"
    )
    assert "the label key 'type' is not a column of obs" in line


# Options


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("-k", "0"), ("n_components is 0", "at least 1", "--n-components")),
        (("-k", "-3"), ("n_components is -3", "at least 1", "--n-components")),
        (("-k", "41"), ("41 components", "40 genes", "--n-components")),
        (("-k", "30", "--n-genes", "20"), ("30 components", "20 genes", "--n-components")),
        (("--n-genes", "0"), ("the number of genes is 0", "at least 1", "--n-genes")),
        (("--n-genes", "many"), ("--n-genes is 'many'", "'all'")),
        (("--n-epochs", "0"), ("n_epochs is 0", "at least 1", "--n-epochs")),
        (("--n-epochs", "some"), ("--n-epochs is 'some'", "'auto'")),
        (("--minibatch-size", "0"), ("minibatch_size is 0", "at least 1", "--minibatch-size")),
        (("--lam", "-1"), ("lam is -1", "at least 0", "--lam")),
        (("--lam", "nan"), ("lam is nan", "at least 0", "--lam")),
        (("--max-mito", "5"), ("--max-mito is 5", "0.05")),
        (("--min-genes", "-1"), ("--min-genes is -1", "the least is 0, which is no limit")),
        (("--min-genes", "99"), ("none of 240 cells passes the filters (--min-genes 99):",)),
        (("--min-counts", "1e9"), ("none of 240 cells passes", "--min-counts")),
        (("--cells", "n_genes_by_counts > 5"), ("n_genes_by_counts", "use --min-genes")),
        (("--cells", "total_counts > 5"), ("total_counts", "use --min-counts")),
        (("--cells", "pct_counts_mt < 5"), ("pct_counts_mt", "use --max-mito (a share")),
        (("--cells", "colour == 1"), ("--cells 'colour == 1'", "batch, kind")),
        (("--cells", "batch == 'b9'"), ("selects none of 240 cells", "relax")),
        (("--n-threads", "0"), ("n_threads is 0", "at least 1", "--n-threads")),
        (("--memory-limit", "much"), ("'much' is not a size", "2GiB")),
        (("--resolution", "-1"), ("resolution is not positive and finite (-1.0)", "try 0.4")),
    ],
)
def test_an_option_out_of_range(
    options: tuple[str, ...], parts: tuple[str, ...], good: Path, tmp_path: Path
) -> None:
    line = refused(tmp_path, "integrate", good, "--out", tmp_path / "out.zarr", *BY_BATCH, *options)
    for part in parts:
        assert part in line


def test_more_components_than_cells(tmp_path: Path) -> None:
    path = write_h5ad(planted(n=30, m=60, k=3, d=1).adata, tmp_path / "a.h5ad")
    line = refused(
        tmp_path, "integrate", path, "--out", tmp_path / "out.zarr", "--n-components", "31"
    )
    assert "31 components are more than the 30 cells: at most 30" in line


def test_datasets_smaller_than_components(tmp_path: Path) -> None:
    adata = planted(n=240, m=40, k=3).adata
    adata.obs["donor"] = np.where(np.arange(240) < 4, "few", "many")
    path = write_h5ad(adata, tmp_path / "a.h5ad")
    options = ("--out", tmp_path / "out.zarr", "--batch-key", "donor", "-k", "5")
    line = refused(tmp_path, "integrate", path, *options)
    assert "'few' (4)" in line
    assert "--small-datasets merge or drop" in line


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("gene1\nactin\n\nmyosin\n", ("2 of 3 listed genes are not in the atlas", "actin, myosin")),
        ("a name " * 9, (f"the atlas ({'a name ' * 5}a na…): names must match",)),
        ("\n\n", ("lists no gene", "one name a line")),
        (None, ("cannot be read as a list of genes", "check the name")),
    ],
)
def test_a_list_of_genes(
    content: str | None, parts: tuple[str, ...], good: Path, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "genes.txt").write_text(content)
    options = ("--out", tmp_path / "out.zarr", *BY_BATCH, "--genes", tmp_path / "genes.txt")
    line = refused(tmp_path, "integrate", good, *options)
    for part in parts:
        assert part in line


def test_genes_counted_and_listed(good: Path, tmp_path: Path) -> None:
    (tmp_path / "genes.txt").write_text("gene1\n")
    options = ("--out", tmp_path / "out.zarr", "--genes", tmp_path / "genes.txt")
    line = refused(tmp_path, "integrate", good, *options, "--n-genes", "5")
    assert "both --n-genes 5 and --genes" in line


# The output and the machine


def test_an_output_that_exists(command: str, good: Path, tmp_path: Path) -> None:
    works("ingest", good, "--out", tmp_path / "out.zarr")
    line = refused(
        tmp_path, command, good, "--out", tmp_path / "out.zarr", *_keys(command, "batch")
    )
    assert f"{tmp_path}/out.zarr exists" in line
    assert "--overwrite" in line


def test_a_report_that_exists(good: Path, tmp_path: Path) -> None:
    (tmp_path / "out.html").write_text("mine")
    line = refused(tmp_path, "integrate", good, "--out", tmp_path / "out.zarr", *BY_BATCH)
    assert f"{tmp_path}/out.html" in line
    assert "exists" in line
    assert "--overwrite" in line


def test_a_folder_for_the_output_that_does_not_exist(
    command: str, good: Path, tmp_path: Path
) -> None:
    line = refused(tmp_path, command, good, "--out", tmp_path / "no" / "out.zarr")
    assert f"the folder {tmp_path}/no does not exist" in line


def test_overwriting_spares_what_tigon_did_not_write(
    command: str, good: Path, tmp_path: Path
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("words")
    line = refused(tmp_path, command, good, "--out", tmp_path / "thesis", "--overwrite")
    assert "is a folder that Tigon did not write" in line


def test_a_source_is_never_overwritten(command: str, good: Path, tmp_path: Path) -> None:
    atlas = tmp_path / "atlas.zarr"
    works("ingest", good, "--out", atlas)
    same = tmp_path / "same.zarr"
    same.symlink_to(atlas)
    for out in (atlas, same):
        line = refused(tmp_path, command, atlas, "--out", out, "--overwrite")
        assert f"{out} is one of the sources" in line


def test_a_memory_limit_too_small_names_the_smallest_that_would_do(
    good: Path, tmp_path: Path
) -> None:
    def attempt(limit: str) -> list[str | Path]:
        return ["integrate", good, "--out", tmp_path / "out.zarr", *SMALL, "--memory-limit", limit]

    line = refused(tmp_path, *attempt("64MiB"))
    named = re.search(r"--memory-limit (\d+)MiB or more", line)
    assert named is not None, line
    smallest = int(named[1])
    assert f"{smallest}MiB" in refused(tmp_path, *attempt(f"{smallest - 1}MiB"))
    works(*attempt(f"{smallest}MiB"), "--dry-run")


@pytest.mark.parametrize("limit_kib", [2, 20, 60])
def test_a_disk_that_fills_up(command: str, limit_kib: int, tmp_path: Path) -> None:
    source = write_h5ad(planted(n=2000, m=200, k=5).adata, tmp_path / "a.h5ad")
    if command == "integrate":
        # Compiled kernels are kept on disk as well: they must be there already.
        works(command, source, "--out", tmp_path / "out.zarr", *SMALL)
    out = tmp_path / "full.zarr"
    before = listing(tmp_path)

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_kib << 10, limit_kib << 10))

    with start(
        command, source, "--out", out, *_options(command), folder=tmp_path, prepare=fill
    ) as process:
        stdout, stderr = process.communicate()
    check_refusal(process.returncode, stdout, stderr)
    assert "no space left" in stderr
    assert listing(tmp_path) == before


# What is put right, with a notice


def test_a_minibatch_larger_than_the_data_is_clamped(good: Path, tmp_path: Path) -> None:
    options = ("--out", tmp_path / "out.zarr", *SMALL, "--minibatch-size", "100000")
    result = works("integrate", good, *options)
    notices = [line for line in result.stderr.splitlines() if line.startswith("note: ")]
    assert any("100000" in notice and "240" in notice for notice in notices)


def test_cells_without_selected_genes_are_unassigned(tmp_path: Path) -> None:
    adata = planted(n=240, m=40, k=3).adata
    counts = sparse.lil_matrix(adata.X)
    counts[5] = 0
    counts[17] = 0
    counts[17, 39] = 4
    adata.X = counts.tocsr()
    path = write_h5ad(adata, tmp_path / "a.h5ad")
    (tmp_path / "genes.txt").write_text("".join(f"gene{j}\n" for j in range(36)))
    options = ("--out", tmp_path / "out.zarr", *SMALL, "--genes", tmp_path / "genes.txt")
    works("integrate", path, *options)
    run = anndata.read_zarr(tmp_path / "out.zarr")
    for name in ("X_inmf", "X_inmf_aligned"):
        loadings = np.asarray(run.obsm[name])
        assert np.isfinite(loadings).all()
        assert (loadings[[5, 17]] == 0).all()
    assert run.obs["tigon_cluster"].iloc[[5, 17]].tolist() == ["unassigned"] * 2
    assert (run.obs["tigon_cluster"] == "unassigned").sum() == 2


# Commands on runs


@pytest.mark.parametrize(
    "arguments", [("export", "{}", "a.h5ad"), ("report", "{}"), ("info", "{}")]
)
def test_a_run_that_is_not_there(arguments: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    line = refused(tmp_path, *(a.format(path) for a in arguments))
    assert str(path) in line


@pytest.mark.parametrize("name", ["export", "report"])
def test_an_atlas_in_place_of_a_run(name: str, good: Path, tmp_path: Path) -> None:
    atlas = tmp_path / "atlas.zarr"
    works("ingest", good, "--out", atlas)
    more = [tmp_path / "a.h5ad"] if name == "export" else []
    line = refused(tmp_path, name, atlas, *more)
    assert f"{atlas} is not a run of Tigon" in line


def test_usage_errors_exit_with_two(tmp_path: Path) -> None:
    for arguments in (["integrate", "a.h5ad"], ["ingest", "a", "--fast"], ["solve"]):
        result = tigon(*arguments)
        assert result.exit_code == 2
        assert "Traceback" not in result.stderr


def _keys(command: str, key: str, k: int = 3) -> tuple[Any, ...]:
    return ("--batch-key", key, "-k", str(k)) if command == "integrate" else ()


def _options(command: str) -> tuple[str, ...]:
    return SMALL if command == "integrate" else ()
