"""Settings of the documentation, which ``make docs`` builds."""

import sys
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from lirdrec_pyg import __version__
from lirdrec_pyg.threads import prepare_threads

prepare_threads()  # of the kernels of the notebooks, too

project = "lirdrec-pyg"
author = "The lirdrec-pyg developers"
copyright = author
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "sphinx_copybutton",
    "sphinx_design",
    "config_tables",
    "mathml",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
nitpicky = True
nitpick_ignore_regex = [
    # Objects of other packages: their inventories would have to be downloaded for every build.
    (r"py:.*", r"(?!lirdrec_pyg)\w+\..+"),
    # Docstrings list the attributes of a class, and PyG's have shapes and words beside types.
    (r"py:attr", r".*"),
    (r"py:.*", r"optional|\[.+\]"),
    # Not public; docstrings name them to readers of the code.
    (r"py:.*", r"(.+\.)?_\w+"),
    (
        r"py:.*",
        r"lirdrec_pyg\.(data\.texts|features\.item_files|data\.image_files|files|training\.distributed)\.\w+",
    ),
    (r"py:.*", r"(.+\.)?(save_encoders|summarize_branches|two_view_info_nce|ServerError)"),
]
# Long dashes would replace the two hyphens of options.
smartquotes = False
linkcheck_anchors_ignore_for_url = [r"https://github\.com/.*"]

html_math_renderer = "mathml"
html_theme = "furo"
html_title = f"lirdrec-pyg {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"sidebar_hide_name": False}
html_show_sphinx = False

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
nb_execution_mode = "cache"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_output_stderr = "remove"  # progress

autodoc_inherit_docstrings = False  # torch documents the forward of any module
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
maximum_signature_line_length = 88
napoleon_use_ivar = True
autosummary_ignore_module_all = False
autosummary_imported_members = True


def resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Node) -> nodes.Node | None:
    """Find an object by another name than the one under which it is documented.

    Docstrings use the names of their module, such as ``ConfigError`` for ``lirdrec_pyg.errors.ConfigError``.
    """
    if node.get("refdomain") != "py":
        return None
    domain, target = env.domains.python_domain, node["reftarget"]
    tail = target.rpartition(".")[2] if target.startswith("lirdrec_pyg.") else target
    kinds = domain.objtypes_for_role(node["reftype"], [])
    found = {name: entry for name, entry in domain.objects.items() if f".{name}".endswith(f".{tail}")}
    found = {name: entry for name, entry in found.items() if entry.objtype in kinds and not entry.aliased}
    depth = min((name.count(".") for name in found), default=0)
    places = [entry for name, entry in found.items() if name.count(".") == depth]
    if len(places) != 1:
        return None
    uri = app.builder.get_relative_uri(node["refdoc"], places[0].docname)
    return nodes.reference("", "", content, internal=True, refuri=f"{uri}#{places[0].node_id}")


def unlink_mails(_app: Sphinx, doctree: nodes.document) -> None:
    """Replace what looks like the address of a mail, such as Recall@20, by its text."""
    for node in list(doctree.findall(nodes.reference)):
        if node.get("refuri", "").startswith("mailto:"):
            node.replace_self(nodes.Text(node.astext()))


def setup(app: Sphinx) -> None:
    app.connect("doctree-read", unlink_mails)
    app.connect("missing-reference", resolve)
