import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from torch_geometric.data import HeteroData

from lirdrec_pyg import DataConfig, Dataset, build_graph
from lirdrec_pyg.data import (
    HELD_OUT,
    INTERACTED_BY,
    INTERACTS,
    feature_mask,
    held_out_edges,
    item_features,
    set_new_items,
)
from lirdrec_pyg.errors import ConfigError, DataError

IDS = [f"i{n:02}" for n in range(12)]
USERS = np.repeat([f"u{n}" for n in range(8)], 6)
ITEMS = np.array(IDS)[np.random.default_rng(0).integers(0, len(IDS), len(USERS))]
X = np.random.default_rng(1).standard_normal((len(IDS), 3)).astype(np.float32)
CATALOG = {"sku": IDS, "Title": [f"Item {name}" for name in IDS], "image": [f"{name}.jpg" for name in IDS]}
TABLES = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "lazy polars": pl.LazyFrame, "arrow": pa.table}


def same(a: Dataset, b: Dataset) -> bool:
    edges = [[d.graph[INTERACTS].edge_index, *(held_out_edges(d.graph, split) for split in HELD_OUT)] for d in (a, b)]
    return (
        all(torch.equal(x, y) for x, y in zip(*edges, strict=True))
        and torch.equal(item_features(a.graph, "text"), item_features(b.graph, "text"))
        and a.users.ids.equals(b.users.ids)
        and a.items.ids.equals(b.items.ids)
    )


def small_graph() -> HeteroData:
    return build_graph(np.array([[0, 1], [1, 2]]), {"text": X})


@pytest.mark.parametrize("kind", TABLES)
def test_all_kinds_of_tables_are_the_same_data(kind: str) -> None:
    make = TABLES[kind]
    clicks, catalog = make({"user": USERS, "sku": ITEMS}), make(CATALOG)
    expected = Dataset.from_frames((USERS, ITEMS), {"text": dict(zip(IDS, X))})
    features = {
        "rows of the catalog": X,
        "a tensor": torch.from_numpy(X),
        "lists": X.tolist(),
        "tensors of items": {name: torch.from_numpy(x).requires_grad_() for name, x in zip(IDS, X)},
        "a table of numbers": make({"sku": IDS, "a": X[:, 0], "b": X[:, 1], "c": X[:, 2]}),
        "a table of lists": make({"sku": IDS, "vector": [row.tolist() for row in X]}),
    }
    for name, values in features.items():
        found = Dataset.from_frames(clicks, {"text": values}, catalog, item_column="sku")
        assert same(found, expected), name
        assert found.config == DataConfig(item_column="sku")
        assert found.catalog is not None
        assert (found.catalog.title, found.catalog.picture) == ("Title", "image")
        assert found.catalog.titles(pl.Series(["i03", "unknown"])).to_list() == ["Item i03", None]
    assert "synthetic" not in str(expected.facts)


def test_the_index_of_a_pandas_table_is_no_data() -> None:
    features = pd.DataFrame(X, columns=["a", "b", "c"], index=range(1000, 1000 + len(IDS))).assign(item_id=IDS)
    dataset = Dataset.from_frames((USERS, ITEMS), {"text": features})
    assert item_features(dataset.graph, "text").shape == (len(IDS), 3)


def test_texts_in_the_index_of_a_pandas_table_are_ids() -> None:
    expected = Dataset.from_frames((USERS, ITEMS), {"text": dict(zip(IDS, X))})
    found = Dataset.from_frames((USERS, ITEMS), {"text": pd.DataFrame(X, index=IDS)})
    assert same(found, expected)


def test_integer_ids_of_arrays_are_rows() -> None:
    rows = np.random.default_rng(0).integers(0, len(IDS), len(USERS))
    dataset = Dataset.from_frames((USERS, rows), {"text": X})
    assert dataset.items.ids.to_list() == list(range(len(IDS)))
    assert torch.equal(item_features(dataset.graph, "text"), torch.from_numpy(X))


