from collections.abc import Mapping
from typing import Any, NamedTuple


class Section(NamedTuple):
    """A part of the report.

    Attributes:
        id: anchor.
        title: heading.
        template: file in ``templates/`` that shows it below the heading.
        content: variables of the template.
    """

    id: str
    title: str
    template: str
    content: Mapping[str, Any]
