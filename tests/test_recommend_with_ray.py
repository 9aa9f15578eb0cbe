import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import ray

from lirdrec_pyg import DataConfig, LIRDRecConfig, Recommender, TrainingConfig, fit
from lirdrec_pyg.recommender.export.files import export_vectors

EXAMPLE = Path(__file__).parents[1] / "examples" / "recommend_with_ray.py"
K = 7


@pytest.fixture(scope="module")
def two_workers() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # else the workers wait for all other tests
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def recommender(learnable_shop: Path) -> Recommender:
    config = TrainingConfig(epochs=1, lr=1e-2, batch_size=64, device="cpu")
    return fit(DataConfig(data=str(learnable_shop)), LIRDRecConfig(embedding_dim=8), config)


@pytest.mark.slow
@pytest.mark.usefixtures("two_workers")
def test_lists_are_those_of_recommend(
    recommender: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_vectors(recommender, tmp_path / "exports", "parquet")
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), str(tmp_path / "exports"), str(tmp_path / "lists"), str(K)])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    found = pl.read_parquet(tmp_path / "lists").sort("user", "rank")
    expected = recommender.recommend(recommender.users.ids, k=K).sort("user", "rank")
    np.testing.assert_allclose(found["score"], expected["score"], rtol=1e-5, atol=1e-6)
    assert found.select("user", "item").equals(expected.select("user", "item"))