def test_missing_ids_of_pandas_are_refused() -> None:
    for missing in (None, np.nan, pd.NA):
        clicks = pd.DataFrame({"user": [*USERS[:-1], missing], "item": ITEMS})
        with pytest.raises(DataError, match=f"'user' in row {len(USERS) - 1}"):
            Dataset.from_frames(clicks, {"text": dict(zip(IDS, X))})


def test_missing_ids_of_arrays_are_refused() -> None:
    missing = {
        "NaN in a list of texts": [*USERS[:-1], np.nan],
        "null of Arrow": pa.array([*range(len(USERS) - 1), None]),
        "masked": np.ma.masked_equal(np.arange(len(USERS)), len(USERS) - 1),
    }
    for name, users in missing.items():
        with pytest.raises(DataError, match=f"'user' in row {len(USERS) - 1}"):
            pytest.fail(f"{name}: {Dataset.from_frames((users, ITEMS), {'text': dict(zip(IDS, X))})}")


def test_columns_of_pandas() -> None:
    # Rows of NaN are missing features, times may have any unit, and the missing title of a number is no text "NaN".
    features = pd.DataFrame(np.where(np.arange(len(IDS))[:, None] == 4, np.nan, X)).assign(item_id=IDS)
    times = pd.date_range("2020-01-01", periods=len(USERS)).astype("datetime64[s]")
    clicks = pd.DataFrame({"user": pd.Categorical(USERS), "item": pd.Categorical(ITEMS), "time": times})
    catalog = pd.DataFrame({"item_id": IDS, "title": [np.nan, *range(1, len(IDS))]})
    dataset = Dataset.from_frames(clicks, {"text": features}, catalog, zero_features="missing", split="time")
    mask = feature_mask(dataset.graph, "text")
    assert mask is not None
    assert (~mask).nonzero().tolist() == [[4]]
    assert dataset.catalog is not None
    assert dataset.catalog.titles(pl.Series(["i00", "i01"])).to_list() == [None, "1.0"]


def test_the_ids_of_a_catalog_can_be_its_titles() -> None:
    catalog = pl.DataFrame({"name": IDS, "image": [["a", "b"]] * len(IDS)})  # lists are not paths of images
    dataset = Dataset.from_frames((USERS, ITEMS), {"text": X}, catalog, item_column="name")
    assert dataset.catalog is not None
    assert dataset.catalog.titles(pl.Series(["i03"])).to_list() == ["i03"]
    assert dataset.catalog.picture is None


def test_the_ids_of_a_catalog_have_a_column_of_their_own(tmp_path: Path) -> None:
    features, catalog = dict(zip(IDS, X)), pl.DataFrame({"item": "x", "ean": IDS, "name": "N"})
    options = {"id_col": "ean", "item_column": "item"}
    clicks = pl.DataFrame({"user": USERS, "item": ITEMS})
    found = Dataset.from_frames(clicks, {"text": features}, catalog, **options)
    clicks.write_csv(tmp_path / "clicks.csv")
    catalog.write_csv(tmp_path / "catalog.csv")
    np.savez(tmp_path / "text_feat.npz", **features)
    read = Dataset.from_path(tmp_path / "clicks.csv", items=str(tmp_path / "catalog.csv"), **options)
    for dataset in (found, read):
        assert dataset.catalog is not None
        assert dataset.catalog.frame["id"].to_list() == IDS
    with pytest.raises(DataError, match="The item catalog has no rows"):
        Dataset.from_frames(clicks, {"text": features}, catalog.clear(), **options)


def test_items_without_a_row_in_the_catalog_are_named() -> None:
    features, catalog = {"text": dict(zip(IDS, X))}, pl.DataFrame({"id": [*IDS[:-2], "other"], "name": "x"})
    with pytest.warns(UserWarning, match=f"^2 of {len(IDS)} items have no row in the item catalog .'{IDS[-2]}', '"):
        dataset = Dataset.from_frames((USERS, ITEMS), features, catalog)
    assert dataset.catalog is not None
    assert len(dataset.catalog) == len(IDS) - 1


