import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"

# What each prints; add_new_items and fold_in_user use the run that train_from_csv leaves.
PRINTED = {
    "train_from_arrays": ["test Recall@20"],
    "train_from_csv": ["test Recall@20", "user-0"],
    "add_new_items": ["204 items, 4 of them new", "users get a new item"],
    "fold_in_user": ["newcomer", "anna"],
    "lightgcn": [],
    "lightgcn_with_modality_items": [],
    "lightgcn_with_item_graph": [],
    "lightgcn_with_pwc_fusion": ["users who go by image most"],
    "hetero_conv": [],
    "features_from_catalogue": ["image: 30 vectors", "text: 30 vectors", "test Recall@5", "likes-red-0 may like red-"],
}


def run(name: str, folder: Path) -> str:
    result = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("examples")
    return {name: run(name, folder) for name in PRINTED}


def test_every_example_is_run() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == PRINTED.keys()


@pytest.mark.parametrize("name", PRINTED)
def test_example_prints_what_it_promises(name: str, printed: dict[str, str]) -> None:
    for text in PRINTED[name]:
        assert text in printed[name]


def test_new_items_stand_with_their_like(printed: dict[str, str]) -> None:
    lines = [line for line in printed["add_new_items"].splitlines() if line.startswith("  new-")]
    assert len(lines) == 4
    for line in lines:
        new, similar = line.split(": ")
        colour = new.split("-like-")[1].split("-")[0]
        assert sum(colour in item for item in similar.split(", ")) >= 2


@pytest.mark.parametrize("name", [name for name in PRINTED if name.startswith("lightgcn") or name == "hetero_conv"])
def test_a_layer_learns_in_another_recommender(name: str, printed: dict[str, str]) -> None:
    before, after = re.findall(r"test Recall@20 (?:before|after): +([\d.]+)", printed[name])
    assert float(after) > 0.15 > 2 * float(before)
