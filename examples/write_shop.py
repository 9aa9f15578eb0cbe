"""Write the generated data as the files of a shop, to try the commands on.

    python examples/write_shop.py [FOLDER]

By default, the folder is shop/. A tenth of the items have no clicks.
"""

import sys
from pathlib import Path

import numpy as np
import polars as pl
import torch

from lirdrec_pyg.data import INTERACTS
from lirdrec_pyg.datasets import synthetic_data

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "shop")
shop = synthetic_data()
edges = shop.graph[INTERACTS]
user, item = torch.cat([edges.edge_index, edges.val_edge_label_index, edges.test_edge_label_index], dim=1)
clicked = item < len(shop.items) * 9 // 10
clicks = {"user_id": shop.users.ids[user[clicked].numpy()], "item_id": shop.items.ids[item[clicked].numpy()]}
catalog = shop.catalog.frame.rename({"id": "item_id"})

folder.mkdir(parents=True, exist_ok=True)
pl.DataFrame(clicks).write_csv(folder / "clicks.csv")
catalog.select(pl.exclude("image"), "image").write_csv(folder / "catalog.csv")
for modality in ("image", "text"):
    features = shop.graph["item"][f"x_{modality}"].numpy()
    np.savez(folder / f"{modality}_feat.npz", features=features, ids=shop.items.ids.to_numpy().astype(str))
print(f"{folder} has {len(clicks['user_id']):,} clicks on {len(catalog):,} items.")
