"""Train on a table of clicks and your own features, then recommend.

    python examples/train_from_csv.py [CLICKS.csv MODALITY=FEATURES.npy ...]

Without arguments, a small generated shop in shop/ is used. The run folder is runs/shop.
"""

import sys
from pathlib import Path

import numpy as np
import polars as pl

from lirdrec_pyg import Callback, Dataset, LIRDRecConfig, TrainingConfig, fit
from lirdrec_pyg.errors import LIRDRecError


def generate_shop(folder: Path) -> None:
    """Write clicks of users who each like one color. Images and texts of the same color are similar."""
    rng = np.random.default_rng(0)
    color = np.arange(200) % 4
    items = np.array([f"{name}-{n}" for n, name in enumerate(["red", "green", "blue", "black"] * 50)])
    clicks = [(f"user-{u}", items[i]) for u in range(300) for i in rng.choice(np.flatnonzero(color == u % 4), 8)]
    folder.mkdir(exist_ok=True)
    pl.DataFrame(clicks, schema=["user_id", "item_id"], orient="row").write_csv(folder / "clicks.csv")
    for modality, width in {"image": 32, "text": 16}.items():
        x = rng.normal(size=(4, width))[color] + 0.5 * rng.normal(size=(200, width))
        np.savez(folder / f"{modality}_feat.npz", features=x.astype(np.float32), ids=items)


class PrintEpochs(Callback):
    def on_epoch_end(self, result):
        print(f"epoch {result.epoch}: loss {result.loss:.3f}, validation Recall@20 {result.valid['recall@20']:.3f}")


table, *features = sys.argv[1:] or ["shop/clicks.csv"]
if len(sys.argv) == 1:
    generate_shop(Path("shop"))
if not all("=" in pair for pair in features):
    sys.exit(__doc__)

try:
    dataset = Dataset.from_path(table, features=dict(pair.split("=", 1) for pair in features))
except LIRDRecError as error:
    sys.exit(str(error))
training = TrainingConfig(epochs=20, lr=1e-2, batch_size=256)
recommender = fit(
    dataset, LIRDRecConfig(embedding_dim=16), training, out="runs/shop", callbacks=[PrintEpochs()], overwrite=True
)
print("test Recall@20:", recommender.metrics["test"]["recall@20"])
print(recommender.recommend(recommender.users.ids[:3], k=5))
