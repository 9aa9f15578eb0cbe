"""Recommend to somebody who came after the training, by a few clicks.

    python examples/fold_in_user.py [RUN [ITEM ...]]

RUN is runs/shop by default, which examples/train_from_csv.py leaves behind; the items are three of its
catalogue unless they are named.
"""

import sys

from lirdrec_pyg.serving import Recommender

run, *clicked = sys.argv[1:] or ["runs/shop"]
recommender = Recommender.load(run)
# Items that look alike, as somebody would click who is after one thing.
first = recommender.items.ids[0]
clicked = clicked or [first, *recommender.similar_items(first, k=2)["item"]]

print("clicked:", ", ".join(map(str, clicked)))
print(recommender.recommend_for_history({"newcomer": clicked}, k=5))

# Many at once, each with a history of their own, and only from what is in stock.
in_stock = recommender.items.ids[::2]
histories = {"anna": [recommender.items.ids[1]], "ben": recommender.items.ids[2:10:4]}
print(recommender.recommend_for_history(histories, k=2, candidates=in_stock))
