"""Imports between the parts of the package point one way."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import started

import lirdrec_pyg

ROOT = Path(lirdrec_pyg.__file__).parent

# Each part may import itself and everything below.
LAYERS = [
    {"__main__"},
    {"cli"},
    {"service", "report", "experiments"},
    {"recommender"},
    {"training"},
    {"evaluation"},
    {"models"},
    {"transforms", "sampler"},
    {"nn"},
    {"data"},
    {"files"},
    {"devices"},
    {"config"},
    {"edge_index", "errors", "explanation", "html", "launcher", "log_level", "threads", "callback", "_version"},
]
ALLOWED = {part: {part}.union(*LAYERS[depth + 1 :]) for depth, layer in enumerate(LAYERS) for part in layer}
# These stand beside the layers.
ALLOWED["datasets"] = {"datasets", *ALLOWED["data"]}
ALLOWED["features"] = {"features", *ALLOWED["data"]}
ALLOWED["cli"] |= {"datasets", "features"}
# Only for type annotations.
ALLOWED["callback"] |= {"training"}

FILES = sorted(ROOT.rglob("*.py"))
PACKAGE = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))


def part_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_modules(source: str) -> Iterator[str]:
    """Yield full names of all that is imported anywhere in ``source``, also within functions."""
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


def test_imports_point_one_way() -> None:
    for path in FILES:
        if path != ROOT / "__init__.py":
            assert imported_parts(path.read_text(encoding="utf-8")) <= ALLOWED[part_of(path)], path


def test_every_part_has_its_place() -> None:
    assert {part_of(path) for path in FILES} - {"__init__"} <= ALLOWED.keys()


def test_package_itself_imports_no_part_at_run_time() -> None:
    at_run_time = [node for node in PACKAGE.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert {part for node in at_run_time for part in imported_parts(ast.unparse(node))} == {"_version"}


def test_all_imports_in_a_source_are_found() -> None:
    for source, parts in {
        "import lirdrec_pyg.training": {"training"},
        "from lirdrec_pyg import cli": {"cli"},
        "def f():\n    from lirdrec_pyg.nn.conv import adjacency": {"nn"},
        "import torch": set(),
    }.items():
        assert imported_parts(source) == parts


def test_dir_shows_what_is_exported_and_all_of_it_exists() -> None:
    assert dir(lirdrec_pyg) == sorted(lirdrec_pyg.__all__)
    for name in lirdrec_pyg.__all__:
        assert getattr(lirdrec_pyg, name) is not None
    with pytest.raises(AttributeError, match="'nonsense'"):
        _ = lirdrec_pyg.nonsense
    # Type checkers do not see what is imported lazily.
    declared = {alias.asname for node in ast.walk(PACKAGE) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert declared - {None} == {*lirdrec_pyg.__all__} - {"__version__"}


def test_all_parts_import_without_the_extra_features() -> None:
    modules = [".".join(f.relative_to(ROOT.parent).with_suffix("").parts) for f in FILES]
    heavy = ("transformers", "sentence_transformers", "tokenizers", "huggingface_hub", "PIL", "soundfile", "optuna")
    heavy += (
        "mlflow",
        "tensorboard",
        "fastapi",
        "uvicorn",
        "prometheus_client",
        "psycopg",
        "pgvector",
        "lancedb",
        "onnx",
    )
    heavy += ("pyversity", "altair", "vl_convert")
    program = (
        "import importlib, sys\n"
        "for name in [*sys.modules]:\n"
        f"    if name.split('.')[0] in {('lirdrec_pyg', *heavy)}: del sys.modules[name]\n"
        f"sys.modules.update(dict.fromkeys({heavy}))\n"
        f"for name in {[m.removesuffix('.__init__') for m in modules]}: importlib.import_module(name)"
    )
    process = started(exec, program, {})
    process.join()
    assert process.exitcode == 0
