"""Train LIRDRec from NumPy arrays and recommend, without any file.

python examples/train_from_arrays.py
"""

import numpy as np
from lightning_fabric import seed_everything

from lirdrec_pyg.config import LIRDRecConfig, TrainingConfig
from lirdrec_pyg.data import build_graph
from lirdrec_pyg.evaluation import RankingTask
from lirdrec_pyg.models import LIRDRec
from lirdrec_pyg.training import Trainer

rng = np.random.default_rng(0)
num_users, num_items = 300, 200

# Users of each of four tastes click items of one colour, whose pictures and texts look alike.
colour = rng.integers(4, size=num_items)
image = np.eye(4)[colour] @ rng.normal(size=(4, 32)) + 0.5 * rng.normal(size=(num_items, 32))
text = np.eye(4)[colour] @ rng.normal(size=(4, 16)) + 0.5 * rng.normal(size=(num_items, 16))
clicks = [
    (user, item)
    for user in range(num_users)
    for item in rng.choice(np.flatnonzero(colour == user % 4), 8, replace=False)
]
train, val, test = (np.array([c for n, c in enumerate(clicks) if n % 8 in part]).T for part in (range(6), {6}, {7}))

seed_everything(0, verbose=False)
config = LIRDRecConfig(embedding_dim=16)
graph = build_graph(
    train,
    {"image": image.astype(np.float32), "text": text.astype(np.float32)},
    val=val,
    test=test,
    num_users=num_users,
)
graph = LIRDRec.graph_transform(config)(graph)
data = LIRDRec.input_transform(config)(graph)
model = LIRDRec.from_config(config, data)

trainer = Trainer(model, data, TrainingConfig(epochs=20, lr=1e-2, batch_size=256))
result = trainer.fit(on_epoch=lambda r: print(f"epoch {r.epoch}: loss {r.loss:.3f}, {r.valid['recall@20']:.3f}"))
model.load_state_dict(result.best_state)
print("test Recall@20:", trainer.evaluate(RankingTask.from_graph(trainer.data, "test"))["recall@20"])

scores, items = model.recommend(trainer.data, k=5)
print("best five items for user 0:", items[0].tolist(), "of colours", colour[items[0].cpu()].tolist())
