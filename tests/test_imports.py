"""Imports between the parts of the package point one way."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lirdrec_pyg

ROOT = Path(lirdrec_pyg.__file__).parent

# Each part may import itself and everything below.
LAYERS = [
    {"__main__"},
    {"cli"},
    {"serving", "analysis", "tuning"},
    {"training"},
    {"evaluation"},
    {"models"},
    {"transforms"},
    {"nn"},
    {"data"},
    {"config"},
    {"errors", "environment", "_version"},
]
ALLOWED = {part: {part}.union(*LAYERS[depth + 1 :]) for depth, layer in enumerate(LAYERS) for part in layer}
# These stand beside the layers.
ALLOWED["sampler"] = {"sampler", "nn", "data", "config", "errors"}
ALLOWED["datasets"] = {"datasets", "data", "config", "errors"}
ALLOWED["features"] = {"features", "data", "config", "errors", "_version"}
for part in ("models", "evaluation", "training"):
    ALLOWED[part] |= {"sampler"}
ALLOWED["cli"] |= {"sampler", "datasets", "features"}

FILES = sorted(ROOT.rglob("*.py"))


def part_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_modules(source: str) -> Iterator[str]:
    """Full names of all that is imported anywhere in ``source``, within functions as well."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports have to be absolute"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_parts(source: str) -> set[str]:
    names = (name.split(".") for name in imported_modules(source))
    return {name[1] for name in names if name[0] == "lirdrec_pyg" and len(name) > 1}


@pytest.mark.parametrize(
    "path", [f for f in FILES if f != ROOT / "__init__.py"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_imports_point_one_way(path: Path) -> None:
    assert imported_parts(path.read_text(encoding="utf-8")) <= ALLOWED[part_of(path)]


def test_every_part_has_its_place() -> None:
    assert {part_of(path) for path in FILES} - {"__init__"} <= ALLOWED.keys()


def test_the_package_itself_imports_no_part_at_run_time() -> None:
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    at_run_time = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert {part for node in at_run_time for part in imported_parts(ast.unparse(node))} == {"_version"}


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("import lirdrec_pyg.training", {"training"}),
        ("from lirdrec_pyg import cli", {"cli"}),
        ("def f():\n    from lirdrec_pyg.nn.conv import adjacency", {"nn"}),
        ("import torch", set()),
    ],
)
def test_the_reader_of_imports_sees_them_all(source: str, parts: set[str]) -> None:
    assert imported_parts(source) == parts


def test_all_parts_import_without_the_extra_features() -> None:
    modules = [".".join(f.relative_to(ROOT.parent).with_suffix("").parts) for f in FILES if f.stem != "__main__"]
    heavy = ("transformers", "sentence_transformers", "tokenizers", "huggingface_hub", "PIL", "soundfile")
    program = (
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({heavy}))\n"
        f"for name in {[m.removesuffix('.__init__') for m in modules]}: importlib.import_module(name)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
