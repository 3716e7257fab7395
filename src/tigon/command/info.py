"""``tigon info``: what is in an atlas, a run or a count file."""

from __future__ import annotations

from typing import Annotated

import typer

from tigon.command.options import KINDS, Json, Layer, Quiet, Raw, Verbose
from tigon.command.showing.session import session


def info(
    path: Annotated[
        str,
        typer.Argument(metavar="PATH", help=f"A run, or counts: {KINDS}.", show_default=False),
    ],
    layer: Layer = None,
    raw: Raw = False,
    quiet: Quiet = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Show what is in an atlas, a run or a count file.

    Only sizes and tables are read, not the counts. For a run: the objective,
    clusters and scores, or the components and how exact they are; and the
    configuration that made it.

    Example: `tigon info atlas.zarr`
    """
    with session(quiet=quiet, as_json=as_json, verbose=verbose) as shown:
        import tigon
        from tigon.command.showing import describe
        from tigon.storage.runs.run import Run

        if describe.is_run(path):
            facts = describe.describe_run(Run.open(path))
            shown.answer(facts, describe.tell_run_in_full(facts))
            return
        with tigon.open(path, layer=layer, raw=raw) as atlas:
            facts = describe.describe_atlas(atlas, path)
        shown.answer(facts, describe.tell_atlas(facts))
