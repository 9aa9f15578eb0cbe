"""Add items that arrived after the training, and find who may like them; nothing is trained.

    python examples/add_new_items.py [RUN]

RUN is runs/shop by default, which examples/train_from_csv.py leaves behind. The new items are made up
here: each is like an item of the catalogue, with some noise. Those of yours come from files:
``read_new_items({"image": "new.npy", "text": "new_text.npy"}, widths, ids="new_ids.txt")``.
"""

import sys

import polars as pl
import torch

from lirdrec_pyg.data import NewItems, Vocabulary, item_features, modalities
from lirdrec_pyg.serving import Recommender

recommender = Recommender.load(sys.argv[1] if len(sys.argv) > 1 else "runs/shop")
catalogue = recommender.items.ids

torch.manual_seed(0)
models = torch.tensor([0, 1, 2, 3])
features = {}
for modality in modalities(recommender.graph):
    x = item_features(recommender.graph, modality)[models].float()
    features[modality] = x + 0.3 * x.std() * torch.randn_like(x)
ids = Vocabulary(pl.Series([f"new-{n}-like-{catalogue[n]}" for n in models.tolist()]), "item")

noon = recommender.add_items(NewItems(ids, features, masks={}))
noon.save("runs/shop-noon", overwrite=True)
print(f"{len(noon.items)} items, {len(ids)} of them new, are in runs/shop-noon")
print("Nearest to each new item, by what the model has learned:")
for item in ids.ids:
    print(f"  {item}: {', '.join(map(str, noon.similar_items(item, k=3)['item']))}")

best = noon.recommend(k=20)
found = best.filter(pl.col("item").is_in(ids.ids.implode()))
print(f"{found['user'].n_unique()} of {best['user'].n_unique()} users get a new item among their best 20:")
print(found.head(5))
