"""Options whose text has to be read: numbers or words, and lists of genes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tigon.storage.errors import InputError

_MOST_VALUES = 1000
"""Of a range: more would be a slip of the hand."""


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


def number_or_none(text: str, option: str) -> float | None:
    """The number that ``text`` is; None for ``none``.

    Raises
    ------
    InputError
        It is neither.
    """
    if text.strip().lower() == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise InputError(
            f"{option} is {text!r}: a number above zero or 'none' is needed; for instance "
            f"{option} 10000"
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


def whole_numbers(text: str, option: str) -> list[int]:
    """The numbers of ``5:60:5``, both ends included, or of ``5,10,20``.

    Raises
    ------
    InputError
        They cannot be read, or a range has no number or too many.
    """
    parts = text.split(":")
    try:
        if len(parts) == 1:
            return [int(part) for part in text.split(",")]
        start, stop, step = int(parts[0]), int(parts[1]), int(parts[2]) if parts[2:] else 1
    except ValueError:
        start, stop, step = 0, 0, 0
    if len(parts) > 3 or step < 1 or stop < start or (stop - start) // step >= _MOST_VALUES:
        raise InputError(
            f"{option} is {text!r}: a range FROM:TO:STEP of 1 to {_MOST_VALUES} rising numbers "
            f"or a list is needed; for instance {option} 5:60:5 or {option} 5,10,20"
        )
    return list(range(start, stop + 1, step))


def numbers(text: str, option: str) -> list[float]:
    """The numbers of ``1,5,25``.

    Raises
    ------
    InputError
        They cannot be read.
    """
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            f"{option} is {text!r}: numbers with commas between them are needed; for instance "
            f"{option} 1,5,25"
        ) from None
