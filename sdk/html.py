"""Self-contained HTML pages: style and pictures are inside the file."""

import html
from collections.abc import Iterable, Sequence

_STYLE = (
    "body{font:15px/1.5 sans-serif;max-width:60em;margin:2em auto;color:#222}"
    "table{border-collapse:collapse}td,th{padding:.2em .9em;text-align:right;border-bottom:1px solid #ddd}"
    "td:first-child,th:first-child{text-align:left}.bad{color:#b00020}.good{color:#1b6e2c}"
)


def page(title: str, parts: Iterable[str]) -> bytes:
    """Make a whole document.

    Args:
        parts: pieces of HTML; their text must be escaped already.
    """
    head = f'<!doctype html><meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    return (head + f"<h1>{html.escape(title)}</h1>" + "".join(parts)).encode(errors="backslashreplace")


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Make a heading and a table; texts are escaped here."""

    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return f"<h2>{html.escape(title)}</h2><table>{row(head, 'th')}{''.join(row(cells, 'td') for cells in rows)}</table>"
