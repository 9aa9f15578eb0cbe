import numpy as np
import pytest
from torch_geometric.data import HeteroData

from lirdrec_pyg.data import build_graph


@pytest.fixture
def graph() -> HeteroData:
    """12 users, 9 items of two modalities, some items missing in text; the last user and item are isolated."""
    rng = np.random.default_rng(0)
    train = np.stack(np.nonzero(rng.random((11, 8)) < 0.4))
    features = {"image": rng.standard_normal((9, 6)), "text": rng.standard_normal((9, 5)).astype(np.float32)}
    mask = np.ones(9, dtype=bool)
    mask[[2, 5]] = False
    return build_graph(train, features, masks={"text": mask}, num_users=12)
