"""Several sources as one atlas: which genes, which cells, under which names."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tigon.storage.errors import InputError
from tigon.storage.layout import DATASET_COLUMN
from tigon.storage.sources.source import Labels, Source
from tigon.storage.tables import stack, text_index

Join = Literal["inner", "outer"]
_log = logging.getLogger("tigon")


@dataclass(frozen=True, slots=True)
class JoinedGenes:
    """The genes of an atlas, and where each source's columns go.

    Attributes
    ----------
    var
        Table of the genes, by name.
    maps
        Per source the gene of each matrix column, -1 for columns left out,
        int32, shape (n_columns,); None where columns are the genes.
    """

    var: pd.DataFrame
    maps: list[NDArray[np.int32] | None]


def join_genes(sources: Sequence[Source], join: Join, gene_id_column: str | None) -> JoinedGenes:
    """Match the genes of all sources.

    Parameters
    ----------
    sources
        At least one.
    join
        "inner" for the genes that all sources have, "outer" for those of any,
        in the order in which they first appear.
    gene_id_column
        Column of ``var`` that identifies genes; None for their names.

    Raises
    ------
    InputError
        A source names a gene twice, lacks the column, or none is shared.
    """
    tables = [source.load_var() for source in sources]
    keys = [
        _gene_keys(source, table, gene_id_column)
        for source, table in zip(sources, tables, strict=True)
    ]
    genes = keys[0]
    for other in keys[1:]:
        genes = genes[genes.isin(other)] if join == "inner" else genes.union(other, sort=False)
    if not len(genes):
        raise _nothing_shared(sources, keys)
    return JoinedGenes(
        var=_join_var(tables, keys, genes, by_id=gene_id_column is not None),
        maps=[_gene_map(source, key, genes) for source, key in zip(sources, keys, strict=True)],
    )


def _gene_keys(source: Source, table: pd.DataFrame, column: str | None) -> pd.Index[Any]:
    """What identifies each gene of a source, once each."""
    if column is None:
        keys, what = text_index(table.index), "names"
    else:
        if column not in table.columns:
            raise InputError(
                f"{source.where} has no gene column {column!r}: its columns are "
                f"{', '.join(map(str, table.columns)) or 'none'}"
            )
        if table[column].isna().any():
            raise InputError(
                f"{source.where}: {int(table[column].isna().sum()):,} genes have no {column}: "
                "every gene needs one; fill them in, or choose another --gene-id-column"
            )
        keys, what = text_index(table[column]), f"values of {column}"
    _check_unique(source, keys, what, table, column)
    return keys


def _check_unique(
    source: Source, keys: pd.Index[Any], what: str, table: pd.DataFrame, column: str | None
) -> None:
    repeated = keys[keys.duplicated()].unique()
    if not len(repeated):
        return
    shown = ", ".join(repeated[:5]) + (", ..." if len(repeated) > 5 else "")
    columns = [str(name) for name in table.columns if name != column and table[name].is_unique]
    choice = (
        f"--gene-id-column ({', '.join(columns)})" if columns else "adata.var_names_make_unique()"
    )
    raise InputError(
        f"{source.where}: {len(repeated):,} gene {what} appear more than once ({shown}): each gene "
        f"may appear once; tell them apart by {choice}"
    )


def _nothing_shared(sources: Sequence[Source], keys: Sequence[pd.Index[Any]]) -> InputError:
    shown = "; ".join(
        f"{source.where} has {key[0]}, ..."
        for source, key in zip(sources[:4], keys[:4], strict=True)
    )
    return InputError(
        f"no gene is in all {len(sources)} sources ({shown}): at least one must be; match them by "
        "another column with --gene-id-column, or keep all with --join outer"
    )


def _join_var(
    tables: Sequence[pd.DataFrame],
    keys: Sequence[pd.Index[Any]],
    genes: pd.Index[Any],
    *,
    by_id: bool,
) -> pd.DataFrame:
    """Each gene's row from the first source that has it, in the order of ``genes``."""
    known: pd.Index[Any] = pd.Index([], dtype=object)
    parts = []
    for table, key in zip(tables, keys, strict=True):
        new = key.isin(genes) & ~key.isin(known)
        if new.any():
            parts.append(table[new])
            known = known.append(key[new])
    var = stack(parts).iloc[known.get_indexer(genes)]
    var.index = text_index(var.index)
    if by_id and not var.index.is_unique:
        n_repeated = int(var.index.duplicated().sum())
        _log.warning("%s genes share a name with another: numbered to tell apart", n_repeated)
        var.index = numbered(var.index)
    return var


