"""Recommend to all users of an export, on the machines of a Ray cluster or the cores of this one.

    lirdrec-pyg export runs/shop --format parquet --out exports
    python examples/recommend_with_ray.py exports recommendations [K]

Ray reads the users in blocks and hands them to its workers, which write the best K items of each, by default 20, as
Parquet files: the same lists as `lirdrec-pyg recommend runs/shop --all`. A worker keeps the vectors of all items in
memory and needs neither PyTorch nor PyG. On a cluster, both folders have to be where all machines find them.
"""

import math
import sys
from pathlib import Path

import numpy as np
import polars as pl

try:
    import ray
except ImportError:
    sys.exit("Run pip install 'lirdrec-pyg[ray]' first.")

import pyarrow as pa

_MAX_SCORES = 2**26  # of a batch, in all: 256 MB


class Recommender:
    """Ranks all items for a batch of users, by exact search; each worker has one."""

    def __init__(self, items: str, k: int) -> None:
        frame = pl.read_parquet(items)
        self.ids, self.vectors, self.k = frame["id"], frame["vector"].to_numpy(), min(k, len(frame))
        self.position = frame.select("id").with_row_index("position")

    def __call__(self, batch: pa.Table) -> pa.Table:
        users = pl.DataFrame(batch).drop_nulls("seen").with_row_index("row")
        score = users["vector"].to_numpy() @ self.vectors.T
        seen = users.select("row", "seen").explode("seen").join(self.position, left_on="seen", right_on="id")
        score[seen["row"].to_numpy(), seen["position"].to_numpy()] = -np.inf
        best = np.argpartition(score, -self.k, axis=1)[:, -self.k :]
        best = np.take_along_axis(best, np.take_along_axis(score, best, axis=1).argsort(axis=1)[:, ::-1], axis=1)
        found = {
            "user": users["id"].gather(np.arange(len(users)).repeat(self.k)),
            "item": self.ids.gather(best.ravel()),
            "rank": np.tile(np.arange(1, self.k + 1), len(users)),
            "score": np.take_along_axis(score, best, axis=1).ravel(),
        }
        return pl.DataFrame(found).filter(pl.col("score").is_finite()).to_arrow()


def main(exports: str, out: str, k: str = "20") -> None:
    users, items = (str(Path(exports, name).absolute()) for name in ("users.parquet", "items.parquet"))
    num_users, num_items = (pl.scan_parquet(path).select(pl.len()).collect().item() for path in (users, items))
    ray.init(ignore_reinit_error=True)
    workers = int(ray.cluster_resources()["CPU"])
    ray.data.read_parquet(users).map_batches(
        Recommender,
        fn_constructor_args=(items, int(k)),
        batch_format="pyarrow",
        batch_size=min(math.ceil(num_users / workers), max(1, _MAX_SCORES // num_items)),
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers),
    ).write_parquet(str(Path(out).absolute()), mode="overwrite")


if __name__ == "__main__":
    main(*sys.argv[1:])
