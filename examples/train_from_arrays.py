"""Train LIRDRec from arrays in memory and recommend, without any file.

python examples/train_from_arrays.py
"""

import numpy as np

from lirdrec_pyg import Dataset, LIRDRecConfig, TrainingConfig, fit

# Users of each of four tastes click items of one color, whose images and texts are similar.
rng = np.random.default_rng(0)
color = rng.integers(4, size=200)
clicks = [(user, item) for user in range(300) for item in rng.choice(np.flatnonzero(color == user % 4), 8, False)]
users, items = np.array(clicks).T
image, text = (rng.normal(size=(4, width))[color] + 0.5 * rng.normal(size=(200, width)) for width in (32, 16))

dataset = Dataset.from_frames((users, items), {"image": image, "text": text})
recommender = fit(dataset, LIRDRecConfig(embedding_dim=16), TrainingConfig(epochs=20, lr=1e-2, batch_size=256))
best = recommender.recommend([0], k=5)

print("test Recall@20:", recommender.metrics["test"]["recall@20"])
print(best)
print("their colors:", color[best["item"]].tolist())
