import string
from collections.abc import Mapping
from pathlib import Path

from lirdrec_pyg.errors import ConfigError, DataError, first_line, shortened
from lirdrec_pyg.features.catalog import Catalog

# Part of the captions' provenance: another wording makes all captions outdated.
DEFAULT_PROMPT = (
    "Describe the product or content in this picture for a catalog, in one paragraph of at most 60 words. Say what "
    "kind of thing it is, its colors, material, shape, pattern and style, and what and for whom it is used. Name "
    "only what can be seen; leave out the background, prices and remarks about the picture itself."
)

_MAX_VALUE = 2000


class Prompt:
    """Prompt with placeholders for columns of the catalog, such as ``{title}``; ``{{`` and ``}}`` stand for braces.

    Attributes:
        template: text of the prompt.
        columns: names of the placeholders.

    Raises:
        ConfigError: if the prompt is empty, or a placeholder is invalid.
    """

    def __init__(self, template: str = DEFAULT_PROMPT) -> None:
        self.template = template.strip()
        try:
            parts = list(string.Formatter().parse(self.template))
            if not parts or any(name == "" or form or conversion for _, name, form, conversion in parts):
                raise ValueError("it is empty" if not parts else "a placeholder is not the name of a column")
        except ValueError as error:
            raise ConfigError(
                f"Invalid `prompt` ({first_line(error)}). Write {{title}} for the column 'title' of the catalog, and "
                "{{ }} for braces."
            ) from error
        self._parts = [(text, name) for text, name, _, _ in parts]
        self.columns = list(dict.fromkeys(name for _, name in self._parts if name is not None))

    @classmethod
    def read(cls, path: Path) -> "Prompt":
        """Read a prompt from a text file, and raise :class:`ConfigError` if it cannot be read, or is invalid."""
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"Cannot read the `prompt` {path} ({first_line(error)}).") from error
        return cls(text)

    def texts(self, catalog: Catalog) -> dict[str, dict[int | str, str]]:
        """Read the texts by item for each placeholder, and raise :class:`ConfigError` if a column has none."""
        try:
            return {name: dict(catalog.texts([name]).frame.iter_rows()) for name in self.columns}
        except DataError as error:
            raise ConfigError(f"The `prompt` has a placeholder without texts. {error}") from error

    def fill(self, item: int | str, texts: Mapping[str, Mapping[int | str, str]]) -> str:
        """Fill in the :meth:`texts` of one item; missing ones are left empty, and long ones shortened."""
        return "".join(
            text + ("" if name is None else shortened(texts[name].get(item, ""), _MAX_VALUE))
            for text, name in self._parts
        )
