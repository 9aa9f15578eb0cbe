"""A small valid file of each form that the readers support, to be mutated."""

import gzip
import json
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mutations
import numpy as np
import polars as pl
import scipy.sparse
import torch
from mutations import BYTES, TEXT, Mutation
from safetensors.torch import save_file

from lirdrec_pyg.data import DataConfig
from lirdrec_pyg.models import LIRDRecConfig
from lirdrec_pyg.recommender import fit
from lirdrec_pyg.training import TrainingConfig

NUM_ITEMS, WIDTH = 6, 3
NAMES = ["007", "7", "B00Z", "a b", "é", "x,y"]
# (user, item, label); every split has some.
ROWS = [(user, (2 * user + n) % NUM_ITEMS, max(0, n - 1)) for user in range(5) for n in range(4)]
X = np.random.default_rng(0).standard_normal((NUM_ITEMS, WIDTH)).astype(np.float32)


@dataclass(frozen=True)
class Form:
    """A form of files.

    Attributes:
        write: writes a valid one into an empty folder.
        mutated: name of the file that is mutated.
        reader: function of ``reading_child`` that reads it.
        read: name of the file that is read, ``"."`` for the folder; by default the mutated one.
        options: options of the reader.
        mutations: mutations that fit the form.
        packed: whether to mutate the content of a gzip file.
    """

    write: Callable[[Path], Any]
    mutated: str
    reader: str
    read: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    mutations: Sequence[Mutation] = BYTES
    packed: bool = False

    def mutate(self, content: bytes, chosen: Sequence[Mutation], seed: int) -> bytes:
        if not self.packed:
            return mutations.mutate(content, chosen, seed)
        return gzip.compress(mutations.mutate(gzip.decompress(content), chosen, seed), 1, mtime=0)


def rows(names: bool) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "who": [f"u{user}" if names else user for user, _, _ in ROWS],
            "what": [NAMES[item] if names else item for _, item, _ in ROWS],
            "split": [("train", "valid", "test")[label] for _, _, label in ROWS],
            "when": [f"2024-05-{1 + n:02} 18:00:00" for n in range(len(ROWS))],
        }
    )


OWN_COLUMNS = {"user_column": "who", "item_column": "what", "time_column": "when"}


def mmrec(folder: Path) -> None:
    table = ["userID\titemID\tx_label", *("\t".join(map(str, row)) for row in ROWS)]
    (folder / "shop.inter").write_text("\n".join(table) + "\n")
    np.save(folder / "image_feat.npy", X)
    np.save(folder / "text_feat.npy", X[:, :2].astype(np.float16))


def tiktok(protocol: int, form: str = "coo") -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for name, label in {"trnMat.pkl": 0, "valMat.pkl": 1, "tstMat.pkl": 2}.items():
            user, item = np.array([(user, item) for user, item, of in ROWS if of == label]).T
            matrix = scipy.sparse.coo_matrix((np.ones(len(user)), (user, item)), shape=(5, NUM_ITEMS))
            (folder / name).write_bytes(pickle.dumps(matrix.asformat(form), protocol))
        np.save(folder / "image_feat.npy", X)

    return write


def lattice(folder: Path) -> None:
    for name, label in {"train.json": 0, "val.json": 1, "test.json": 2}.items():
        items = {user: [item for of_user, item, of in ROWS if (of_user, of) == (user, label)] for user in range(5)}
        (folder / name).write_text(json.dumps(items))
    np.save(folder / "image_feat.npy", X)


def user_lists(folder: Path) -> None:
    for name, label in {"train.txt": 0, "valid.txt": 1, "test.txt": 2}.items():
        items = {user: [item for of_user, item, of in ROWS if (of_user, of) == (user, label)] for user in range(5)}
        (folder / name).write_text("".join(f"{user} {' '.join(map(str, own))}\n" for user, own in items.items()))
    np.save(folder / "image_feat.npy", X)


