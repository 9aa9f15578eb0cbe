from typing import NamedTuple

import polars as pl


class Explanation(NamedTuple):
    """Why an item has its score for a user.

    A share is a part of the score, divided by the sum of the absolute values of all parts of :attr:`items` and of
    :attr:`user_part`. If no part is negative, it is the fraction of the score.

    Attributes:
        score: score of the item.
        items: one row per training item of the user, the largest part first: ``item``, its ``part`` of the score and
            its ``share``.
        user_part: part of what was learned about the user beyond the items; it and the parts of :attr:`items` add up to
            the score.
        user_share: its share.
        branches: one row per branch: ``branch``, the ``weight`` of the user's fusion, null for the linear branch, and
            the ``part`` of the score, which sum to it; empty for a model without branches.
        nearest: the user's other training items that are most similar to the item by raw features: ``modality``,
            ``item``, ``cosine``.
    """

    score: float
    items: pl.DataFrame
    user_part: float
    user_share: float
    branches: pl.DataFrame
    nearest: pl.DataFrame
