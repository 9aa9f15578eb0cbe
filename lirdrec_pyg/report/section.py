from collections.abc import Mapping
from typing import Any, NamedTuple


class Section(NamedTuple):
    """A part of the report."""

    id: str  # anchor
    title: str
    template: str  # file in templates/ that shows it below the heading
    content: Mapping[str, Any]  # variables of the template
