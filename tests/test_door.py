"""The commands as a user meets them: help, results, notices, and the ways they end."""

from __future__ import annotations

import errno
import io
import json
import logging
import re
import signal
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pytest
from atlases import planted
from builders import make_adata, write_h5ad
from command_line import TIGON, tigon, works
from rich.console import Console
from run_builder import build_contents
from scipy import sparse
from typer import Exit

from tigon.command.showing.failing import explained
from tigon.command.showing.session import session
from tigon.storage import open_atlas
from tigon.storage.errors import InputError
from tigon.storage.runs.write import write_run

COMMANDS = ["ingest", "info", "integrate", "export", "report"]


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 cells of three programs in two batches."""
    return write_h5ad(planted(n=300, m=60, k=3).adata, tmp_path_factory.mktemp("counts") / "a.h5ad")


# What it says about itself


def test_the_version() -> None:
    assert re.fullmatch(r"tigon \d+\.\d+\.\d+\n", works("--version").stdout)


def test_help_names_every_command_and_shows_how_to_begin() -> None:
    text = works("--help").stdout
    for part in (*COMMANDS, "--out atlas.zarr", "--install-completion"):
        assert part in text


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_shows_an_example(name: str) -> None:
    text = works(name, "--help").stdout
    assert f"Example: tigon {name} " in text
    assert "--json" in text
    # A command without arguments teaches instead of complaining about one of them.
    assert f"Example: tigon {name} " in tigon(name).output


@pytest.mark.parametrize("name", ["embed", "cluster", "export", "report"])
def test_what_takes_any_run_says_so(name: str) -> None:
    text = " ".join(works(name, "--help").stdout.replace("│", " ").split())
    assert "A run of tigon integrate or tigon pca." in text


def test_the_help_of_integrate_groups_options_and_shows_defaults() -> None:
    text = " ".join(works("integrate", "--help").stdout.replace("│", " ").split())
    panels = ["Input", "Cells and genes", "Factorisation", "Output", "Machine"]
    places = [text.index(f"─ {panel} ─") for panel in panels]
    assert places == sorted(places)
    for default in ("20", "5.0", "auto", "5000", "(2000)", "2GiB", "inner", "(all processors)"):
        assert f"[default: {default}]" in text


def test_completion_knows_the_commands() -> None:
    environment = {"_TIGON_COMPLETE": "complete_bash", "COMP_WORDS": "tigon in", "COMP_CWORD": "1"}
    result = subprocess.run(TIGON, env=environment, capture_output=True, text=True, check=False)
    assert result.stdout.split() == ["ingest", "info", "integrate"]


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; import tigon.command.app;"
        "print({'numpy', 'pandas', 'anndata', 'zarr', 'h5py', 'numba', 'scipy'} & {*sys.modules})"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert printed.stdout == b"set()\n"


# Ingest and info


def test_ingest_and_info_tell_the_same(counts: Path, tmp_path: Path) -> None:
    out = tmp_path / "atlas.zarr"
    written = json.loads(works("ingest", counts, "--out", out, "--json").stdout)
    assert written == json.loads(works("info", out, "--json").stdout)
    adata = anndata.read_h5ad(counts)
    assert written["kind"] == "atlas"
    told = works("info", out).stdout
    assert told.startswith("atlas ")
    with open_atlas(out) as atlas:
        assert written["digest"] == atlas.digest
    assert f" {written['digest']}\n" in told
    assert (written["n_cells"], written["n_genes"]) == adata.shape
    assert written["n_nonzeros"] == np.count_nonzero(adata.X.toarray())
    assert written["n_bytes"] == sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    assert written["datasets"] == {"a": 300}
    assert written["obs"]["batch"]["values"] == adata.obs["batch"].value_counts().to_dict()


def test_info_tells_a_file_from_an_atlas(counts: Path) -> None:
    assert json.loads(works("info", counts, "--json").stdout)["kind"] == "file"
    text = works("info", counts).stdout
    assert text.startswith("file ")
    assert re.search(r"^  tigon_dataset +a 300 \(added by Tigon\)$", text, re.MULTILINE)


def test_info_of_a_file_reads_no_counts(tmp_path: Path) -> None:
    adata = make_adata(sparse.csr_matrix(np.full((3, 2), np.nan, np.float32)))
    path = write_h5ad(adata, tmp_path / "a.h5ad")
    facts = json.loads(works("info", path, "--json").stdout)
    assert (facts["n_cells"], facts["n_genes"], facts["n_nonzeros"]) == (3, 2, None)


def test_info_sums_up_columns(tmp_path: Path) -> None:
    path = write_h5ad(make_adata(), tmp_path / "a.h5ad")
    text = works("info", path).stdout
    assert re.search(r"^cells +60$", text, re.MULTILINE)
    assert re.search(r"^  batch +b0 20, b1 20, b2 20$", text, re.MULTILINE)
    assert re.search(r"^  n +0 to 59$", text, re.MULTILINE)


def test_several_sources_become_one_atlas(tmp_path: Path) -> None:
    paths = [
        write_h5ad(make_adata(prefix=name, seed=seed), tmp_path / f"{name}.h5ad")
        for seed, name in enumerate(["ctrl", "stim"])
    ]
    facts = json.loads(works("ingest", *paths, "--out", tmp_path / "a.zarr", "--json").stdout)
    assert facts["datasets"] == {"ctrl": 60, "stim": 60}


# Runs


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run.zarr", build_contents(n_cells=300, n_unassigned=3))


def test_info_of_a_run(run: Path) -> None:
    facts = json.loads(works("info", run, "--json").stdout)
    contents = build_contents(n_cells=300, n_unassigned=3)
    assert facts["kind"] == "run"
    assert (facts["n_cells"], facts["n_genes"], facts["n_components"]) == (300, 60, 8)
    assert facts["objective"] == contents.model.objective
    assert facts["scores"] == contents.scores
    assert facts["clusters"]["unassigned"] == 3
    assert facts["config"]["solver"]["lam"] == 5.0
    text = works("info", run).stdout
    for part in ("8 (3 cells unassigned)", "ARI 0.853", "1.2 GiB of 2.0 GiB", "solver.lam"):
        assert part in text


def test_export_without_counts(run: Path, tmp_path: Path) -> None:
    result = works("export", run, tmp_path / "run.h5ad")
    assert "--atlas" in result.stdout
    adata = anndata.read_h5ad(tmp_path / "run.h5ad")
    assert adata.X is None
    assert adata.obsm["X_inmf"].shape == (300, 8)


def test_export_with_counts_of_the_cells_and_genes_of_the_run(tmp_path: Path) -> None:
    contents = build_contents(n_cells=300)
    atlas = planted(n=400, m=80, k=3).adata
    # The run has some of the atlas's cells, and of its genes, in the atlas's order.
    kept = np.sort(np.random.default_rng(0).permutation(400)[:300])
    names = atlas.obs_names.to_numpy(object).copy()
    names[kept] = contents.obs.index
    atlas.obs_names = [name if i in set(kept) else f"left{i}" for i, name in enumerate(names)]
    atlas.var_names = [f"other{j}" for j in range(20)] + list(contents.var.index)
    source = write_h5ad(atlas, tmp_path / "atlas.h5ad")
    run = write_run(tmp_path / "run.zarr", contents)
    works("export", run, tmp_path / "run.h5ad", "--atlas", source)
    exported = anndata.read_h5ad(tmp_path / "run.h5ad")
    assert exported.X.dtype == np.float32
    np.testing.assert_array_equal(exported.X.toarray(), atlas.X[kept][:, 20:].toarray())


def test_a_report_made_anew(run: Path, tmp_path: Path) -> None:
    page = json.loads(works("report", run, "--json").stdout)["path"]
    assert page == str(tmp_path / "run.html")
    assert tigon("report", run).exit_code == 2
    works("report", run, "--overwrite", "--quiet")
    works("report", run, "--out", tmp_path / "other.html", "--label-key", "tigon_dataset")
    assert "<svg" in (tmp_path / "other.html").read_text()


# Saying too much, too little, or the wrong thing


def test_quiet_says_nothing(counts: Path, tmp_path: Path) -> None:
    result = works("ingest", counts, "--out", tmp_path / "a.zarr", "--quiet")
    assert result.stdout == result.stderr == ""


def test_stdout_holds_the_json_alone(counts: Path, tmp_path: Path) -> None:
    result = works("ingest", counts, "--out", tmp_path / "a.zarr", "--json")
    assert len(result.stdout.splitlines()) == 1
    assert re.fullmatch(r"writing cells: 300 cells, \d+\.\d s\n", result.stderr)


def test_a_notice_is_shown_once_and_details_when_verbose(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = logging.getLogger("tigon")
    for verbose in (False, True):
        with session(quiet=False, as_json=False, verbose=verbose):
            log.warning("odd [cells]: %d", 3)
            log.warning("odd [cells]: %d", 3)
            log.info("a detail")
        said = capsys.readouterr().err
        assert said.count("odd [cells]: 3") == 1
        assert ("a detail" in said) == verbose
    assert not log.handlers


def test_numbers_that_json_lacks_become_null(capsys: pytest.CaptureFixture[str]) -> None:
    with session(quiet=False, as_json=True, verbose=False) as shown:
        shown.answer({"a": float("nan"), "b": [np.float32(1.5), np.int64(2)]}, "")
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [1.5, 2]}


def ending(error: BaseException, *, verbose: bool = False) -> tuple[int, str]:
    """Exit code and words of a command in which ``error`` was raised."""
    console = Console(file=io.StringIO(), width=40)
    with pytest.raises(Exit) as caught, explained(console, verbose=verbose):
        raise error
    return caught.value.exit_code, console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (InputError("bad [b]file[/b] (x.h5ad): the\nlimit"), 2, "error: bad [b]file[/b] (x.h5ad)"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 2, "error: /x: permission"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "make room, or choose another disk"),
        (MemoryError(), 2, "a smaller --memory-limit"),
        (KeyboardInterrupt(), 130, "interrupted; nothing was written"),
        (ValueError("of shapes"), 1, "unexpected error: ValueError of shapes. This is a fault"),
    ],
)
def test_how_a_command_ends(error: BaseException, code: int, words: str) -> None:
    exit_code, said = ending(error)
    assert exit_code == code
    assert words in said
    assert len(said.splitlines()) == 1


def swallow_an_interrupt() -> None:
    """As NumPy does when it is interrupted while it opens a file."""
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        raise TypeError("not a file") from None


def test_an_interrupt_that_a_library_swallows_is_one_all_the_same() -> None:
    console = Console(file=io.StringIO(), width=40)
    with pytest.raises(Exit) as caught, explained(console, verbose=False):
        swallow_an_interrupt()
    assert caught.value.exit_code == 130
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_traceback_of_a_fault_is_shown_on_request() -> None:
    assert "Traceback" not in ending(ValueError("of shapes"))[1]
    assert "Traceback" in ending(ValueError("of shapes"), verbose=True)[1]


def test_the_reader_of_a_pipe_may_leave(counts: Path) -> None:
    command = f"{' '.join(map(shell_word, [*TIGON, 'info', str(counts)]))} | true"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert "Traceback" not in result.stderr


def shell_word(word: str) -> str:
    return f"'{word}'"
