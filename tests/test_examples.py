import contextlib
import io
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lirdrec_pyg.data.generator import generate

EXAMPLES = Path(__file__).parents[1] / "examples"
LAYERS = [
    *("lightgcn", "lightgcn_with_modality_items", "lightgcn_with_item_graph", "lightgcn_with_pwc_fusion"),
    "hetero_conv",
]

# What each example prints. add_new_items and fold_in_user use the run that train_from_csv writes.
PRINTED = {
    "train_from_arrays": ["test Recall@20", "their colors: [0, 0, 0, 0, 0]"],
    "train_from_csv": ["test Recall@20", "user-0"],
    "add_new_items": ["204 items, 4 of them new", "users get a new item"],
    "fold_in_user": ["newcomer", "anna"],
    "write_shop": ["clicks on 1,000 items"],
    "features_from_catalog": ["image: 30 vectors", "text: 30 vectors", "test Recall@5", "likes-red-0 may like red-"],
    **{name: [] for name in LAYERS},
    "lightgcn_with_pwc_fusion": ["mean weight of image: 0."],
}


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Output of each example. They run in this process, since importing torch takes most of their time."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("examples"))
        patch.syspath_prepend(EXAMPLES)
        for name in PRINTED:
            if name in LAYERS:  # a smaller `synthetic`
                patch.setattr("lirdrec_pyg.data.dataset.generate", lambda: generate(800, 600))
            patch.setattr(sys, "argv", [f"{name}.py"])
            with contextlib.redirect_stdout(io.StringIO()) as out:
                runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
            found[name] = out.getvalue()
        yield found
    sys.modules.pop("lightgcn", None)


def test_every_example_is_run() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*PRINTED, "recommend_with_ray"}


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("add_new_items", "runs/shop is not a run folder.* Run examples/train_from_csv.py first"),
        ("fold_in_user", "runs/shop is not a run folder.* Run examples/train_from_csv.py first"),
        ("train_from_csv nowhere.csv", "nowhere.csv does not exist"),
        ("train_from_csv clicks.csv text.npy", "train_from_csv.py .CLICKS.csv MODALITY=FEATURES.npy"),
        ("features_from_catalog model", "features_from_catalog.py .TEXT_MODEL IMAGE_MODEL."),
        *((f"{name} --data nowhere", "error: nowhere does not exist") for name in LAYERS),
    ],
)
def test_what_an_example_needs_is_one_sentence(
    command: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *arguments = command.split()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert re.search(problem, f"{stopped.value}{capsys.readouterr().err}")
    assert not list(tmp_path.iterdir())


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(SystemExit, match=r"pip install 'lirdrec-pyg\[features\]' first"):
        runpy.run_path(str(EXAMPLES / "features_from_catalog.py"), run_name="__main__")


@pytest.mark.slow
def test_examples_print_what_they_promise(printed: dict[str, str]) -> None:
    for name, texts in PRINTED.items():
        for text in texts:
            assert text in printed[name], name


@pytest.mark.slow
def test_new_items_are_similar_to_their_originals(printed: dict[str, str]) -> None:
    lines = [line for line in printed["add_new_items"].splitlines() if line.startswith("  new-")]
    assert len(lines) == 4
    for line in lines:
        new, similar = line.split(": ")
        color = new.split("-like-")[1].split("-")[0]
        assert sum(color in item for item in similar.split(", ")) >= 2


@pytest.mark.slow
def test_layers_learn_in_another_recommender(printed: dict[str, str]) -> None:
    for name in LAYERS:
        before, after = re.findall(r"test Recall@20 (?:before|after): +([\d.]+)", printed[name])
        assert float(after) > 2 * float(before), name
