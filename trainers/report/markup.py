"""Writing HTML: every text that comes from outside passes through `text` and stays text."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def visible(value: object) -> str:
    """Any value as text that can be written; what cannot be shown (control characters, lone surrogates) is named."""
    shown = _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", str(value).replace("\r\n", "\n"))
    return _SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", shown)


def text(value: object) -> str:
    """Any value as text that is safe between tags and in attributes."""
    return html.escape(visible(value), quote=True)


def element(tag: str, *children: str, **attributes: object) -> str:
    """An element; children are HTML already, attribute values are escaped here (``class_`` -> ``class``)."""
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{text(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    return f"<{tag}{written}>{''.join(children)}</{tag}>"


def table(head: Iterable[str], rows: Iterable[Sequence[str]], *, class_: str = "", marked: int | None = None) -> str:
    """A table; cells are HTML already. On a narrow screen every cell carries its column's title.

    Args:
        head: titles of the columns.
        rows: their cells; the first names the row.
        class_: of the table.
        marked: number of a row to stand out.
    """
    titles = list(head)
    header = element("tr", *(element("th", title, scope="col") for title in titles))
    body = "".join(
        element(
            "tr",
            *(_cell(place, cell, titles[place]) for place, cell in enumerate(row)),
            class_="marked" if number == marked else None,
        )
        for number, row in enumerate(rows)
    )
    inner = element("table", element("thead", header), element("tbody", body), class_=class_)
    return element("div", inner, class_="scroll")


def _cell(place: int, cell: str, title: str) -> str:
    if place == 0:
        return element("th", cell, scope="row")
    return element("td", cell, data_title=html.unescape(re.sub("<[^>]*>", "", title)))