def _gene_map(
    source: Source, keys: pd.Index[Any], genes: pd.Index[Any]
) -> NDArray[np.int32] | None:
    targets = genes.get_indexer(keys).astype(np.int32)
    n_columns = source.matrix.shape[1]
    if source.columns is not None:
        gene_map = np.full(n_columns, -1, np.int32)
        gene_map[source.columns] = targets
    else:
        gene_map = targets
    same = len(genes) == n_columns and np.array_equal(gene_map, np.arange(n_columns))
    return None if same else gene_map


def join_labels(
    sources: Sequence[Source], maps: Sequence[NDArray[np.int32] | None], n_genes: int
) -> Labels:
    """Datasets of all sources, under unique names, over the genes of the atlas."""
    names = unique_names([name for source in sources for name in source.labels.names])
    counts = [len(source.labels.names) for source in sources]
    before = np.cumsum([0, *counts[:-1]])
    codes = [
        source.labels.codes + np.int32(offset)
        for source, offset in zip(sources, before, strict=True)
    ]
    measured = [
        _measured(source, gene_map, n_genes) for source, gene_map in zip(sources, maps, strict=True)
    ]
    return Labels(names=names, codes=np.concatenate(codes), measured=np.concatenate(measured))


def _measured(
    source: Source, gene_map: NDArray[np.int32] | None, n_genes: int
) -> NDArray[np.bool_]:
    if gene_map is None:
        return source.labels.measured
    targets = gene_map if source.columns is None else gene_map[source.columns]
    measured = np.zeros((len(source.labels.names), n_genes), np.bool_)
    measured[:, targets[targets >= 0]] = source.labels.measured[:, targets >= 0]
    return measured


def join_obs(sources: Sequence[Source], labels: Labels) -> pd.DataFrame:
    """The cells of all sources, under unique names, with the column ``tigon_dataset``."""
    tables = []
    for source in sources:
        table = source.load_obs()
        if DATASET_COLUMN in table.columns and source.n_nonzeros is None:
            _log.warning(
                "%s: its column %s is replaced by the name of the source; rename it to keep it",
                source.where,
                DATASET_COLUMN,
            )
        tables.append(table.drop(columns=DATASET_COLUMN, errors="ignore"))
    obs = stack(tables)
    obs.index = _cell_names(obs.index, labels)
    obs[DATASET_COLUMN] = pd.Categorical.from_codes(
        labels.codes, categories=pd.Index(labels.names, dtype=object)
    )
    return obs


def _cell_names(index: pd.Index[Any], labels: Labels) -> pd.Index[Any]:
    names = text_index(index)
    if names.is_unique:
        return names
    n_repeated = int(names.duplicated().sum())
    if len(labels.names) > 1:
        _log.warning(
            "%s cell names appear more than once: every name is followed by its source",
            f"{n_repeated:,}",
        )
        names = pd.Index(names + "-" + np.array(labels.names, dtype=object)[labels.codes])
    if not names.is_unique:
        n_repeated = int(names.duplicated().sum())
        _log.warning("%s cell names are repeated in one source: numbered", f"{n_repeated:,}")
    return numbered(names)


def numbered(names: pd.Index[Any]) -> pd.Index[Any]:
    """Names with "-1", "-2", ... after the second, third, ... of the same."""
    if names.is_unique:
        return names
    return pd.Index(unique_names([str(name) for name in names]), dtype=object)


def unique_names(names: Sequence[str]) -> list[str]:
    """The same, each followed by a number where it was taken."""
    taken, last, unique = set(names), dict[str, int](), []
    seen: set[str] = set()
    for name in names:
        fresh = name
        while fresh in seen or (fresh != name and fresh in taken):
            last[name] = last.get(name, 0) + 1
            fresh = f"{name}-{last[name]}"
        seen.add(fresh)
        unique.append(fresh)
    return unique