def reviews(folder: Path) -> None:
    lines = [{"reviewerID": f"A{user}", "asin": NAMES[item], "split": label, "text": "x"} for user, item, label in ROWS]
    (folder / "reviews.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    np.savez(folder / "image_feat.npz", features=X, ids=np.array(NAMES))


def own_csv(folder: Path) -> None:
    rows(names=True).write_csv(folder / "clicks.csv", separator=";")
    pl.DataFrame({"what": NAMES, "vector": X.tolist()}).write_parquet(folder / "image_feat.parquet")


def gzipped_csv(folder: Path) -> None:
    text = rows(names=False).rename({"who": "user", "what": "item"}).write_csv()
    (folder / "clicks.csv.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    torch.save(torch.from_numpy(X), folder / "image_feat.pt")


def own_parquet(folder: Path) -> None:
    frame = rows(names=True).with_columns(pl.col("when").str.to_datetime())
    frame.write_parquet(folder / "clicks.parquet", row_group_size=7)
    np.savez(folder / "image_feat.npz", features=X, ids=np.array(NAMES))


def parquet_of(compression: Any, **columns: Any) -> Callable[[Path], Any]:
    return lambda d: pl.DataFrame(columns).write_parquet(d / "x.parquet", compression=compression)


def listed_ids(folder: Path) -> None:
    np.save(folder / "x.npy", X)
    (folder / "ids.txt").write_text("\n".join(NAMES) + "\n")


def run_folder(folder: Path) -> None:
    """A trained run with held-out items."""
    mmrec(folder)
    (folder / "shop.inter").write_text(
        "userID\titemID\n" + "".join(f"{user}\t{item}\n" for user in range(9) for item in range(NUM_ITEMS))
    )
    config = DataConfig(data=str(folder), split="cold-items", cold_fraction=0.34)
    model = LIRDRecConfig(embedding_dim=4, knn_k=2)
    fit(config, model, TrainingConfig(epochs=1, batch_size=64, device="cpu"), out=folder / "run")


def _run(name: str, kind: Sequence[Mutation] = BYTES, **options: Any) -> Form:
    return Form(run_folder, f"run/{name}", "run", "run", options, kind)


FLAT = {f"c{n}": column for n, column in enumerate(X.T)}

FORMS: dict[str, Form] = {
    "MMRec table": Form(mmrec, "shop.inter", "data", ".", mutations=TEXT),
    "MMRec features": Form(mmrec, "image_feat.npy", "data", "."),
    "csv of own columns": Form(own_csv, "clicks.csv", "data", ".", {**OWN_COLUMNS, "separator": ";"}, TEXT),
    "csv split by time": Form(
        own_csv, "clicks.csv", "data", ".", {**OWN_COLUMNS, "separator": ";", "split": "leave-last-out"}, TEXT
    ),
    "csv in gzip": Form(gzipped_csv, "clicks.csv.gz", "data", ".", mutations=TEXT, packed=True),
    "gzip": Form(gzipped_csv, "clicks.csv.gz", "table"),
    "table in parquet": Form(own_parquet, "clicks.parquet", "data", ".", OWN_COLUMNS),
    "tiktok, protocol 3": Form(tiktok(3), "tstMat.pkl", "data", ".", mutations=TEXT),
    "tiktok, protocol 2": Form(tiktok(2), "trnMat.pkl", "data", "."),
    "tiktok, CSR": Form(tiktok(4, "csr"), "trnMat.pkl", "data", "."),
    "tiktok, CSC": Form(tiktok(4, "csc"), "tstMat.pkl", "data", "."),
    "lattice": Form(lattice, "train.json", "data", ".", mutations=TEXT),
    "lists of users": Form(user_lists, "train.txt", "data", ".", mutations=TEXT),
    "JSON Lines": Form(reviews, "reviews.json", "data", "reviews.json", mutations=TEXT),
    "tiktok, protocol 5": Form(tiktok(5), "valMat.pkl", "data", "."),
    "npy": Form(lambda d: np.save(d / "x.npy", X), "x.npy", "features", mutations=TEXT),
    "npz": Form(lambda d: np.savez(d / "x.npz", features=X, ids=np.array(NAMES)), "x.npz", "features"),
    "npz, compressed": Form(
        lambda d: np.savez_compressed(d / "x.npz", features=X, ids=np.arange(NUM_ITEMS)), "x.npz", "features"
    ),
    "pt": Form(lambda d: torch.save(torch.from_numpy(X), d / "x.pt"), "x.pt", "features"),
    "pt with IDs": Form(
        lambda d: torch.save({"features": torch.from_numpy(X), "ids": NAMES}, d / "x.pt"), "x.pt", "features"
    ),
    "pt of old": Form(
        lambda d: torch.save(torch.from_numpy(X), d / "x.pt", _use_new_zipfile_serialization=False), "x.pt", "features"
    ),
    "safetensors": Form(
        lambda d: save_file({"x": torch.from_numpy(X), "ids": torch.arange(NUM_ITEMS)}, d / "x.safetensors"),
        "x.safetensors",
        "features",
        mutations=TEXT,
    ),
    "parquet of columns": Form(parquet_of("uncompressed", item=NAMES, **FLAT), "x.parquet", "features"),
    "parquet of columns, zstd": Form(parquet_of("zstd", item=NAMES, **FLAT), "x.parquet", "features"),
    "parquet of lists": Form(parquet_of("snappy", item=NAMES, vector=X.tolist()), "x.parquet", "features"),
    "parquet of arrays": Form(parquet_of("lz4", item=range(NUM_ITEMS), vector=X), "x.parquet", "features"),
    "list of IDs": Form(listed_ids, "ids.txt", "ids", mutations=TEXT),
    "IDs of new items": Form(listed_ids, "ids.txt", "new_items", "x.npy", {"ids": "ids.txt"}, TEXT),
    "new items": Form(parquet_of("zstd", item=NAMES, **FLAT), "x.parquet", "new_items"),
    "vocabulary": Form(parquet_of("zstd", id=NAMES), "x.parquet", "vocabulary"),
    "graph": Form(run_folder, "run/graph.safetensors", "graph", mutations=TEXT),
    "checkpoint": Form(run_folder, "run/checkpoint.safetensors", "checkpoint", mutations=TEXT),
    "run: config": _run("config.yaml", TEXT),
    "run: versions": _run("versions.json", TEXT),
    "run: metrics": _run("metrics.json", TEXT),
    "run: users": _run("users.parquet"),
    "run: graph": _run("graph.safetensors", TEXT),
    "run: new items": _run("new_items.safetensors", TEXT),
    "run: model": _run("model.safetensors", TEXT),
    "run: vectors": _run("vectors.safetensors", TEXT),
    "run: regression": _run("regression.safetensors", TEXT),
    "run: checksums": Form(run_folder, "run/SHA256SUMS", "verify", "run", mutations=TEXT),
    "options": Form(run_folder, "run/config.yaml", "config", mutations=TEXT),
}
