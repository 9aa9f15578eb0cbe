"""Recommend to new users by a few clicks, without any further training.

    python examples/fold_in_user.py [RUN [ITEM ...]]

RUN is a run folder, by default runs/shop, which examples/train_from_csv.py writes. By default, the clicked items are
three similar items of its catalog.
"""

import sys

from lirdrec_pyg import Recommender
from lirdrec_pyg.errors import LIRDRecError

run, *clicked = sys.argv[1:] or ["runs/shop"]
try:
    recommender = Recommender.load(run)
except LIRDRecError as error:
    sys.exit(f"{error} Run examples/train_from_csv.py first, which writes runs/shop.")
items = recommender.items.ids
clicked = clicked or [items[0], *recommender.similar_items(items[0], k=2)["item"]]

print("clicked:", ", ".join(map(str, clicked)))
try:
    print(recommender.recommend_for_history({"newcomer": clicked}, k=5))
except LIRDRecError as error:
    sys.exit(str(error))

# Several users in one call, and only items in stock.
histories = {"anna": [items[1]], "ben": items[2:10:4]}
print(recommender.recommend_for_history(histories, k=2, candidates=items[::2]))
