from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from fastapi.testclient import TestClient

from lirdrec_pyg import LIRDRecConfig, Recommender, TrainingConfig, fit
from lirdrec_pyg.datasets import synthetic_data
from lirdrec_pyg.service import LiveRun, ServiceConfig
from lirdrec_pyg.service.app import create_app

Connect = Callable[..., TestClient]


@pytest.fixture(scope="session")
def trained() -> Recommender:
    """A recommender with titles, of no run folder."""
    trained = fit(synthetic_data(40, 60), LIRDRecConfig(embedding_dim=8), TrainingConfig(epochs=1, device="cpu"))
    ids = trained.items.ids
    catalog = pl.DataFrame({"item_id": ids, "title": "the " + ids, "stock": pl.int_range(len(ids), eager=True) % 3})
    return trained.with_catalog(catalog)


@pytest.fixture(scope="session")
def runs(trained: Recommender, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs with titles, of which one ranks the items of all users in the opposite order."""
    folder = tmp_path_factory.mktemp("runs")
    other = replace(trained, vectors=replace(trained.vectors, user=-trained.vectors.user))
    for recommender, name in ((trained, "one"), (other, "other")):
        recommender.save(folder / name)
    return folder / "one", folder / "other"


@pytest.fixture(scope="session")
def recommender(runs: tuple[Path, Path]) -> Recommender:
    return Recommender.load(runs[0])


@pytest.fixture
def connect(runs: tuple[Path, Path]) -> Iterator[Connect]:
    """``connect(path, token="t", max_k=3)`` starts a service."""
    clients: list[TestClient] = []

    def start(
        path: Path = runs[0], token: str | None = None, compared: LiveRun | None = None, **config: Any
    ) -> TestClient:
        client = TestClient(create_app(LiveRun(path), ServiceConfig(**config), token, compared))
        client.__enter__()
        clients.append(client)
        return client

    yield start
    for client in clients:
        client.__exit__(None, None, None)
