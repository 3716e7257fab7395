"""Columns of a table, each read when asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tigon.storage.encoding import key, quiet_codecs
from tigon.storage.errors import InputError
from tigon.storage.reading.client import open_client
from tigon.storage.reading.policy import RequestPolicy
from tigon.storage.sources.detect import is_url

if TYPE_CHECKING:
    from tigon.storage.atlas import Atlas


_TEXT_BYTES = 100
"""A text of some tens of letters as Python holds it."""


class Columns:
    """A table of which a column may be read without the others.

    ``columns["donor"]`` reads the column; ``list(columns)`` gives the names.

    Parameters
    ----------
    table
        Where the columns are.
    """

    def __init__(self, table: ColumnSource) -> None:
        self._table = table

    @cached_property
    def index(self) -> pd.Index[Any]:
        """Names of the rows; read once."""
        return self._table.index()

    def __getitem__(self, name: str) -> pd.Series[Any]:
        return pd.Series(self._table.values(self._stored(name)), index=self.index, name=name)

    def values(self, name: str) -> Any:
        """A column without the names of the rows, which may take far more memory than it."""
        return self._table.values(self._stored(name))

    def n_categories(self, name: str) -> int | None:
        """How many categories a column has, without reading it; None for one without any."""
        return self._table.n_categories(self._stored(name))

    def index_pieces(self) -> Iterator[pd.Index[Any]]:
        """Names of the rows, a stretch after the other, where they are not in memory anyway."""
        yield from self._table.index_pieces()

    @property
    def held_bytes(self) -> int:
        """What the table takes in memory as long as the atlas is open."""
        return self._table.held_bytes()

    @property
    def row_bytes(self) -> int:
        """What a row of all columns takes when they are read, the names of rows aside."""
        return self._table.row_bytes()

    def __iter__(self) -> Iterator[str]:
        return iter(self._table.names())

    def __len__(self) -> int:
        return len(self._table.names())

    def __contains__(self, name: object) -> bool:
        return name in self._table.names()

    def rows(self, positions: NDArray[Any]) -> pd.DataFrame:
        """Some rows of all columns, with the categories that are in them.

        Notes
        -----
        One pass over the table; one whole column is in memory at a time.
        """
        taken = {}
        for name in self:
            column = pd.Series(self._table.values(name)).iloc[positions]
            is_categorical = isinstance(column.dtype, pd.CategoricalDtype)
            taken[name] = (
                column.cat.remove_unused_categories() if is_categorical else column
            ).array
        return pd.DataFrame(taken, index=self.index[positions], columns=pd.Index(list(self)))

    def _stored(self, name: str) -> str:
        names = self._table.names()
        for each in (name, key(name)):
            if each in names:
                return each
        raise InputError(f"there is no column {name!r}: the columns are {', '.join(names)}")


class ColumnSource(Protocol):
    """Where columns come from."""

    def names(self) -> list[str]:
        """Names of the columns, in order."""
        ...

    def index(self) -> pd.Index[Any]:
        """Names of the rows."""
        ...

    def index_pieces(self) -> Iterator[pd.Index[Any]]:
        """Names of the rows, a stretch after the other."""
        ...

    def values(self, name: str) -> Any:
        """A column, as an array that pandas takes."""
        ...

    def n_categories(self, name: str) -> int | None:
        """Categories of a column; None where it has none."""
        ...

    def held_bytes(self) -> int:
        """Bytes in memory for good."""
        ...

    def row_bytes(self) -> int:
        """Bytes of a row of all columns that are read."""
        ...


class FrameColumns:
    """Columns of a table that is in memory, or is loaded as a whole."""

    def __init__(self, load: Callable[[], pd.DataFrame]) -> None:
        self._load = load

    def names(self) -> list[str]:
        """Names of the columns, in order."""
        return [str(name) for name in self._load().columns]

    def index(self) -> pd.Index[Any]:
        """Names of the rows."""
        index: pd.Index[Any] = self._load().index
        return index

    def index_pieces(self) -> Iterator[pd.Index[Any]]:
        """Names of the rows, all at once: they are in memory."""
        yield self.index()

    def values(self, name: str) -> Any:
        """A column."""
        return self._load()[name].array

    def n_categories(self, name: str) -> int | None:
        """Categories of a column; None where it has none."""
        kind = self._load().dtypes.iloc[self.names().index(name)]
        return len(kind.categories) if isinstance(kind, pd.CategoricalDtype) else None

    def held_bytes(self) -> int:
        """All of the table."""
        return int(self._load().memory_usage(deep=True).sum())

    def row_bytes(self) -> int:
        """Nothing: columns are those of the table."""
        return 0


class StoredColumns:
    """Columns of a table in AnnData's encoding; reads the one that is asked for.

    Parameters
    ----------
    open_group
        Opens the group of the table.
    where
        The file, for messages.
    """

    def __init__(self, open_group: Callable[[], Any], where: str) -> None:
        self._open_group, self._where = open_group, where

    @cached_property
    def _group(self) -> Any:
        return self._open_group()

    def names(self) -> list[str]:
        """Names of the columns, in order."""
        return [str(name) for name in self._group.attrs["column-order"]]

    def index(self) -> pd.Index[Any]:
        """Names of the rows."""
        index: pd.Index[Any] = pd.Index(self.values(self._group.attrs["_index"]))
        return index

    def index_pieces(self) -> Iterator[pd.Index[Any]]:
        """Names of the rows, by the chunks in which they are stored."""
        name = self._group.attrs["_index"]
        stored = self._group[name]
        for start in range(0, stored.shape[0], stored.chunks[0]):
            with self._telling(name):
                piece = np.asarray(stored[start : start + stored.chunks[0]], object)
            yield pd.Index(piece, dtype=object)

    def values(self, name: str) -> Any:
        """A column."""
        with self._telling(name):
            return _read(self._group[name])

    def n_categories(self, name: str) -> int | None:
        """Categories of a column; None where it has none."""
        with self._telling(name):
            node = self._group[name]
            if node.attrs.get("encoding-type") != "categorical":
                return None
            return int(node["categories"].shape[0])

    def held_bytes(self) -> int:
        """Nothing."""
        return 0

    def row_bytes(self) -> int:
        """From the types of the arrays; what they are is not read."""
        return sum(_entry_bytes(self._group[name]) for name in self.names())

    @contextmanager
    def _telling(self, name: str) -> Iterator[None]:
        """Say which column could not be read."""
        try:
            yield
        except Exception as error:  # whatever the codecs of the column raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"{self._where}: the column {name} cannot be read ({reason}): the file is damaged "
                "or cut short; copy or download it again"
            ) from error


def _read(node: Any) -> Any:
    """A column as anndata reads it, whose import takes 35 MiB: only for rarer kinds."""
    kind = node.attrs.get("encoding-type")
    if kind == "categorical":
        codes, categories = node["codes"][:], pd.Index(_read(node["categories"]))
        ordered = bool(node.attrs["ordered"])
        return pd.Categorical.from_codes(codes, categories, ordered=ordered)
    if kind == "string-array":
        return np.asarray(node[:], object)
    if kind == "array":
        return node[:]
    from anndata.io import read_elem

    return read_elem(node)


def _entry_bytes(node: Any) -> int:
    """What an entry of a stored column takes in memory."""
    if node.attrs.get("encoding-type") == "string-array":
        return _TEXT_BYTES
    if hasattr(node, "dtype"):
        return int(node.dtype.itemsize)
    if "codes" in node:
        return _entry_bytes(node["codes"])
    return sum(_entry_bytes(array) for _, array in node.arrays())  # values and their mask


def columns_of(atlas: Atlas, table: str) -> Columns:
    """The columns of ``obs`` or ``var``.

    Notes
    -----
    Those of an atlas that Tigon wrote are read one by one; other sources are opened
    with their tables, which are then in memory.
    """
    path = atlas.path
    if path is None or atlas.n_nonzeros is None:
        return Columns(FrameColumns(lambda: getattr(atlas, table)))
    return Columns(StoredColumns(lambda: _open_group(path)[table], f"{path}, {table}"))


@quiet_codecs()  # consolidated metadata name those of the counts too
def _open_group(path: str) -> Any:
    import zarr

    if not is_url(path):
        return zarr.open_group(str(Path(path).expanduser()), mode="r")
    from zarr.storage import ObjectStore

    store = ObjectStore(open_client(path, RequestPolicy()), read_only=True)
    return zarr.open_group(store, mode="r")
