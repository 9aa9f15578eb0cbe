"""Data sets on disk: every layout gives the same dataset, in one pass over the features, and mistakes are named."""

import gzip
import json
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import scipy.sparse
import torch
from commands import lirdrec
from torch_geometric.data import HeteroData

from lirdrec_pyg.data import INTERACTS, Dataset, check_graph, held_out_edges, modalities

NUM_ITEMS = 6
IMAGE = np.random.default_rng(0).standard_normal((NUM_ITEMS, 3)).astype(np.float32)
TEXT = np.random.default_rng(1).standard_normal((NUM_ITEMS, 2)).astype(np.float32)

# (user, item, label) by position; item 5 is nowhere.
ROWS = [(0, 0, 0), (0, 2, 0), (0, 3, 1), (1, 2, 0), (1, 4, 2), (2, 0, 0), (2, 1, 0), (2, 4, 2)]

# IDs of the items, some of which are equal as numbers.
NAMES = ["007", "7", "B00Z", "a b", "é", "x,y"]


def table(names: list[str] | None = None, rows: list[tuple[int, int, int]] = ROWS) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "user_id": [f"u{user}" for user, _, _ in rows] if names else [user for user, _, _ in rows],
            "item_id": [names[item] if names else item for _, item, _ in rows],
            "split": [("train", "valid", "test")[label] for _, _, label in rows],
        }
    )


def save_image(folder: Path, x: np.ndarray = IMAGE, name: str = "image_feat.npy") -> None:
    np.save(folder / name, x)


def mmrec(folder: Path) -> None:
    lines = ["userID\titemID\tx_label", *("\t".join(map(str, row)) for row in ROWS)]
    (folder / "shop.inter").write_text("\n".join(lines))
    save_image(folder)
    save_image(folder, TEXT, "text_feat.npy")


def tiktok(folder: Path) -> None:
    for name, label in {"trnMat.pkl": 0, "valMat.pkl": 1, "tstMat.pkl": 2}.items():
        user, item = np.array([(user, item) for user, item, of in ROWS if of == label]).T
        matrix = scipy.sparse.coo_matrix((np.ones(len(user)), (user, item)), shape=(3, NUM_ITEMS))
        (folder / name).write_bytes(pickle.dumps(matrix))
    save_image(folder)
    save_image(folder, TEXT, "text_feat.npy")


def lattice(folder: Path) -> None:
    for name, label in {"train.json": 0, "val.json": 1, "test.json": 2}.items():
        items = {user: [item for of_user, item, of in ROWS if (of_user, of) == (user, label)] for user in range(3)}
        (folder / name).write_text(json.dumps(items))
    save_image(folder)
    save_image(folder, TEXT, "text_feat.npy")


def csv_by_position(folder: Path) -> None:
    table().write_csv(folder / "clicks.csv")
    save_image(folder)
    torch.save(torch.from_numpy(TEXT), folder / "text_feat.pt")


def parquet_with_names(folder: Path) -> None:
    """Write the features in another order than the items."""
    order = np.random.default_rng(2).permutation(NUM_ITEMS)
    table(NAMES).write_parquet(folder / "clicks.parquet")
    ids = [NAMES[item] for item in order]
    pl.DataFrame({"item": ids, "vector": IMAGE[order].tolist()}).write_parquet(folder / "image_feat.parquet")
    np.savez(folder / "text_feat.npz", features=TEXT[order[::-1]], ids=np.array(ids[::-1]))


def tsv_with_names(folder: Path) -> None:
    table(NAMES).write_csv(folder / "clicks.tsv", separator="\t")
    for name, x in {"image": IMAGE, "text": TEXT}.items():
        torch.save({"features": torch.from_numpy(x), "ids": NAMES}, folder / f"{name}_feat.pt")


LAYOUTS: dict[str, Callable[[Path], None]] = {
    layout.__name__: layout for layout in (mmrec, tiktok, lattice, csv_by_position, parquet_with_names, tsv_with_names)
}


def read(data: Path, seed: int = 999, **options: Any) -> Dataset:
    return Dataset.from_path(data, seed=seed, **options)


def by_id(data: Dataset, edges: torch.Tensor) -> set[tuple[Any, Any]]:
    """Convert pairs of positions to pairs of IDs."""
    users, items = (vocabulary.ids.to_list() for vocabulary in (data.users, data.items))
    return {(users[user], items[item]) for user, item in edges.T.tolist()}


