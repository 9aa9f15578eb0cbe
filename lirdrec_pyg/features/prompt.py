"""What a model is told to do with a picture."""

import string
from collections.abc import Mapping
from pathlib import Path

from lirdrec_pyg.data.tables import first_line, shortened, shown
from lirdrec_pyg.errors import ConfigError, DataError
from lirdrec_pyg.features.catalogue import Catalogue

DEFAULT_PROMPT = (
    "Describe the product or content in this picture for a catalogue, in one paragraph of at most 60 words. Say what "
    "kind of thing it is, its colours, material, shape, pattern and style, and what and for whom it is used. Name "
    "only what can be seen; leave out the background, prices and remarks about the picture itself."
)

_MAX_TEMPLATE, _MAX_VALUE = 20_000, 2_000


class Prompt:
    """A text with places for what the catalogue says of an item, such as ``{title}``.

    ``{{`` and ``}}`` stand for braces.

    Args:
        template: the text.
        source: where it came from, for messages.

    Attributes:
        template: the text.
        columns: of the catalogue, whose entries it has places for.

    Raises:
        ConfigError: if its braces are not in order, or stand around more than the name of a column.
    """

    def __init__(self, template: str = DEFAULT_PROMPT, source: str = "The prompt") -> None:
        self.template = template.strip()
        if not self.template:
            raise ConfigError(f"{source} is empty: write what the model is to do with a picture.")
        if len(self.template) > _MAX_TEMPLATE:
            raise ConfigError(
                f"{source} has {len(self.template):,} characters: a prompt has at most {_MAX_TEMPLATE:,}."
            )
        way_out = "write {title} for the column 'title' of the catalogue, and {{ }} for braces"
        try:
            parts = list(string.Formatter().parse(self.template))
        except ValueError as error:
            raise ConfigError(f"{source} can't be filled in ({first_line(error)}): {way_out}.") from error
        for _, name, form, conversion in parts:
            if name is not None and (not name or form or conversion):
                raise ConfigError(f"{source} has a place that names no column, {shown('{' + name + '}')}: {way_out}.")
        self._parts = [(text, name) for text, name, _, _ in parts]
        self.columns = list(dict.fromkeys(name for _, name in self._parts if name is not None))
        self._source = source

    @classmethod
    def read(cls, path: Path) -> "Prompt":
        """The prompt in a text file.

        Raises:
            ConfigError: if it can't be read or used.
        """
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--prompt {path} can't be read ({first_line(error)}).") from error
        return cls(text, f"--prompt {path}")

    def texts(self, catalogue: Catalogue) -> dict[str, dict[int | str, str]]:
        """What the catalogue says of its items, for each place.

        Raises:
            ConfigError: if a place names no column, or one without any text.
        """
        try:
            return {name: dict(catalogue.texts([name]).frame.iter_rows()) for name in self.columns}
        except DataError as error:
            raise ConfigError(f"{self._source} can't be filled in: {error}") from error

    def fill(self, values: Mapping[str, str | None]) -> str:
        """The prompt for one item; what the catalogue doesn't say is left empty, and a very long text shortened."""
        return "".join(
            text + ("" if name is None else shortened(values.get(name) or "", _MAX_VALUE)) for text, name in self._parts
        )
