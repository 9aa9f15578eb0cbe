"""Train on a table of clicks and features of your own, then recommend.

    python examples/train_from_csv.py [CLICKS.csv MODALITY=FEATURES.npy ...]

Without arguments it makes up a small shop in shop/ and takes that. The run is in runs/shop.
"""

import sys
from pathlib import Path

import numpy as np
import polars as pl

from lirdrec_pyg.config import DataConfig, LIRDRecConfig, TrainingConfig
from lirdrec_pyg.data import read_data
from lirdrec_pyg.serving import Recommender
from lirdrec_pyg.training import Hooks, fit


def make_up_a_shop(folder: Path) -> None:
    """Users of each of four tastes click items of one colour, whose pictures and texts look alike."""
    rng = np.random.default_rng(0)
    colour = np.arange(200) % 4
    items = np.array([f"{name}-{n}" for n, name in enumerate(["red", "green", "blue", "black"] * 50)])
    clicks = [(f"user-{u}", items[i]) for u in range(300) for i in rng.choice(np.flatnonzero(colour == u % 4), 8)]
    folder.mkdir(exist_ok=True)
    pl.DataFrame(clicks, schema=["user_id", "item_id"], orient="row").write_csv(folder / "clicks.csv")
    for modality, width in {"image": 32, "text": 16}.items():
        x = rng.normal(size=(4, width))[colour] + 0.5 * rng.normal(size=(200, width))
        np.savez(folder / f"{modality}_feat.npz", features=x.astype(np.float32), ids=items)


table, *features = sys.argv[1:] or ["shop/clicks.csv"]
if len(sys.argv) == 1:
    make_up_a_shop(Path("shop"))
config = DataConfig(data=table, features=dict(pair.split("=", 1) for pair in features))
training = TrainingConfig(epochs=20, lr=1e-2, batch_size=256)
hooks = Hooks(on_epoch=lambda r: print(f"epoch {r.epoch}: loss {r.loss:.3f}, {r.valid['recall@20']:.3f}"))
metrics = fit(read_data(config), "runs/shop", config, LIRDRecConfig(embedding_dim=16), training, hooks, overwrite=True)
print("test Recall@20:", metrics["test"]["recall@20"])

recommender = Recommender.load("runs/shop")
print(recommender.recommend(recommender.users.ids[:3], k=5))