def test_graphs_made_by_hand_are_sorted() -> None:
    graph = build_graph(np.array([[0, 0, 1], [1, 2, 2]]), {"text": X})
    shuffled = graph.clone()
    shuffled[INTERACTS].edge_index = graph[INTERACTS].edge_index[:, [2, 0, 1, 2]]
    shuffled[INTERACTED_BY].edge_index = shuffled[INTERACTS].edge_index.flip([0])
    assert same(Dataset.from_graph(shuffled), Dataset.from_graph(graph))
    assert shuffled[INTERACTS].edge_index.size(1) == 4


def noted(**changes: Any) -> tuple[Dataset, list[str]]:
    """Return the data set of users and items as given, or as in USERS and ITEMS, and its warnings."""
    options: dict[str, Any] = {"user": USERS, "item": ITEMS, "text": dict(zip(IDS, X)), **changes}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pair = options.pop("user"), options.pop("item")
        dataset = Dataset.from_frames(pair, {"text": options.pop("text")}, **options)
    return dataset, [str(warning.message) for warning in caught]


def test_ids_with_spaces_are_named_and_can_be_stripped() -> None:
    plain = Dataset.from_frames((USERS, ITEMS), {"text": dict(zip(IDS, X))})
    odd = np.arange(len(USERS)) % 2 == 0
    user, item = np.where(odd, USERS + " ", USERS), np.where(odd, "\u00a0" + ITEMS, ITEMS)
    dataset, messages = noted(user=user, item=item)
    spaced = len(dataset.items) - len(IDS)
    assert len(dataset.users) == 16
    assert [message.split(",")[0] for message in messages[:2]] == [
        "16 user IDs differ from others only in spaces around them",
        f"{spaced} item IDs differ from others only in spaces around them",
    ]
    assert all("Pass `strip_ids=True`" in message for message in messages[:2])
    for features in (dict(zip(IDS, X)), {f" {name}\t": x for name, x in zip(IDS, X)}):
        dataset, messages = noted(user=user, item=item, text=features, strip_ids=True)
        assert same(dataset, plain)
        assert messages == []
    # IDs of a catalog, and integers.
    rows = [f"{IDS.index(name)} " for name in ITEMS]
    catalog = {"item_id": [f" {row}" for row in range(len(IDS))], "title": IDS}
    dataset, messages = noted(item=rows, text=X, items=pl.DataFrame(catalog), strip_ids=True)
    assert dataset.items.ids.to_list() == list(range(len(IDS)))
    assert dataset.catalog is not None
    assert dataset.catalog.titles(pl.Series([3])).to_list() == ["i03"]
    with pytest.raises(DataError, match=r"text IDs such as '.* '. Pass `strip_ids=True`"):
        noted(item=rows, text=X)


def test_capitals_are_named_unless_both_spellings_have_features() -> None:
    item = np.where(np.arange(len(ITEMS)) % 2 == 0, np.char.upper(ITEMS), ITEMS)
    count = len(set(item[item != ITEMS]))
    dataset, messages = noted(item=item)
    assert dataset.facts["items without text"] == count
    assert messages[0].startswith(f"{count} item IDs differ from others only in capitals or accents, such as 'I")
    both = {**dict(zip(IDS, X)), **{name.upper(): x for name, x in zip(IDS, X + 1)}}
    assert noted(item=item, text=both)[1] == []
    assert noted(user=np.where(np.arange(len(USERS)) < 3, "U0", USERS))[1] == [
        "2 user IDs differ from others only in capitals or accents, such as 'U0' and 'u0'. "
        "Write them alike if they mean the same user."
    ]


