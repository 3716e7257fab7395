"""Tables of cells and genes: stacking those of several sources, and storing them.

Stacking keeps every column; where a source lacks one its cells are missing
(NA) there. Storing needs types that AnnData writes, so that text with gaps
becomes categorical and anything odd becomes text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def stack(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Rows of all tables, with the union of their columns; one table stays as it is.

    Columns that differ in type take the narrowest type that holds all of them:
    whole numbers, numbers, or else text.
    """
    if len(tables) == 1:
        return tables[0].copy()
    index = np.concatenate([table.index.to_numpy(object) for table in tables])
    columns = dict.fromkeys(column for table in tables for column in table.columns)
    sizes = [len(table) for table in tables]
    stacked = {
        column: _stack_column([table.get(column) for table in tables], sizes) for column in columns
    }
    return pd.DataFrame(stacked, index=pd.Index(index, dtype=object))


def storable(table: pd.DataFrame) -> pd.DataFrame:
    """The table in types that AnnData writes and reads back the same."""
    columns = {str(name): storable_column(column) for name, column in table.items()}
    return pd.DataFrame(columns, index=text_index(table.index))


def text_index(values: pd.Index[Any] | pd.Series[Any]) -> pd.Index[Any]:
    """Names as an index of plain strings, without a name of its own."""
    names: pd.Index[Any] = pd.Index(values.to_numpy(object), dtype=object)
    if names.inferred_type == "string":
        return names
    return pd.Index([str(name) for name in names], dtype=object)


def _stack_column(pieces: Sequence[pd.Series[Any] | None], sizes: Sequence[int]) -> Any:
    present = [piece for piece in pieces if piece is not None]
    dtype = _common_type(present)
    if dtype == "string":
        return _stack_text(pieces, sizes)
    parts = [
        _missing(size, dtype) if piece is None else piece.astype(cast("Any", dtype))
        for piece, size in zip(pieces, sizes, strict=True)
    ]
    joined = pd.concat(parts, ignore_index=True)
    return joined.array if joined.isna().any() else joined.to_numpy(_PLAIN[dtype])


_PLAIN: dict[str, type[np.generic]] = {
    "boolean": np.bool_,
    "Int64": np.int64,
    "Float64": np.float64,
}


def _missing(size: int, dtype: str) -> pd.Series[Any]:
    missing: pd.Series[Any] = pd.Series(pd.NA, index=range(size), dtype=cast("Any", dtype))
    return missing


def _stack_text(
    pieces: Sequence[pd.Series[Any] | None], sizes: Sequence[int]
) -> pd.Categorical[Any]:
    """Text as one categorical, its categories in the order in which the pieces bring them."""
    places: dict[str, int] = {}
    codes = [
        np.full(size, -1) if piece is None else _codes(piece, places)
        for piece, size in zip(pieces, sizes, strict=True)
    ]
    categories = pd.Index(list(places), dtype=object)
    return pd.Categorical.from_codes(np.concatenate(codes), categories=categories)


def _codes(piece: pd.Series[Any], places: dict[str, int]) -> NDArray[np.int64]:
    """Places of the values of a piece, -1 where missing; new values are added to ``places``."""
    is_categorical = isinstance(piece.dtype, pd.CategoricalDtype)
    part = pd.Categorical(piece if is_categorical else _text(piece))
    targets = [places.setdefault(str(value), len(places)) for value in part.categories]
    # The last place is what the code -1 of a missing value finds.
    lookup: NDArray[np.int64] = np.array([*targets, -1], dtype=np.int64)
    return lookup[part.codes.astype(np.int64)]


def _common_type(pieces: Sequence[pd.Series[Any]]) -> str:
    if all(pd.api.types.is_bool_dtype(piece.dtype) for piece in pieces):
        return "boolean"
    if all(_fits_int64(piece.dtype) for piece in pieces):
        return "Int64"
    if all(_is_number(piece) for piece in pieces):
        return "Float64"
    return "string"


def _fits_int64(dtype: Any) -> bool:
    is_integer: bool = pd.api.types.is_integer_dtype(dtype)
    return is_integer and str(dtype).lower() != "uint64"


def _is_number(piece: pd.Series[Any]) -> bool:
    dtype = piece.dtype
    return pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_bool_dtype(dtype)


def _text(column: pd.Series[Any]) -> list[str | None]:
    """Values as text, with None for what is missing."""
    missing = column.isna().to_numpy()
    return [
        None if gap else str(value)
        for value, gap in zip(column.to_numpy(object), missing, strict=True)
    ]


def storable_column(column: pd.Series[Any]) -> Any:
    """The values of a column in a type that AnnData writes and reads back the same."""
    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        if dtype.categories.inferred_type in ("string", "integer", "boolean", "empty", "floating"):
            return column.array
        return pd.Categorical(_text(column))
    if pd.api.types.is_bool_dtype(dtype) or pd.api.types.is_numeric_dtype(dtype):
        if pd.api.types.is_float_dtype(dtype) and not isinstance(dtype, np.dtype):
            # AnnData has no nullable floats; their gaps are NaN.
            return column.to_numpy(np.float64, na_value=np.nan)
        return column.array
    text = _text(column)
    repeats = len(set(text)) < len(text)
    return pd.Categorical(text) if repeats or None in text else np.array(text, dtype=object)
