"""Figures of matplotlib as parts of a page that needs nothing else.

Vector figures keep their text as text, drawn in the colours and the fonts of
the page, so that they follow it into the dark; pictures of many points become
PNG on white.
"""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

# Stands for the page's text colour until the figure is part of the page.
INK = "#010203"
_STYLE: dict[Any, Any] = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
}


@contextmanager
def drawing() -> Iterator[None]:
    """Draw in the style of the page; names with "$" or rare characters are only text."""
    import matplotlib as mpl

    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def as_svg(figure: Figure, name: str) -> Markup:
    """``figure`` as an inline SVG; ``name`` keeps its ids apart from those of others."""
    from markupsafe import Markup

    buffer = io.StringIO()
    with drawing():
        import matplotlib as mpl

        metadata = dict.fromkeys(["Creator", "Date", "Format", "Type"])
        with mpl.rc_context({"svg.hashsalt": name}):
            figure.savefig(
                buffer, format="svg", transparent=True, bbox_inches="tight", metadata=metadata
            )
    text = buffer.getvalue()
    return Markup(_for_page(text[text.index("<svg") :], name))


def as_png(figure: Figure) -> str:
    """``figure`` as the address of an inline PNG."""
    buffer = io.BytesIO()
    with drawing():
        figure.savefig(buffer, format="png", dpi=170, pil_kwargs={"optimize": True})
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _for_page(svg: str, name: str) -> str:
    svg = svg.replace(INK, "currentColor")
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 system-ui, sans-serif", svg)
    width = re.search(r'width="([\d.]+)pt"', svg)
    size = f'style="--width: {width[1]}pt" role="img" ' if width else ""
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt" ', size, svg, count=1)