def test_ids_that_a_spreadsheet_rewrote_cause_a_warning() -> None:
    _, (message,) = noted(user=["4.00638E+12"] * len(USERS))
    assert message.startswith("1 of the 1 user IDs look rewritten, such as '4.00638E+12'.")
    decimal = [f"{name[1:]}.0" for name in ITEMS]
    _, (message,) = noted(item=decimal, text={f"{name[1:]}.0": x for name, x in zip(IDS, X)})
    assert message.startswith("12 of the 12 item IDs look rewritten")
    with pytest.raises(DataError, match=r"Write integers without \.0"):
        noted(item=decimal, text=X)


def test_words_for_missing_ids_in_features_are_refused_dropped_or_kept() -> None:
    known = ITEMS != "i00"
    clicks = {
        "user": USERS[known],
        "item": ITEMS[known],
        "text": {"NA" if k == "i00" else k: x for k, x in zip(IDS, X)},
    }
    with pytest.raises(DataError, match=r"features have the item ID 'NA'.*`missing_ids='drop'`.*`missing_ids='keep'`"):
        noted(**clicks)
    assert noted(**clicks, missing_ids="drop")[0].items.ids.to_list() == IDS[1:]
    assert noted(**clicks, missing_ids="keep")[0].items.ids.to_list() == ["NA", *IDS[1:]]


def test_ids_from_one_do_not_fit_rows_from_zero() -> None:
    rows = np.random.default_rng(0).integers(1, len(IDS) - 1, len(USERS))
    _, (message,) = noted(item=rows, text=X)
    assert "lowest item ID is 1" in message
    assert "pass it as `item_ids`" in message
    with pytest.raises(DataError, match=r"IDs seem to count from 1: list .* `item_ids`"):
        noted(item=np.append(rows[1:], len(IDS)), text=X)
    # In order are: a click on item 0, also of a user that a k-core removes, and a first row for padding.
    assert noted(item=np.append(rows[1:], 0), text=X)[1] == []
    alone = np.append(USERS, "other"), np.append(rows, 0)
    assert noted(user=alone[0], item=alone[1], text=X, k_core=2)[1] == []
    assert noted(item=rows, text=np.vstack([np.zeros_like(X[:1]), X[1:]]), zero_features="missing")[1] == []


def test_facts_name_dropped_rows_and_unused_columns() -> None:
    rating, user = np.arange(len(USERS)) % 5, np.where(np.arange(len(USERS)) == 1, "null", USERS)
    clicks = pd.DataFrame({"user": user, "item": ITEMS, "rating": rating, "age": 7})
    features = {"text": dict(zip(IDS, X))}
    facts = Dataset.from_frames(clicks, features, missing_ids="drop", min_rating="rating>=1").facts
    wanted = {"rows without an ID": 1, "rows below min_rating": 10, "columns not used": ["age"]}
    assert {name: facts[name] for name in wanted} == wanted


