from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from lirdrec_pyg import LIRDRecConfig, Recommender, TrainingConfig, fit
from lirdrec_pyg.datasets import synthetic_data


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs with titles, of which one ranks the items of all users in the opposite order."""
    folder = tmp_path_factory.mktemp("runs")
    trained = fit(synthetic_data(40, 60), LIRDRecConfig(embedding_dim=8), TrainingConfig(epochs=1, device="cpu"))
    ids = trained.items.ids
    catalog = pl.DataFrame({"item_id": ids, "title": "the " + ids, "stock": pl.int_range(len(ids), eager=True) % 3})
    one = trained.with_catalog(catalog)
    other = replace(one, vectors=replace(one.vectors, user=-one.vectors.user))
    for recommender, name in ((one, "one"), (other, "other")):
        recommender.save(folder / name)
    return folder / "one", folder / "other"


@pytest.fixture(scope="session")
def recommender(runs: tuple[Path, Path]) -> Recommender:
    return Recommender.load(runs[0])