def features_by_id(data: Dataset, modality: str) -> dict[Any, list[float]]:
    return dict(zip(data.items.ids.to_list(), data.graph["item"][f"x_{modality}"].tolist()))


def splits(graph: HeteroData) -> list[torch.Tensor]:
    return [graph[INTERACTS].edge_index, held_out_edges(graph, "valid"), held_out_edges(graph, "test")]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_contract(layout: str, tmp_path: Path, scans: Counter[int]) -> None:
    """All layouts give the same data, in one pass over each matrix."""
    LAYOUTS[layout](tmp_path)
    data = read(tmp_path)
    assert scans == {3: 1, 2: 1}
    named = "names" in layout
    items: list[Any] = NAMES if named else [*range(NUM_ITEMS)]
    users: list[Any] = ["u0", "u1", "u2"] if named else [0, 1, 2]
    check_graph(data.graph)
    assert data.users.ids.to_list() == users
    assert data.items.ids.to_list() == sorted(items)
    for label, edges in enumerate(splits(data.graph)):
        assert by_id(data, edges) == {(users[user], items[item]) for user, item, of in ROWS if of == label}
    for modality, x in {"image": IMAGE, "text": TEXT}.items():
        assert features_by_id(data, modality) == dict(zip(items, x.tolist()))
        assert f"mask_{modality}" not in data.graph["item"]
    assert data.facts["split"] == "labels"
    # Features passed by name replace those of the folder.
    path = tmp_path.parent / "elsewhere.parquet"
    pl.DataFrame({"item": items, "x": range(1, 7)}).write_parquet(path)
    other = read(tmp_path, features={"sound": str(path)})
    assert modalities(other.graph) == ("sound",)
    assert features_by_id(other, "sound") == {name: [n + 1.0] for n, name in enumerate(items)}


def test_features_are_read_twice_only_to_fill_in_missing_rows(tmp_path: Path, scans: Counter[int]) -> None:
    mmrec(tmp_path)
    x = IMAGE.copy()
    x[4] = 0
    save_image(tmp_path, x)
    read(tmp_path, zero_features="missing")
    assert scans == {3: 2, 2: 1}


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads the mappings of a Linux process")
@pytest.mark.parametrize("layout", ["mmrec", "tiktok"])
def test_half_precision_features_stay_in_their_file(layout: str, tmp_path: Path) -> None:
    LAYOUTS[layout](tmp_path)
    save_image(tmp_path, IMAGE.astype(np.float16))
    x = read(tmp_path).graph["item"].x_image
    assert x.dtype == torch.float16
    bounds = [line.split()[0] for line in Path("/proc/self/maps").read_text().splitlines() if "image_feat.npy" in line]
    assert any(
        low <= x.data_ptr() < high for low, high in ([int(bound, 16) for bound in pair.split("-")] for pair in bounds)
    )


def test_a_table_uses_the_features_beside_it(tmp_path: Path) -> None:
    csv_by_position(tmp_path)
    (tmp_path / "other.csv").write_text("not,the,one\n")
    data = read(tmp_path / "clicks.csv")
    assert data.facts["source"] == str(tmp_path / "clicks.csv")
    assert features_by_id(data, "image") == dict(enumerate(IMAGE.tolist()))


def test_an_inter_file_is_preferred_to_other_tables(tmp_path: Path) -> None:
    mmrec(tmp_path)
    (tmp_path / "notes.csv").write_text("not,the,one\n")
    assert read(tmp_path).facts["source"] == str(tmp_path / "shop.inter")


def test_the_mmrec_table_named_as_its_folder_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    mmrec(folder)
    (folder / "another-shop.inter").write_text("not\tthe\tone\n")
    assert read(folder).facts["source"] == str(folder / "shop.inter")
    monkeypatch.chdir(folder)
    assert read(Path(".")).facts["source"] == "shop.inter"


def test_other_files_beside_the_data_are_ignored(tmp_path: Path) -> None:
    """Published folders and macOS have such files, and some of them cannot be read."""
    mmrec(tmp_path)
    np.save(tmp_path / "user_graph_dict.npy", np.array({0: [[1], [2]]}, dtype=object))
    for name in ("._shop.inter", "._image_feat.npy", ".DS_Store", "adj_10.pt", "README.md", "shop.yaml"):
        (tmp_path / name).write_bytes(b"\x00\x05\x16\x07")
    for name in ("u_id_mapping.csv", "i_id_mapping.csv", "meta-shop.csv", "train.csv", "test.csv"):
        (tmp_path / name).write_text("a\tb\n1\t2\n")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "sound_feat.npy").write_bytes(b"")
    data = read(tmp_path)
    assert data.facts["source"] == str(tmp_path / "shop.inter")
    assert modalities(data.graph) == ("image", "text")


