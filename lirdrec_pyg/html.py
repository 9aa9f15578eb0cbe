"""HTML of objects in a notebook."""

from collections.abc import Mapping
from html import escape


def table_of(title: str, facts: Mapping[str, str]) -> str:
    """Return a table of two columns, with a title."""
    rows = (
        f'<tr><th style="text-align: left">{escape(name)}</th><td style="text-align: left">{escape(value)}</td></tr>'
        for name, value in facts.items()
    )
    caption = f'<caption style="text-align: left; font-weight: bold">{escape(title)}</caption>'
    return f"<table>{caption}<tbody>{''.join(rows)}</tbody></table>"
