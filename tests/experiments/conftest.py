import pytest

from lirdrec_pyg.data import Dataset
from lirdrec_pyg.data.generator import generate


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    graph, users, items, _ = generate(60, 80, cold_share=0.0)
    return Dataset(graph, users, items)