BAD = {
    "a path beside tables": (lambda: Dataset.from_frames((USERS, ITEMS), {"text": X}, data="x"), ConfigError, "`data`"),
    "a separator of tables": (
        lambda: Dataset.from_frames((USERS, ITEMS), {"text": X}, separator=";"),
        ConfigError,
        "`separator` and `header` are for files",
    ),
    "a column of arrays": (
        lambda: Dataset.from_frames((USERS, ITEMS), {"text": X}, min_rating="stars>2"),
        DataError,
        "No column 'stars' for `min_rating`",
    ),
    "a format without times": (
        lambda: Dataset.from_frames((USERS, ITEMS), {"text": X}, time_format="%Y"),
        ConfigError,
        "no column of times.*`time_format`.*`time_column`",
    ),
    "dates that read both ways": (
        lambda: Dataset.from_frames(
            pd.DataFrame({"user": USERS, "item": ITEMS, "time": "09/01/2020"}),
            {"text": dict(zip(IDS, X))},
            split="time",
        ),
        DataError,
        "`time_format` as '%d/%m/%Y' or '%m/%d/%Y'",
    ),
    "no features": (lambda: Dataset.from_frames((USERS, ITEMS), {}), DataError, "features"),
    "rows do not match the catalog": (
        lambda: Dataset.from_frames((USERS, ITEMS), {"text": X[:5]}, pl.DataFrame(CATALOG), item_column="sku"),
        DataError,
        "features\\['text'\\]` has 5 rows",
    ),
    "no ID column in the catalog": (
        lambda: Dataset.from_frames((USERS, ITEMS), {"text": X}, pl.DataFrame({"name": IDS})),
        DataError,
        "item catalog has no column of item IDs",
    ),
    "unknown title": (
        lambda: Dataset.from_frames(
            (USERS, ITEMS), {"text": X}, pl.DataFrame(CATALOG).rename({"sku": "id"}), title="x"
        ),
        DataError,
        "no column 'x'.*`title`",
    ),
    "a catalog of other items": (
        lambda: Dataset.from_frames(
            (USERS, ITEMS), {"text": dict(zip(IDS, X))}, pl.DataFrame({"id": [name.upper() for name in IDS]})
        ),
        DataError,
        "None of the 12 items of the catalog is known .'I00', .*Known items look like 'i00'",
    ),
    "not a table": (lambda: Dataset.from_frames(5, {"text": X}), DataError, "type int"),
    "invalid option": (lambda: Dataset.from_frames((USERS, ITEMS), {"text": X}, k_core=-1), ConfigError, "`k_core`"),
    "a column of no catalog": (
        lambda: Dataset.from_path("clicks.csv", id_col="sku"),
        ConfigError,
        "`id_col` is for the item catalog. Pass it as `items`",
    ),
    "no data": (lambda: Dataset.from_path(DataConfig()), ConfigError, "`data`"),
    "options of files for generated data": (
        lambda: Dataset.from_path("synthetic", k_core=3),
        ConfigError,
        "`k_core` is for files",
    ),
    "no vectors": (lambda: Dataset.from_frames((USERS, ITEMS), {"text": {}}), DataError, "'text'.* is empty"),
    "a number in place of a vector": (
        lambda: Dataset.from_frames((USERS, ITEMS), {"text": {"i00": torch.tensor(1.0), "i01": torch.ones(2)}}),
        DataError,
        r"'i00' has 1, 'i01' has 2",
    ),
    "a seed below zero": (
        lambda: Dataset.from_frames((USERS, ITEMS), {"text": X}, seed=-1),
        ConfigError,
        "`seed` is -1",
    ),
    "a seed of text": (
        lambda: Dataset.from_frames((USERS, ITEMS), {"text": X}, seed="a"),
        ConfigError,
        "`seed` is 'a'",
    ),
    "an array for text IDs": (
        lambda: Dataset.from_frames((USERS, ITEMS), {"text": X}),
        DataError,
        "Pass features with item IDs, or list the IDs",
    ),
    "a path": (lambda: Dataset.from_frames("clicks.csv", {"text": X}), DataError, "`Dataset.from_path`"),
    "three arrays": (lambda: Dataset.from_frames((USERS, ITEMS, ITEMS), {"text": X}), DataError, "two arrays"),
    "arrays of two lengths": (lambda: Dataset.from_frames((USERS, ITEMS[:5]), {"text": X}), DataError, "one length"),
    "features without a modality": (lambda: Dataset.from_frames((USERS, ITEMS), X), ConfigError, "mapping"),
    "vectors of two lengths": (
        lambda: Dataset.from_frames((USERS, ITEMS), {"text": {**dict(zip(IDS, X)), "i03": X[0][:2]}}),
        DataError,
        r"'text'.*one length \('i00' has 3, 'i03' has 2\)",
    ),
    "masked features": (
        lambda: Dataset.from_frames((USERS, ITEMS), {"text": np.ma.masked_less(X, 0)}, CATALOG, item_column="sku"),
        DataError,
        "masked",
    ),
    "a title of lists": (
        lambda: Dataset.from_frames(
            (USERS, ITEMS), {"text": X}, pl.DataFrame({"id": IDS, "tags": [["a"]] * len(IDS)}), title="tags"
        ),
        DataError,
        "'tags'.*not text",
    ),
    "fractions as IDs": (lambda: Dataset.from_graph(small_graph(), users=[0.5, 1.5]), DataError, "integers or text"),
    "IDs of two types": (lambda: Dataset.from_graph(small_graph(), users=[1, "a"]), DataError, "`users`.*one type"),
    "a number of IDs": (lambda: Dataset.from_graph(small_graph(), users=2), DataError, "`users`.*int"),
    "new items without IDs": (
        lambda: Dataset.from_graph(set_new_items(small_graph(), {"text": X[:1]})),
        DataError,
        "without_new_items",
    ),
    "wrong number of IDs": (
        lambda: Dataset.from_graph(build_graph(np.zeros((2, 1), int), {"text": X}), items=["a"]),
        DataError,
        "`items` has 1 IDs",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_error(case: str) -> None:
    make, error, text = BAD[case]
    with pytest.raises(error, match=text):
        make()


def test_a_graph_needs_no_ids() -> None:
    graph = build_graph(np.array([[0, 1], [1, 2]]), {"text": X}, val=np.array([[0], [3]]))
    dataset = Dataset.from_graph(graph, users=["a", "b"])
    assert dataset.users.ids.to_list() == ["a", "b"]
    assert dataset.items.ids.to_list() == list(range(len(IDS)))
    summary = dataset.summary()
    assert (summary["training"], summary["validation"], summary["test"]) == (2, 1, 0)
    assert summary["cold items"] == len(IDS) - 2


def test_paths_in_the_settings_hold_in_any_folder(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    pl.DataFrame({"user_id": USERS, "item_id": ITEMS}).write_csv(tmp_path / "clicks.csv")
    pl.DataFrame({"item_id": IDS, "vector": X.tolist()}).write_parquet(tmp_path / "text_feat.parquet")
    pl.DataFrame(CATALOG).rename({"sku": "item_id"}).write_csv(tmp_path / "catalog.csv")
    monkeypatch.chdir(tmp_path)
    dataset = Dataset.from_path("clicks.csv", items="catalog.csv", features={"text": "text_feat.parquet"})
    assert dataset.config is not None
    assert dataset.config.data == str(tmp_path / "clicks.csv")
    assert dataset.config.items == str(tmp_path / "catalog.csv")
    assert dataset.catalog is not None
    assert same(Dataset.from_path("clicks.csv", items="catalog.csv", features="."), dataset)
    with pytest.raises(ConfigError, match=r"`features` is 'gone'\. Pass a folder"):
        Dataset.from_path("clicks.csv", features="gone")
    monkeypatch.chdir("/")
    assert same(Dataset.from_path(dataset.config), dataset)


def test_pandas_indices_with_names_are_columns_and_large_floats_no_ids() -> None:
    pd = pytest.importorskip("pandas")
    clicks = pd.DataFrame({"user_id": [0, 0, 0, 1, 1, 1], "item_id": [0, 1, 2, 0, 1, 3]})
    x = {"image": np.ones((4, 2)) + np.eye(4, 2)}
    for frame in (clicks.set_index("user_id"), clicks.set_index(["user_id", "item_id"])):
        assert Dataset.from_frames(frame, x).summary()["users"] == 2
    twice = pd.concat([clicks, clicks["item_id"]], axis=1)
    with pytest.raises(DataError, match=r"'item_id'\. Rename one"):
        Dataset.from_frames(twice, x)
    with pytest.raises(DataError, match="cast them"):  # where floats merge neighboring integers
        Dataset.from_frames(clicks.assign(user_id=clicks["user_id"] + 2.0**60), x, missing_ids="drop")
