"""Options whose text has to be read: numbers or words, and lists of genes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tigon.storage.errors import InputError


def wanted_genes(n_genes: str | None, file: str | None) -> int | str | list[str]:
    """How many genes to select, "all", or the names that ``file`` lists.

    Raises
    ------
    InputError
        Both are given, or one cannot be read.
    """
    if file is None:
        return number_or("2000" if n_genes is None else n_genes, "all", "--n-genes")
    if n_genes is not None:
        raise InputError(
            f"both --n-genes {n_genes} and --genes {file} were given: genes are counted or "
            "listed; choose one"
        )
    return read_genes(Path(file))


def wanted_unshared(n_genes: str | None, file: str | None) -> int | str | list[str] | None:
    """The same of unshared genes; None where neither is given.

    Raises
    ------
    InputError
        Both are given, or one cannot be read.
    """
    if file is None:
        return None if n_genes is None else number_or(n_genes, "all", "--n-unshared")
    if n_genes is not None:
        raise InputError(
            f"both --n-unshared {n_genes} and --unshared-genes {file} were given: genes are "
            "counted or listed; choose one"
        )
    return read_genes(Path(file))


def lambdas(text: str) -> dict[str, Any]:
    """``lam``, and ``lam_by_dataset`` where some are named: of "5", "donor1=5,donor2=1", "5,a=1".

    Raises
    ------
    InputError
        There is something else in it.
    """
    found: dict[str, Any] = {}
    own: dict[str, float] = {}
    for part in text.split(","):
        name, named, value = (word.strip() for word in part.rpartition("="))
        try:
            number = float(value)
        except ValueError:
            number = None
        if number is None or (name in own if named else "lam" in found):
            raise InputError(
                f"--lam is {text!r}: it is a number for all datasets, and numbers for some by "
                "name; for instance --lam 5 or --lam 5,donor2=1"
            )
        if named:
            own[name] = number
        else:
            found["lam"] = number
    return found | ({"lam_by_dataset": own} if own else {})


def read_genes(file: Path) -> list[str]:
    """Names of genes, one a line; empty lines are skipped.

    Raises
    ------
    InputError
        The file is absent, not text, or lists nothing.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, IsADirectoryError, UnicodeDecodeError) as error:
        raise InputError(
            f"{file} cannot be read as a list of genes ({error}): it is a text file with one "
            "name a line; check the name"
        ) from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise InputError(f"{file} lists no gene: at least one is needed, one name a line")
    return names


def number_or(text: str, word: str, option: str) -> int | str:
    """The whole number that ``text`` is, or ``word``.

    Raises
    ------
    InputError
        It is neither.
    """
    if text == word:
        return word
    try:
        return int(text)
    except ValueError:
        raise InputError(
            f"{option} is {text!r}: a whole number or {word!r} is needed; for instance "
            f"{option} {word}"
        ) from None


def wanted_factors(text: str | None) -> tuple[int, ...]:
    """Numbers of factors such as ``3,7``; nothing for None or ``none``.

    Raises
    ------
    InputError
        It is not of that kind.
    """
    if text is None or text.strip() == "none":
        return ()
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(
            f"--drop-factors is {text!r}: the numbers of factors are needed, with commas between "
            "them, or 'none'; for instance --drop-factors 3,7"
        ) from None


def check_spared(sources: Sequence[str], out: str) -> None:
    """Refuse an output that would replace what is read.

    Raises
    ------
    InputError
        ``out`` is a source, or holds one.
    """
    place = os.path.realpath(out)
    for source in sources:
        if "://" not in source and Path(os.path.realpath(source)).is_relative_to(place):
            raise InputError(
                f"the output {out} is one of the sources: it would be replaced; choose another name"
            )
