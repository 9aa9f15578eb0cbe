from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from lirdrec_pyg import DataConfig, LIRDRecConfig, Recommender, TrainingConfig, fit
from lirdrec_pyg.data import NewItems, Vocabulary

WIDTHS = {"image": 12, "text": 7}
NUM_USERS, NUM_ITEMS = 50, 80

TrainRun = Callable[..., Path]
CheckTopK = Callable[..., None]
MakeNewItems = Callable[..., NewItems]


@pytest.fixture(scope="session")
def train_run(tmp_path_factory: pytest.TempPathFactory) -> TrainRun:
    """``train_run(data, dct="2d")`` trains for two epochs and returns the run folder."""

    def train(data: Path, split: str = "labels", **model: object) -> Path:
        out = tmp_path_factory.mktemp("runs") / "run"
        training = TrainingConfig(epochs=2, lr=0.01, batch_size=64, device="cpu")
        model_config = LIRDRecConfig(**{"embedding_dim": 8, **model})
        fit(DataConfig(data=str(data), split=split), model_config, training, out)
        return out

    return train


def write_shop(folder: Path, users: list, items: list, missing: dict[str, slice]) -> Path:
    """Write clicks with labels, and features by ID; some users have only held-out clicks, some items none."""
    rng = np.random.default_rng(0)
    rows = []
    for number, user in enumerate(users):
        for rank, item in enumerate(rng.choice(len(items) - 5, size=8, replace=False)):
            rows.append((user, items[item], 2 if number >= len(users) - 4 else max(0, rank - 5)))
    pl.DataFrame(rows, schema=["user_id", "item_id", "split"], orient="row").write_csv(folder / "clicks.csv")
    for modality, width in WIDTHS.items():
        vectors = rng.standard_normal((len(items), width)).astype(np.float32)
        table = pl.DataFrame({"item_id": items, "vector": list(vectors)})
        absent = set(items[missing.get(modality, slice(0))])
        table.filter(~pl.col("item_id").is_in(absent)).write_parquet(folder / f"{modality}_feat.parquet")
    return folder


@pytest.fixture(scope="session")
def text_shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    users = ["7", "007", *(f"u{n}" for n in range(2, NUM_USERS))]
    items = ["12", "0012", *(f"sku/{n}" for n in range(2, NUM_ITEMS))]
    missing = {"image": slice(3, 9), "text": slice(9, 14)}
    return write_shop(tmp_path_factory.mktemp("shop"), users, items, missing)


@pytest.fixture(scope="session")
def int_shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shop(tmp_path_factory.mktemp("shop"), list(range(100, 130)), list(range(-5, 295)), {})


@pytest.fixture(scope="session")
def run(train_run: TrainRun, text_shop: Path) -> Path:
    """A run with text IDs, where some items have no features in a modality and four users no training interactions."""
    return train_run(text_shop)


@pytest.fixture(scope="session")
def int_run(train_run: TrainRun, int_shop: Path) -> Path:
    """A run with integer IDs."""
    return train_run(int_shop)


@pytest.fixture(scope="session")
def cold_run(train_run: TrainRun, text_shop: Path) -> Path:
    """A run whose split held out whole items."""
    return train_run(text_shop, split="cold-items")


@pytest.fixture(scope="session")
def linear_run(train_run: TrainRun, text_shop: Path) -> Path:
    """A run of a model with a softmax loss, reduced features and a linear branch, of which nothing is left open."""
    linear = {"linear_dim": 5, "linear_l2": 50.0, "linear_content": {"image": 1.0, "text": 2.0}, "linear_weight": 0.3}
    return train_run(text_shop, loss="softmax", feature_dim=6, **linear)


@pytest.fixture(scope="session")
def recommender(run: Path) -> Recommender:
    return Recommender.load(run)


@pytest.fixture(scope="session")
def linear_recommender(linear_run: Path) -> Recommender:
    return Recommender.load(linear_run)


@pytest.fixture(scope="session")
def cold_recommender(cold_run: Path) -> Recommender:
    return Recommender.load(cold_run)


@pytest.fixture(scope="session")
def int_recommender(int_run: Path) -> Recommender:
    return Recommender.load(int_run)


@pytest.fixture(scope="session")
def new_items() -> MakeNewItems:
    """``new_items("a", "b", missing={"image": [0]})``: items with random features, the first without an image."""

    def make(*ids: str | int, missing: dict[str, list[int]] | None = None, dtype: torch.dtype = torch.float32):
        features, masks = {}, {}
        for modality, width in WIDTHS.items():
            # By the ID, so that an item is the same in any portion.
            seeds = [sum(map(ord, f"{modality}{i}")) for i in ids]
            vectors = [torch.randn(width, generator=torch.Generator().manual_seed(s)) for s in seeds]
            features[modality] = torch.stack(vectors).to(dtype)
            if rows := (missing or {}).get(modality):
                masks[modality] = torch.ones(len(ids), dtype=torch.bool)
                masks[modality][rows] = False
        return NewItems(Vocabulary(pl.Series("id", list(ids)), "item"), features, masks)

    return make


@pytest.fixture(scope="session")
def grown(recommender: Recommender, new_items: MakeNewItems) -> Recommender:
    """``recommender`` with four new items, one without an image and one without a text."""
    return recommender.add_items(new_items("n0", "n1", "n2", "n3", missing={"image": [1], "text": [2]}))


@pytest.fixture(scope="session")
def assert_best() -> CheckTopK:
    """Compare recommendations with the scores of all pairs; items whose scores differ by rounding may be swapped."""

    def check(frame: pl.DataFrame, scores: dict[int | str, dict[int | str, float]], k: int) -> None:
        """``scores`` are those of the items that each user may get."""
        assert frame["user"].unique(maintain_order=True).to_list() == [u for u in scores if scores[u]]
        for user, of_items in scores.items():
            mine = frame.filter(pl.col("user") == user)
            best = sorted(of_items.values(), reverse=True)[:k]
            assert mine["rank"].to_list() == list(range(1, len(best) + 1))
            assert mine["item"].n_unique() == len(mine)
            np.testing.assert_allclose(mine["score"], best, atol=1e-5)
            np.testing.assert_allclose(mine["score"], [of_items[i] for i in mine["item"]], atol=1e-5)

    return check
