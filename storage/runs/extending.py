"""A run with more in it: made beside the run of what it holds and what is added, then published.

Files of the run are linked into the new one, not copied, where it takes the run's place:
what is written is what was added. Metadata, which Zarr may rewrite in place, are copied, and
files of what is replaced are left out, so that no byte of the old run changes: a reader who
has it open goes on reading all that was not replaced. As for any output
(``tigon.storage.publish``), a kill at any moment leaves the old run or the new one, whole.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tigon.storage.encoding import ANNDATA, DICT, key, quiet_writers
from tigon.storage.errors import InputError
from tigon.storage.publish import published
from tigon.storage.rows import RowReader
from tigon.storage.runs.columns import column_names
from tigon.storage.runs.run import Run
from tigon.storage.runs.write import storable_setting, write_matrices

if TYPE_CHECKING:
    import pandas as pd
    import zarr
    from numpy.typing import NDArray

_METADATA = "zarr.json"
_SETTINGS = "uns/tigon/config"
_SCORES = "uns/tigon/scores"


@dataclass(frozen=True, kw_only=True)
class Addition:
    """What a run is to have besides; what it has of the same name is replaced.

    Attributes
    ----------
    obsm
        Matrices of n rows by name.
    obs
        Columns of the table of cells, n values each.
    dropped
        Columns of the table of cells to leave out.
    settings
        Parts of the configuration, by part and name: ``{"layouts": {"X_umap": {...}}}``.
    scores
        Scores by name.
    """

    obsm: Mapping[str, RowReader | NDArray[Any]] = field(default_factory=dict)
    obs: Mapping[str, pd.Categorical[Any] | NDArray[Any]] = field(default_factory=dict)
    dropped: Sequence[str] = ()
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)


class Extension:
    """A run that is being extended.

    Parameters
    ----------
    run
        The run as it is.
    aside
        Where the extended one is written.
    link
        Whether it takes the place of the run.
    """

    def __init__(self, run: Run, aside: Path, *, link: bool) -> None:
        self.run = run
        self._aside, self._link = aside, link

    def write(self, addition: Addition) -> None:
        """Write the run and the addition; the marks by which a reader opens it come last."""
        import zarr

        with quiet_writers():
            self._carry(_replaced(addition))
            # Not the consolidated metadata: they are of the run as it was.
            root = zarr.open_group(str(self._aside), mode="r+", use_consolidated=False)
            write_matrices(cast("zarr.Group", root["obsm"]), addition.obsm)
            _write_columns(cast("zarr.Group", root["obs"]), self.run, addition)
            _write_settings(root, addition)
            _write_scores(root, self.run, addition)
            root.attrs.update({**self.run.group.attrs.asdict(), **ANNDATA})
            zarr.consolidate_metadata(str(self._aside))

    def _carry(self, replaced: frozenset[str]) -> None:
        """Put the files of the run in place, but for the groups and arrays of ``replaced``."""
        import zarr

        zarr.create_group(store=str(self._aside), zarr_format=3)
        source = self.run.path
        for folder, folders, files in os.walk(source, followlinks=True):
            inside = Path(folder).relative_to(source)
            there = self._aside / inside
            _make_folder(Path(folder), there)
            folders[:] = [name for name in folders if (inside / name).as_posix() not in replaced]
            for name in files:
                if (inside / name).as_posix() != _METADATA:
                    self._put(Path(folder, name), there / name)

    def _put(self, source: Path, target: Path) -> None:
        if self._link and source.name != _METADATA and not source.is_symlink():
            try:
                target.hardlink_to(source)
            except OSError:
                pass  # another device, or a file system without links: as any other
            else:
                return
        shutil.copy2(source, target)


@contextmanager
def extending(
    path: str | Path, out: str | Path | None = None, *, overwrite: bool = False
) -> Iterator[Extension]:
    """Open a run to add to it; what was written takes its place, or that of ``out``, at the end.

    Parameters
    ----------
    path
        The run.
    out
        The run to make instead, which shares no file with the first; None to extend the run
        itself.
    overwrite
        Replace an ``out`` that is there.

    Yields
    ------
    Extension
        Its ``write`` is to be called once. Meanwhile no other process can write there.

    Raises
    ------
    InputError
        There is no run, or ``out`` lies in it or is it.
    OutputExistsError
        ``out`` exists and ``overwrite`` is False, or another process is writing it.
    NoSpaceError
        The disk is full.
    """
    Run.open(path)  # said before a lock is made beside what is no run
    # The folder itself, where a link names it: the link stays what it is.
    path = Path(os.path.realpath(path))
    if out is None:
        with published(path, overwrite=True) as aside:
            # Opened once nobody else can write: somebody may have added to it a moment ago.
            yield Extension(Run.open(path), aside, link=True)
        return
    if Path(os.path.realpath(out)).is_relative_to(path):
        raise InputError(
            f"the output {out} is the run itself or lies in it: leave --out away to add to the "
            "run, or choose another name"
        )
    with published(out, overwrite=overwrite) as aside:
        yield Extension(Run.open(path), aside, link=False)


def _replaced(addition: Addition) -> frozenset[str]:
    """Groups and arrays of the run that the addition stands for."""
    return frozenset(
        [f"obsm/{key(name)}" for name in addition.obsm]
        + [f"obs/{key(name)}" for name in (*addition.obs, *addition.dropped)]
        + [
            f"{_SETTINGS}/{key(part)}/{key(name)}"
            for part, found in addition.settings.items()
            for name in found
        ]
        + ([_SCORES] if addition.scores else [])
    )


def _make_folder(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    # As private as it was.
    target.chmod(stat.S_IMODE(source.stat().st_mode) | stat.S_IRWXU)


def _write_columns(group: zarr.Group, run: Run, addition: Addition) -> None:
    from anndata.io import write_elem

    left_out = _keys(addition.dropped)
    kept = [name for name in column_names(run) if name not in left_out]
    for name, values in addition.obs.items():
        write_elem(group, key(name), values)
    new = [name for name in _keys(addition.obs) if name not in kept]
    group.attrs["column-order"] = [*kept, *new]


def _keys(names: Sequence[str] | Mapping[str, Any]) -> list[str]:
    return [key(name) for name in names]


def _write_settings(root: zarr.Group, addition: Addition) -> None:
    from anndata.io import write_elem

    config = cast("zarr.Group", root[_SETTINGS])
    for part, found in addition.settings.items():
        group = config.require_group(key(part))
        group.attrs.update(DICT)
        for name, values in found.items():
            write_elem(group, key(name), storable_setting(values))


def _write_scores(root: zarr.Group, run: Run, addition: Addition) -> None:
    from anndata.io import write_elem

    if addition.scores:
        write_elem(root, _SCORES, storable_setting({**run.scores, **addition.scores}))
