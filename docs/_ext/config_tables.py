"""Tables of settings, made from the classes of configurations."""

import dataclasses
import inspect
from typing import Any, Literal, get_args, get_origin, get_type_hints

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from lirdrec_pyg.cli.options import option_name
from lirdrec_pyg.config import Config
from lirdrec_pyg.models import MODELS, ModelConfig


def escaped(text: str) -> str:
    """Return text without markup for reStructuredText."""
    return "".join(f"\\{character}" if character in "*`|_\\" else character for character in text)


def values(hint: Any) -> str:
    """Return what the option of a field takes."""
    if get_origin(hint) is dict:
        return "NAME=VALUE"
    if get_origin(hint) is Literal:
        return ", ".join(map(str, get_args(hint)))
    kinds = get_args(hint) or (hint,)
    return {int: "integer", float: "number", bool: "flag", str: "text"}[kinds[0]]


def option_table(config: type[ModelConfig]) -> list[str]:
    """Return a table of the options of a model."""
    hints = get_type_hints(config)
    lines = [".. list-table::", "   :header-rows: 1", "   :class: options", "   :widths: 24 18 12 46", ""]
    lines += ["   * - Option", "     - Values", "     - Default", "     - Meaning"]
    for field in dataclasses.fields(config):
        has_default = field.default not in (None, dataclasses.MISSING)
        lines += [
            f"   * - ``{option_name(field.name)}``",
            f"     - {escaped(values(hints[field.name]))}",
            f"     - ``{field.default}``" if has_default else "     -",
            f"     - {escaped(field.metadata['doc'])}",
        ]
    return [*lines, ""]


class ModelOptions(SphinxDirective):
    """A section per model of ``fit --model``, with its source and its options."""

    def run(self) -> list[nodes.Node]:
        lines = []
        for name, model in MODELS.items():
            config = model.config_class
            summary = inspect.cleandoc(model.__doc__ or "").split("\n\n")[0]
            lines += [f".. _model-{name}:", "", name, "-" * len(name), ""]
            lines += [f":class:`~lirdrec_pyg.models.{model.__name__}`. {summary}", ""]
            if config.training_defaults:
                given = ", ".join(f"``{option_name(key)} {v}``" for key, v in config.training_defaults.items())
                lines += [f"Defaults of the training: {given}.", ""]
            if config.is_closed_form:
                lines += ["It is computed in closed form, without epochs.", ""]
            lines += option_table(config) if dataclasses.fields(config) else ["It has no options.", ""]
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def describe_fields(_app: Sphinx, what: str, _name: str, obj: Any, _options: Any, lines: list[str]) -> None:
    """Add the fields of a configuration to its docstring."""
    if what == "class" and issubclass(obj, Config) and dataclasses.fields(obj):
        lines += ["", "Args:"]
        lines += [f"    {field.name}: {escaped(field.metadata['doc'])}" for field in dataclasses.fields(obj)]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("model-options", ModelOptions)
    app.connect("autodoc-process-docstring", describe_fields, priority=100)  # before napoleon reads it
    return {"parallel_read_safe": True}
