"""Pages from their templates, all in one style."""

from __future__ import annotations

from importlib import resources
from typing import Any

from tigon.wording import tell_bytes, tell_seconds


def fill_in(name: str, **facts: Any) -> str:
    """The page of the template ``name``, with the style that all pages have."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(_read),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["count"] = lambda value: f"{value:,}"
    environment.filters["size"] = tell_bytes
    environment.filters["duration"] = tell_seconds
    return environment.get_template(name).render(style=_read("page.css"), **facts)


def _read(name: str) -> str:
    return resources.files("tigon.report").joinpath(name).read_text(encoding="utf-8")
