"""Formulas as MathML, which browsers show without a script from the web."""

import re

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

# What the converter does not know, and what it knows instead.
_REPLACED = ((r"\\dots\b", r"\\ldots"), (r"\\[Bb]ig\b", ""), (r"\\mathop\{(.+?)\}", r"\1"))


def mathml(formula: str, as_block: bool) -> str:
    for pattern, replacement in _REPLACED:
        formula = re.sub(pattern, replacement, formula)
    return str(tex2mathml(formula, as_block=as_block))


def visit_math(translator: HTML5Translator, node: nodes.math) -> None:
    translator.body.append(mathml(node.astext(), as_block=False))
    raise nodes.SkipNode


def visit_block(translator: HTML5Translator, node: nodes.math_block) -> None:
    formulas = (part for part in node.astext().split("\n\n") if part.strip())
    translator.body.append(f'<div class="math">{"".join(mathml(part, as_block=True) for part in formulas)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_block, None))
    return {"parallel_read_safe": True}