def test_unsupported_features_beside_others_are_named(tmp_path: Path) -> None:
    mmrec(tmp_path)
    (tmp_path / "sound_feat.h5").write_text("1,2\n")
    with pytest.warns(UserWarning, match=r"holds 'sound_feat\.h5', but feature files are .*'image', 'text'"):
        assert modalities(read(tmp_path).graph) == ("image", "text")


def lists(label: int, separator: str = " ") -> str:
    """Write one line per user, with the items of one split."""
    items = {user: [str(item) for of, item, own in ROWS if (of, own) == (user, label)] for user in range(3)}
    return "".join(separator.join([str(user), *own]) + "\n" for user, own in items.items())


def rows_of(label: int, **options: Any) -> pl.DataFrame:
    return table(None, [row for row in ROWS if row[2] == label]).drop("split", **options)


# Files with the rows of training, validation and test.
PARTS: dict[str, tuple[list[str], Callable[[Path, int], Any]]] = {
    "RecBole": (
        ["ml.train.inter", "ml.valid.inter", "ml.test.inter"],
        lambda path, label: (
            rows_of(label)
            .rename({"user_id": "user_id:token", "item_id": "item_id:token"})
            .write_csv(path, separator="\t")
        ),
    ),
    "csv": (["train.csv", "valid.csv", "test.csv"], lambda path, label: rows_of(label).write_csv(path)),
    "capitals": (["Train.CSV", "Dev.csv", "TEST.csv"], lambda path, label: rows_of(label).write_csv(path)),
    "gzip": (
        ["shop_train.tsv.gz", "shop_val.tsv.gz", "shop_test.tsv.gz"],
        lambda path, label: path.write_bytes(gzip.compress(rows_of(label).write_csv(separator="\t").encode())),
    ),
    "Parquet": (
        ["train-data.parquet", "validation-data.parquet", "test-data.parquet"],
        lambda path, label: rows_of(label).write_parquet(path),
    ),
    "JSON Lines": (
        ["train.jsonl", "val.jsonl", "test.jsonl"],
        lambda path, label: rows_of(label).write_ndjson(path),
    ),
    "JSON Lines in .json": (
        ["train.json", "val.json", "test.json"],
        lambda path, label: rows_of(label).write_ndjson(path),
    ),
    "LightGCN": (["train.txt", "val.txt", "test.txt"], lambda path, label: path.write_text(lists(label))),
}


@pytest.mark.parametrize("name", PARTS)
def test_files_of_one_split_each(name: str, tmp_path: Path) -> None:
    files, write = PARTS[name]
    paths = [tmp_path / file for file in files]
    for label, path in enumerate(paths):
        write(path, label)
    save_image(tmp_path)
    for catalog in ("items.csv", "texts.csv"):
        (tmp_path / catalog).write_text("item_id,title\n0,a\n")
    data = read(tmp_path)
    assert data.facts["source"] == str(tmp_path)
    assert data.facts["split"] == "labels"
    for label, edges in enumerate(splits(data.graph)):
        assert by_id(data, edges) == {(user, item) for user, item, of in ROWS if of == label}
    with pytest.warns(UserWarning, match=f"{files[0]} is split as if .*{files[1]}.* Pass the folder {tmp_path}"):
        one = read(paths[0], split="none")
    assert one.graph[INTERACTS].edge_index.size(1) == 5
    # Validation or test may be missing.
    for missing, sizes in ((2, [5, 1, 0]), (1, [5, 0, 2])):
        paths[missing].rename(tmp_path / "away")
        assert [edges.size(1) for edges in splits(read(tmp_path).graph)] == sizes
        (tmp_path / "away").rename(paths[missing])


