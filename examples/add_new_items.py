"""Add items that arrived after the training, and recommend them without any further training.

    python examples/add_new_items.py [RUN]

RUN is a run folder, by default runs/shop, which examples/train_from_csv.py writes. The new items are generated: each is
a noisy copy of an item of the catalog. Yours may also be mappings from item IDs to vectors, or tables; ``lirdrec-pyg
add-items`` reads them from files.
"""

import sys

import polars as pl
import torch

from lirdrec_pyg import Recommender
from lirdrec_pyg.data import item_features, modalities
from lirdrec_pyg.errors import LIRDRecError

try:
    recommender = Recommender.load(sys.argv[1] if len(sys.argv) > 1 else "runs/shop")
except LIRDRecError as error:
    sys.exit(f"{error} Run examples/train_from_csv.py first, which writes runs/shop.")

torch.manual_seed(0)
features = {}
for modality in modalities(recommender.graph):
    x = item_features(recommender.graph, modality)[:4].float()
    features[modality] = x + 0.3 * x.std() * torch.randn_like(x)
new = pl.Series([f"new-like-{item}" for item in recommender.items.ids[:4]])

extended = recommender.add_items(features, ids=new)
extended.save("runs/shop-extended", overwrite=True)
print(f"{len(extended.items)} items, {len(new)} of them new, are in runs/shop-extended")
print("Most similar items of each new item:")
for item in new:
    print(f"  {item}: {', '.join(map(str, extended.similar_items(item, k=3)['item']))}")

best = extended.recommend(k=20)
found = best.filter(pl.col("item").is_in(new.implode()))
print(f"{found['user'].n_unique()} of {best['user'].n_unique()} users get a new item among their best 20:")
print(found.head(5))
