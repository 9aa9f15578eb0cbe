import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from commands import lirdrec

from lirdrec_pyg import LIRDRecConfig, TrainingConfig, fit
from lirdrec_pyg.datasets import synthetic_data

SMALL = ("--embedding-dim", 8, "--epochs", 3, "--lr", 0.01, "--batch-size", 64)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on generated data, with text IDs and without titles; never to be changed."""
    out = tmp_path_factory.mktemp("trained") / "run"
    dataset = replace(synthetic_data(40, 60), catalog=None)
    fit(dataset, LIRDRecConfig(embedding_dim=8), TrainingConfig(epochs=1, device="cpu"), out)
    return out


@pytest.fixture(scope="session")
def shared_shop(make_shop: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set that no test changes."""
    return make_shop(tmp_path_factory.mktemp("data") / "shop")


@pytest.fixture(scope="session")
def shop_run(shared_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that ``fit`` made; never to be changed."""
    out = tmp_path_factory.mktemp("trained") / "run"
    result = lirdrec("fit", "--data", shared_shop, "--out", out, *SMALL)
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture(scope="session")
def cold_run(shared_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that held out items; never to be changed. What ``fit`` printed is beside it."""
    out = tmp_path_factory.mktemp("cold") / "run"
    options = ("--split", "cold-items", "--cold-fraction", 0.3)
    result = lirdrec("fit", "--data", shared_shop, "--out", out, *SMALL, *options)
    assert result.exit_code == 0, result.output
    (out.parent / "output").write_text(result.output)
    return out


@pytest.fixture
def own(shop_run: Path, tmp_path: Path) -> Path:
    """A copy of ``shop_run``."""
    return Path(shutil.copytree(shop_run, tmp_path / "own"))