def test_training_without_validation_says_so(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text(lists(0))
    (tmp_path / "test.txt").write_text(lists(2))
    save_image(tmp_path)
    result = lirdrec("fit", "--data", tmp_path, "--epochs", 1, "--out", tmp_path / "run")
    assert result.exit_code == 0
    assert "no validation split: training for exactly 1 epochs" in result.output
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert "test" in metrics
    assert "valid" not in metrics


def test_files_of_one_split_each_may_differ(tmp_path: Path) -> None:
    """IDs may look like integers in one file only, and times may be in one only."""
    (tmp_path / "train.csv").write_text("user_id,item_id,time\n1,2,5\n2,3,7\n")
    (tmp_path / "test.tsv").write_text("item_id\tuser_id\nx\t1\n2\t007\n")
    pl.DataFrame({"item": ["2", "3", "x"], "x": [1.0, 2.0, 3.0]}).write_parquet(tmp_path / "image_feat.parquet")
    data = read(tmp_path)
    assert by_id(data, held_out_edges(data.graph, "test")) == {("1", "x"), ("007", "2")}
    assert by_id(data, data.graph[INTERACTS].edge_index) == {("1", "2"), ("2", "3")}


def test_labels_within_files_of_one_split_are_not_used(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    save_image(tmp_path)
    for label, name in enumerate(("train.csv", "test.csv")):
        table(None, [row for row in ROWS if row[2] == 2 * label]).write_csv(tmp_path / name)
    assert [edges.size(1) for edges in splits(read(tmp_path).graph)] == [5, 0, 2]
    assert not recwarn
    table(None, [row for row in ROWS if row[2]]).write_csv(tmp_path / "test.csv")
    with pytest.warns(UserWarning, match=r"labels in .*test\.csv are not used"):
        assert [edges.size(1) for edges in splits(read(tmp_path).graph)] == [5, 0, 3]


def test_which_files_are_splits(tmp_path: Path, refuses: Any) -> None:
    mmrec(tmp_path)
    for name in ("train.csv", "test.csv", "users_train.txt", "users_test.txt"):
        (tmp_path / name).write_text("not,the,one\n")
    assert read(tmp_path).facts["source"] == str(tmp_path / "shop.inter")
    for name in ("shop.inter", "train.csv", "test.csv"):
        (tmp_path / name).unlink()
    table().write_csv(tmp_path / "clicks.csv")
    assert read(tmp_path).facts["source"] == str(tmp_path / "clicks.csv")
    for name in ("a_train.csv", "a_test.csv", "b_train.csv", "b_test.csv"):
        (tmp_path / name).write_text("")
    with refuses("5 tables (a_test.csv, a_train.csv", "`data`"):
        read(tmp_path)


def test_rare_suffixes_are_found_if_there_are_no_others(tmp_path: Path, refuses: Any) -> None:
    save_image(tmp_path)
    lines = "".join(f"{user}\t{item}\t5\t{160 + item}\n" for user, item, _ in ROWS)
    for name in ("notes.txt", "u.data", "ratings.csv"):  # from the least to the most usual
        (tmp_path / name).write_text(lines)
        assert read(tmp_path, header=False, split="none").facts["source"] == str(tmp_path / name)
    (tmp_path / "ratings.csv").unlink()
    (tmp_path / "more.jsonl").write_text("")
    with refuses("2 tables (more.jsonl, u.data)", "`data`"):
        read(tmp_path)


def test_uppercase_suffixes(tmp_path: Path) -> None:
    table().write_csv(tmp_path / "CLICKS.CSV")
    with (tmp_path / "IMAGE_feat.NPY").open("wb") as file:
        np.save(file, IMAGE)
    assert modalities(read(tmp_path).graph) == ("IMAGE",)


def test_listed_ids_assign_rows_to_items(tmp_path: Path) -> None:
    table(NAMES).write_csv(tmp_path / "clicks.csv")
    save_image(tmp_path)
    (tmp_path / "ids.txt").write_text("\ufeff" + "\r\n".join(NAMES) + "\r\n", encoding="utf-8")
    data = read(tmp_path, item_ids=str(tmp_path / "ids.txt"))
    assert features_by_id(data, "image") == dict(zip(NAMES, IMAGE.tolist()))


def test_blank_lines_at_the_end_of_a_list_of_ids_are_ignored(tmp_path: Path) -> None:
    mmrec(tmp_path)
    (tmp_path / "ids.txt").write_text("5\n4\n3\n2\n1\n0\n\n\n")
    data = read(tmp_path, item_ids=str(tmp_path / "ids.txt"))
    assert features_by_id(data, "image") == dict(enumerate(IMAGE[::-1].tolist()))


@pytest.mark.parametrize("side", ["interactions", "features"])
def test_ids_that_look_like_numbers_on_one_side_only(side: str, tmp_path: Path) -> None:
    """Integers on one side match equal text on the other side, and only equal text."""
    clicked = ["3", "1", "2"] if side == "interactions" else ["3", "1", "x"]
    featured = ["1", "2", "3", "03"] if side == "interactions" else ["1", "2", "3"]
    rows = [(user, item, label) for user in range(3) for label, item in enumerate(np.roll([0, 1, 2], user))]
    table(clicked, rows).write_csv(tmp_path / "clicks.csv")
    pl.DataFrame({"item": featured, "x": range(1, len(featured) + 1)}).write_parquet(tmp_path / "image_feat.parquet")
    data = read(tmp_path)
    assert data.items.ids.to_list() == sorted({*clicked, *featured})
    real = features_by_id(data, "image")
    assert {name: real[name] for name in featured} == {name: [n + 1.0] for n, name in enumerate(featured)}


def test_numbers_of_any_width_are_positions(tmp_path: Path) -> None:
    table().with_columns(pl.col("item_id").cast(pl.UInt64)).write_parquet(tmp_path / "clicks.parquet")
    save_image(tmp_path)
    assert features_by_id(read(tmp_path), "image") == dict(enumerate(IMAGE.tolist()))


def test_cold_users_and_items_are_kept(tmp_path: Path) -> None:
    mmrec(tmp_path)
    with (tmp_path / "shop.inter").open("a") as file:
        file.write("\n77\t1\t2\n")
    data = read(tmp_path)
    facts = data.summary()
    assert data.users.ids.to_list() == [0, 1, 2, 77]
    assert facts["cold users"] == 1
    assert facts["cold items"] == 3  # 3 and 4 are held out, 5 is nowhere
    assert facts["test pairs with cold items"] == 2
    assert (facts["interactions"], facts["training"], facts["validation"], facts["test"]) == (9, 5, 1, 3)


def test_items_without_features_have_the_mean(tmp_path: Path) -> None:
    table(NAMES).write_csv(tmp_path / "clicks.csv")
    known = [1, 2, 4, 5]
    pl.DataFrame({"item": [NAMES[n] for n in known], "vector": IMAGE[known].tolist()}).write_parquet(
        tmp_path / "image_feat.parquet"
    )
    np.savez(tmp_path / "text_feat.npz", features=TEXT, ids=np.array(NAMES))
    data = read(tmp_path)
    item = data.graph["item"]
    assert [data.items.ids[n] for n in item.mask_image.nonzero().view(-1).tolist()] == sorted(NAMES[n] for n in known)
    mean = torch.from_numpy(IMAGE[known].mean(axis=0)).expand(2, 3)
    torch.testing.assert_close(item.x_image[~item.mask_image], mean)
    assert "mask_text" not in item
    assert data.facts["items without image"] == 2


@pytest.mark.parametrize(("value", "named"), [(0.0, "all zeros in row 4"), (np.nan, "all NaN in row 4")])
def test_blank_features_may_stand_for_missing_ones(tmp_path: Path, value: float, named: str, refuses: Any) -> None:
    mmrec(tmp_path)
    x = IMAGE.copy()
    x[4] = value
    save_image(tmp_path, x)
    with refuses("image_feat.npy", named, "`zero_features='missing'`"):
        read(tmp_path)
    item = read(tmp_path, zero_features="missing").graph["item"]
    assert item.mask_image.tolist() == [True] * 4 + [False, True]
    torch.testing.assert_close(item.x_image[4], torch.from_numpy(IMAGE[[0, 1, 2, 3, 5]].mean(axis=0)))
    x[1, 1] = np.nan
    save_image(tmp_path, x)
    with refuses("image_feat.npy", "row 1, column 1"):
        read(tmp_path, zero_features="missing")


def test_features_of_few_items_cause_a_warning(tmp_path: Path) -> None:
    table([f"i{n}" for n in range(NUM_ITEMS)]).write_csv(tmp_path / "clicks.csv")
    pl.DataFrame({"item": ["i0", "i1"], "x": [1.0, 2.0]}).write_parquet(tmp_path / "image_feat.parquet")
    with pytest.warns(UserWarning, match="no features for 3 of the 5 items .*: its item IDs are such as 'i0', theirs"):
        read(tmp_path)


def test_item_ids_that_lost_their_zeros_cause_a_warning(tmp_path: Path) -> None:
    ids = [90, 91, 100, 101, 102, 103]
    table([f"{number:03}" for number in ids]).write_csv(tmp_path / "clicks.csv")
    pl.DataFrame({"item": ids, "x": IMAGE[:, 0]}).write_parquet(tmp_path / "image_feat.parquet")
    with pytest.warns(UserWarning, match="no features for 2 of the 5 items .*: did '090' lose its zeros there"):
        read(tmp_path)


@pytest.mark.filterwarnings("error")
def test_names_that_differ_only_in_zeros_cause_no_warning(tmp_path: Path) -> None:
    table(["007", "7", "8", "9", "10", "11"]).write_csv(tmp_path / "clicks.csv")
    pl.DataFrame({"item": [7, 8, 9, 10, 11], "x": IMAGE[1:, 0]}).write_parquet(tmp_path / "image_feat.parquet")
    assert read(tmp_path).facts["items without image"] == 1


def test_duplicates_are_merged(tmp_path: Path) -> None:
    mmrec(tmp_path)
    with (tmp_path / "shop.inter").open("a") as file:
        file.write("\n0\t0\t2\n1\t4\t0\n")
    data = read(tmp_path)
    assert data.facts["duplicates merged"] == 2
    train, _, test = (by_id(data, edges) for edges in splits(data.graph))
    assert {(0, 0), (1, 4)} <= train
    assert test == {(2, 4)}


def test_k_core_keeps_only_its_items(tmp_path: Path) -> None:
    rows = [(user, item, (user + item) % 3) for user in range(4) for item in range(4)] + [(9, 5, 0), (0, 5, 0)]
    table(None, rows).write_csv(tmp_path / "clicks.csv")
    save_image(tmp_path, np.concatenate([IMAGE[:5], np.full((1, 3), np.nan, np.float32)]))
    data = read(tmp_path, k_core=3)
    assert data.users.ids.to_list() == data.items.ids.to_list() == [0, 1, 2, 3]
    assert sum(edges.size(1) for edges in splits(data.graph)) == 16
    assert features_by_id(data, "image") == dict(enumerate(IMAGE[:4].tolist()))
    assert data.facts["k-core"] == 3


def test_the_random_split_depends_on_the_seed(shop: Path) -> None:
    def edges(seed: int) -> list[list[list[int]]]:
        return [part.tolist() for part in splits(read(shop, seed, split="random").graph)]

    assert edges(1) == edges(1)
    assert edges(1) != edges(2)
    facts = read(shop, 1, split="random").facts
    assert (facts["split"], facts["seed"]) == ("random", 1)


def test_a_split_may_use_times(tmp_path: Path) -> None:
    rows = [(user, item, 0) for user in range(5) for item in range(4)]
    days = [f"2024-01-{20 - n:02}" for n in range(20)]
    table(None, rows).drop("split").with_columns(day=pl.Series(days)).write_csv(tmp_path / "clicks.csv")
    save_image(tmp_path)
    by_time = read(tmp_path, split="time", time_column="day")
    assert by_id(by_time, held_out_edges(by_time.graph, "test")) == {(0, 0), (0, 1)}
    everything = read(tmp_path, split="none")
    assert [edges.size(1) for edges in splits(everything.graph)] == [20, 0, 0]
    assert everything.facts["split"] == "none"
    check_graph(everything.graph)
    last_out = read(tmp_path, split="leave-last-out", time_column="day")
    assert by_id(last_out, held_out_edges(last_out.graph, "test")) == {(user, 0) for user in range(5)}


# --- Mistakes --------------------------------------------------------------------------------------------------------


def without(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return change


def add_line(line: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        with (folder / "shop.inter").open("a") as file:
            file.write(f"\n{line}\n")

    return change


def features(x: Any, name: str = "image_feat.npy") -> Callable[[Path], None]:
    return lambda folder: save_image(folder, x, name)


def id_list(*lines: str, encoding: str = "utf-8") -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "ids.txt").write_text("\n".join(lines), encoding=encoding)

    return change


def keep_all(folder: Path) -> None:
    pass


def more_tables(folder: Path) -> None:
    (folder / "b.inter").write_text("")


def foreign_ids(folder: Path) -> None:
    (folder / "image_feat.npy").unlink()
    pl.DataFrame({"item": ["sku-1", "sku-2"], "x": [1.0, 2.0]}).write_parquet(folder / "image_feat.parquet")


def cut_features(folder: Path) -> None:
    save_image(folder, IMAGE[:4])
    save_image(folder, TEXT[:4], "text_feat.npy")


def late_nan(folder: Path) -> None:
    """Write rows in another order than the items: a message has to name the row of the file."""
    (folder / "image_feat.npy").unlink()
    np.savez(folder / "image_feat.npz", features=[[1.0, 3.0], [2.0, 5.0], [np.nan, 1.0]], ids=[4, 2, 0])


MISTAKES: dict[str, tuple[Callable[[Path], None], dict[str, Any], tuple[str, ...]]] = {
    "no table": (without("shop.inter"), {}, ("no table of interactions", "`data`")),
    "two tables": (more_tables, {}, ("2 tables (b.inter, shop.inter)", "`data`")),
    "no features": (without("image_feat.npy", "text_feat.npy"), {}, ("no item features", "`features`")),
    "features of another suffix": (
        lambda folder: [file.rename(file.with_suffix(".pkl")) for file in folder.glob("*.npy")] and None,
        {},
        ("'image_feat.pkl', 'text_feat.pkl'", "feature files are .npy"),
    ),
    "whole numbers as floats": (add_line("0\t4.0\t0"), {}, ("'4.0'", "without .0", "`item_ids`")),
    "no feature file": (keep_all, {"features": {"image": "nowhere.npy"}}, ("nowhere.npy",)),
    "two files of a modality": (
        lambda folder: np.savez(folder / "image_feat.npz", x=IMAGE),
        {},
        ("image_feat.npy and image_feat.npz", "`features`"),
    ),
    "too few rows": (
        cut_features,
        {},
        ("image_feat.npy has 4 rows", "item 4", "`item_ids`"),
    ),
    "rows that differ": (features(IMAGE[:5]), {}, ("image_feat.npy has 5", "text_feat.npy has 6")),
    "flat features": (features(IMAGE[:, 0]), {}, ("image_feat.npy", "(6,)")),
    "deep features": (features(IMAGE[None]), {}, ("image_feat.npy", "(1, 6, 3)")),
    "NaN": (features(np.where(IMAGE[1, 2] == IMAGE, np.nan, IMAGE)), {}, ("image_feat.npy", "row 1, column 2")),
    "infinity": (features(np.where(IMAGE[5, 0] == IMAGE, -np.inf, IMAGE)), {}, ("-inf in row 5, column 0",)),
    "NaN in a table with IDs": (late_nan, {}, ("image_feat.npz", "row 2, column 0")),
    "zero vector": (features(IMAGE * (np.arange(6) != 3)[:, None]), {}, ("image_feat.npy", "row 3")),
    "all zero": (features(IMAGE * 0), {"zero_features": "missing"}, ("x_image",)),
    "negative item": (add_line("0\t-4\t0"), {}, ("-4 is negative", "image_feat.npy", "`item_ids`")),
    "text item": (add_line("0\tB00Z\t0"), {}, ("image_feat.npy", "'B00Z'", "`item_ids`")),
    "foreign IDs": (foreign_ids, {}, ("image_feat.parquet", "none of the items", "'sku-1'")),
    "bad label": (add_line("0\t1\t7"), {}, ("shop.inter", "'7'", "line 10")),
    "missing ID": (add_line("\t1\t0"), {}, ("shop.inter", "'userID'", "line 10")),
    "one split only": (keep_all, {"split": "time"}, ("`time_column`",)),
    "too high a core": (keep_all, {"k_core": 9}, ("9-core",)),
    "wrong column": (keep_all, {"user_column": "who"}, ("shop.inter", "'who'", "'userID', 'itemID', 'x_label'")),
    "no list of IDs": (keep_all, {"item_ids": "ids.txt"}, ("ids.txt", "`item_ids`")),
    "short list of IDs": (id_list("0", "1"), {"item_ids": "ids.txt"}, ("image_feat.npy has 6 rows", "lists 2")),
    "duplicates in the list": (id_list(*"012340"), {"item_ids": "ids.txt"}, ("ids.txt", "the ID 0 more than once")),
    "gap in the list": (id_list(*"01", "", *"345"), {"item_ids": "ids.txt"}, ("ids.txt", "line 3")),
    "gap before empty lines": (id_list(*"01", "", *"345", "", ""), {"item_ids": "ids.txt"}, ("ids.txt", "line 3")),
    "other list": (id_list(*"abcdef"), {"item_ids": "ids.txt"}, ("none of the items", "'a'")),
    "list in other bytes": (id_list("é", encoding="latin-1"), {"item_ids": "ids.txt"}, ("ids.txt", "not a readable")),
}


def test_mistakes_are_named(tmp_path: Path, refuses: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, (change, options, texts) in enumerate(MISTAKES.values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        monkeypatch.chdir(folder)
        mmrec(folder)
        change(folder)
        with refuses(*texts):
            read(folder, **options)
    with refuses(tmp_path / "nowhere", "`data`"):
        read(tmp_path / "nowhere")


@pytest.mark.parametrize("split", ["labels", "random", "time"])
def test_one_item_is_refused(split: str, tmp_path: Path, refuses: Any) -> None:
    """The message is the same for all splits: more data of one item does not help."""
    clicks = table(None, [(user, 0, user % 3) for user in range(6)])
    (clicks if split == "labels" else clicks.drop("split")).write_csv(tmp_path / "clicks.csv")
    save_image(tmp_path, IMAGE[:1])
    with refuses("1 item", "At least two"):
        read(tmp_path, split=split)


def test_an_item_that_only_has_features_counts(tmp_path: Path, refuses: Any) -> None:
    table(None, [(user, 0, user % 3) for user in range(6)]).write_csv(tmp_path / "clicks.csv")
    save_image(tmp_path, IMAGE[:2])
    assert read(tmp_path).items.ids.to_list() == [0, 1]
    with refuses("1 item"):
        read(tmp_path, k_core=1)


def test_missing_features_may_have_a_mean_of_zero(tmp_path: Path) -> None:
    mmrec(tmp_path)
    (tmp_path / "image_feat.npy").unlink()
    np.savez(
        tmp_path / "image_feat.npz", features=[[1.0, -1.0], [-1.0, 1.0], [3.0, 2.0], [-3.0, -2.0]], ids=[0, 2, 4, 1]
    )
    item = read(tmp_path).graph["item"]
    assert item.mask_image.tolist() == [True, True, True, False, True, False]
    assert item.x_image[3].tolist() == [0, 0]


def test_features_may_use_the_item_column_of_the_interactions(tmp_path: Path) -> None:
    table().rename({"item_id": "product"}).write_csv(tmp_path / "clicks.csv")
    numbers = pl.DataFrame({"n_photos": range(6, 0, -1), "product": range(NUM_ITEMS)})
    numbers.write_parquet(tmp_path / "image_feat.parquet")
    texts = pl.DataFrame({"x": [n + 0.5 for n in range(NUM_ITEMS)], "item_id": range(NUM_ITEMS)})
    texts.write_parquet(tmp_path / "text_feat.parquet")
    data = read(tmp_path, item_column="product")
    assert features_by_id(data, "image") == {n: [6.0 - n] for n in range(NUM_ITEMS)}
    assert features_by_id(data, "text") == {n: [n + 0.5] for n in range(NUM_ITEMS)}


def test_a_damaged_feature_file_is_named_with_an_item_column(tmp_path: Path, refuses: Any) -> None:
    mmrec(tmp_path)
    path = tmp_path / "image_feat.parquet"
    path.write_bytes(b"noise")
    with refuses(path, "not a readable Parquet"):
        read(tmp_path, item_column="itemID", features={"image": str(path)})
    with refuses(tmp_path / "gone.parquet", "does not exist"):
        read(tmp_path, item_column="itemID", features={"image": str(tmp_path / "gone.parquet")})


REAL = Path(__file__).parents[3] / "shared" / "data" / "tiktok"


@pytest.mark.skipif(not (REAL / "raw").is_dir(), reason="needs the TikTok data")
def test_both_forms_of_the_real_data_are_one_graph() -> None:
    mmrec_form, raw_form = (read(folder).graph for folder in (REAL, REAL / "raw"))
    assert mmrec_form.metadata() == raw_form.metadata()
    for left, right in zip(splits(mmrec_form), splits(raw_form)):
        assert torch.equal(left, right)
    for modality in ("image", "audio"):
        assert torch.equal(mmrec_form["item"][f"x_{modality}"], raw_form["item"][f"x_{modality}"])
    assert (mmrec_form["user"].num_nodes, mmrec_form["item"].num_nodes) == (
        raw_form["user"].num_nodes,
        raw_form["item"].num_nodes,
    )
