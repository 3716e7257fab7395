"""A run on disk, opened without reading its matrices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from tigon.storage.encoding import key
from tigon.storage.errors import InputError
from tigon.storage.runs import components, factors
from tigon.storage.runs.components import Components
from tigon.storage.runs.statistics import GROUP
from tigon.storage.runs.write import FORMAT_VERSION

if TYPE_CHECKING:
    import pandas as pd
    import xarray
    import zarr
    from anndata import AnnData


_NOT_BY_GENE = frozenset({"dataset", "gene", "factor", "factor_b", "A", "B", "n_cells", "lam"})
"""What lies among the statistics besides."""

MARKS = (factors.MARK, components.MARK)
"""Under ``uns/tigon``: what a finished run has one of, by what was made of its cells."""


@dataclass(frozen=True, slots=True)
class StoredRows:
    """A matrix of a run; rows are read when asked for, ``np.asarray`` reads all."""

    array: zarr.Array[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the matrix."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of its values."""
        return np.dtype(self.array.dtype)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows ``start`` to ``stop``."""
        return cast("NDArray[Any]", self.array[start:stop])

    def __array__(
        self,
        dtype: np.dtype[Any] | None = None,
        copy: bool | None = None,  # noqa: FBT001 (the protocol of NumPy)
    ) -> NDArray[Any]:
        return self.read(0, self.shape[0]).astype(dtype or self.dtype, copy=False)


@dataclass(frozen=True)
class Run:
    """The result of an integration, or of principal components.

    Attributes
    ----------
    path
        Where the run is.
    group
        Its Zarr group, read-only.

    Notes
    -----
    Of an integration ``W`` is (k x m) and ``V`` a dict of (k x m) by dataset, for ``k`` factors
    and ``m`` genes; ``A``, ``B`` and ``n_cells`` are the statistics by dataset.
    ``obsm("X_inmf")`` are loadings; the rows of ``obsm("X_inmf_aligned")`` are the
    roots of a cell's shares of the aligned factors: squares sum to 1, and
    Euclidean distances compare cells. A run of principal components has ``components``
    instead, and ``obsm("X_pca")``.
    Opening reads the metadata only; everything else is read when first used.
    """

    path: Path
    group: zarr.Group

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Open the run at ``path``.

        Raises
        ------
        InputError
            There is no finished run at ``path``, or a newer Tigon wrote it.
        """
        path = Path(path)
        run = cls(path=path, group=_open_group(path))
        version = int(run._figure("format_version"))
        if version > FORMAT_VERSION:
            raise InputError(
                f"{path} is a run of format {version}: this Tigon reads up to {FORMAT_VERSION}; "
                "update Tigon"
            )
        return run

    @cached_property
    def obs(self) -> pd.DataFrame:
        """The table of cells."""
        return cast("pd.DataFrame", self._element("obs"))

    @cached_property
    def var(self) -> pd.DataFrame:
        """The table of selected genes."""
        return cast("pd.DataFrame", self._element("var"))

    @cached_property
    def datasets(self) -> tuple[str, ...]:
        """Names of the datasets, in the order of the statistics."""
        return tuple(str(name) for name in self._array(f"{GROUP}/dataset"))

    @cached_property
    def genes(self) -> tuple[str, ...]:
        """Names of the selected genes."""
        return tuple(str(name) for name in self._array(f"{GROUP}/gene"))

    @property
    def has_factors(self) -> bool:
        """Whether it is of an integration, and not of principal components."""
        return f"uns/tigon/{factors.MARK}" in self.group

    def need_factors(self, what: str) -> None:
        """Refuse a run that has none.

        Parameters
        ----------
        what
            What needs them, for the message.

        Raises
        ------
        InputError
            It is of principal components.
        """
        if not self.has_factors:
            raise InputError(
                f"{self.path} is a run of principal components: {what} needs the factors of a run "
                "of `tigon integrate`; make one of the same counts"
            )

    @cached_property
    def components(self) -> Components:
        """Principal components, with what is proven of them.

        Raises
        ------
        InputError
            It is a run of an integration.
        """
        if self.has_factors:
            raise InputError(
                f"{self.path} is a run of an integration: it has factors and no principal "
                "components; `tigon pca` makes a run of these"
            )
        return Components.read(self.group)

    @cached_property
    def W(self) -> NDArray[np.float32]:
        """Shared metagenes, float32, (k, m)."""
        self.need_factors("W")
        return np.ascontiguousarray(self._array("varm/W").T)

    @cached_property
    def V(self) -> dict[str, NDArray[np.float32]]:
        """Dataset-specific metagenes, float32, (k, m) each."""
        self.need_factors("V")
        return {
            name: np.ascontiguousarray(self._array(f"varm/V_{key(name)}").T)
            for name in self.datasets
        }

    @property
    def A(self) -> NDArray[np.float64]:
        """Sums of H^T H, float64, (n_datasets, k, k)."""
        self.need_factors("A")
        return self._array(f"{GROUP}/A")

    @property
    def B(self) -> NDArray[np.float64]:
        """Sums of X^T H, float64, (n_datasets, m, k)."""
        self.need_factors("B")
        return self._array(f"{GROUP}/B")

    @property
    def n_cells(self) -> NDArray[np.int64]:
        """Cells of every dataset, (n_datasets,)."""
        return self._array(f"{GROUP}/n_cells").astype(np.int64)

    @property
    def lam(self) -> NDArray[np.float64] | None:
        """Lambda of every dataset, (n_datasets,); None in runs that do not say it."""
        return self._array(f"{GROUP}/lam") if f"{GROUP}/lam" in self.group else None

    def per_gene(self, name: str) -> NDArray[Any]:
        """A matrix (n_datasets, m) kept beside the statistics."""
        return self._array(f"{GROUP}/{name}")

    @property
    def per_gene_names(self) -> tuple[str, ...]:
        """Names of these matrices."""
        group = cast("zarr.Group", self.group[GROUP])
        return tuple(sorted(set(group.array_keys()) - _NOT_BY_GENE))

    @property
    def obsm_names(self) -> tuple[str, ...]:
        """Names of the matrices that have a row per cell."""
        return tuple(sorted(cast("zarr.Group", self.group["obsm"]).array_keys()))

    def obsm(self, name: str) -> StoredRows:
        """The matrix ``name`` of cells, streamed.

        Raises
        ------
        InputError
            The run has no such matrix.
        """
        if key(name) not in self.obsm_names:
            way_out = "; `tigon pca` makes a run that has it" if name == components.SCORES else ""
            raise InputError(
                f"the run {self.path} has no matrix {name!r}: it has "
                f"{', '.join(self.obsm_names)}{way_out}"
            )
        return StoredRows(cast("zarr.Array[Any]", self.group[f"obsm/{key(name)}"]))

    @property
    def loadings(self) -> StoredRows:
        """Loadings H of every cell, (n, k), streamed."""
        return self.obsm("X_inmf")

    @property
    def objective(self) -> float:
        """The objective F at W, V and H."""
        self.need_factors("F")
        return float(self._figure("objective"))

    @property
    def config(self) -> dict[str, Any]:
        """The configuration of the run."""
        return cast("dict[str, Any]", _plain(self._element("uns/tigon/config")))

    @property
    def versions(self) -> dict[str, str]:
        """Version by package."""
        return cast("dict[str, str]", _plain(self._element("uns/tigon/versions")))

    @property
    def history(self) -> dict[str, NDArray[Any]]:
        """Columns by step: step, epoch, n_seen, loss, ..."""
        return dict(self._element("uns/tigon/history"))

    @property
    def timings_s(self) -> dict[str, float]:
        """Seconds by stage."""
        return cast("dict[str, float]", _plain(self._element("uns/tigon/timings_s")))

    @property
    def scores(self) -> dict[str, float]:
        """Scores by name; empty when no labels were given."""
        return cast("dict[str, float]", _plain(self._element("uns/tigon/scores")))

    @property
    def consensus(self) -> dict[str, Any]:
        """What is known of several starts; empty where there was one.

        Lists by name: ``stability`` of each factor, the mean cosine of two starts' versions
        of it; ``n_outliers`` of each, the starts whose version was left out; ``objectives`` of the
        starts; ``best_start``, the one that is the result, -1 where the consensus is. All of
        these are of the first fit; where it was updated since, ``n_updates`` says how often.
        """
        if "uns/tigon/consensus" not in self.group:
            return {}
        return cast("dict[str, Any]", _plain(self._element("uns/tigon/consensus")))

    @property
    def notices(self) -> list[str]:
        """What the user was told on the way."""
        return [str(notice) for notice in self._array("uns/tigon/notices")]

    @property
    def command(self) -> str:
        """The command line or call that made the run."""
        return str(self._element("uns/tigon/command"))

    @property
    def peak_memory_bytes(self) -> int:
        """Peak memory of the process tree."""
        return int(self._figure("peak_memory_bytes"))

    @property
    def memory_limit_bytes(self) -> int | None:
        """The memory limit asked for, None where there was none."""
        if "uns/tigon/memory_limit_bytes" not in self.group:
            return None
        return int(self._figure("memory_limit_bytes"))

    def to_anndata(self) -> AnnData:
        """The whole run in memory, without counts."""
        import anndata

        return anndata.read_zarr(self.path)

    def to_xarray(self) -> xarray.Dataset:
        """Matrices, statistics and tables under the names of cells, genes and datasets.

        Returns
        -------
        xarray.Dataset
            ``W`` (factor, gene), ``V`` (dataset, factor, gene), or ``PCs`` (component, gene) with
            ``singular_values``, the loadings ``H`` and
            ``H_aligned`` (cell, factor; of the factors that were not dropped, if some
            were: cell, kept_factor), other matrices of cells under their own names,
            the statistics ``A``, ``B``, ``n_cells`` and those by gene, and ``objective``, as
            far as the run has them.
            Columns of ``obs`` and ``var`` are coordinates, as ``obs_tigon_cluster``.

        Raises
        ------
        InputError
            xarray is not installed.

        Notes
        -----
        Where Dask is installed only names are read, and all else when it is computed,
        by shards of about 16 MiB; without Dask everything is read now.
        """
        from tigon.storage.views.labelled import to_xarray

        return to_xarray(self)

    def __repr__(self) -> str:
        matrix, of = ("X_inmf", "factor") if self.has_factors else (components.SCORES, "component")
        cells, k = self.obsm(matrix).shape
        found = (
            f"objective {self.objective:.6g}"
            if self.has_factors
            else f"{self.components.variance_ratio.sum():.1%} of the variance"
        )
        return "\n".join(
            [
                f"Run {self.path}",
                f"    {_counted(cells, 'cell')}, {_counted(len(self.genes), 'gene')}, "
                f"{_counted(len(self.datasets), 'dataset')}, {_counted(k, of)}",
                f"    {found}",
                f"    obsm: {', '.join(self.obsm_names)}",
            ]
        )

    def _array(self, name: str) -> NDArray[Any]:
        return cast("NDArray[Any]", cast("zarr.Array[Any]", self.group[name])[...])

    def _figure(self, name: str) -> float:
        return cast("float", self._array(f"uns/tigon/{name}").item())

    def _element(self, name: str) -> Any:
        from anndata.io import read_elem

        return read_elem(self.group[name])


def _open_group(path: Path) -> zarr.Group:
    import zarr

    if not path.exists():
        raise InputError(f"there is no run at {path}: check the path")
    try:
        group = zarr.open_group(str(path), mode="r", use_consolidated=True)
        finished = any(f"uns/tigon/{mark}" in group for mark in MARKS)
    except (FileNotFoundError, ValueError) as error:
        raise InputError(
            f"{path} is not a finished run: open the folder that `tigon integrate` or `tigon pca` "
            "wrote"
        ) from error
    if not finished:
        raise InputError(
            f"{path} is not a run of Tigon (no uns/tigon/{' or '.join(MARKS)}): open the folder "
            "that `tigon integrate` or `tigon pca` wrote"
        )
    return group


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


def _plain(value: Any) -> Any:
    """Stored values as plain Python ones."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.item() if isinstance(value, np.generic) else value
