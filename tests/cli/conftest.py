from pathlib import Path

import pytest

from lirdrec_pyg.config import DataConfig, LIRDRecConfig, TrainingConfig
from lirdrec_pyg.datasets import synthetic_data
from lirdrec_pyg.training import fit


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small trained run, one for each module."""
    out = tmp_path_factory.mktemp("trained") / "run"
    training = TrainingConfig(epochs=1, device="cpu")
    fit(synthetic_data(num_users=40, num_items=60), out, DataConfig(), LIRDRecConfig(embedding_dim=8), training)
    return out
