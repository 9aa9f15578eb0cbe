"""Trained further with later interactions, users and items."""

import copy
import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from commands import lirdrec

from lirdrec_pyg import Dataset, LIRDRecConfig, Recommender, TrainingConfig, fit
from lirdrec_pyg.data import INTERACTS, ColumnConfig, NewItems, Vocabulary, held_out_edges
from lirdrec_pyg.data.interactions import columns_of_training
from lirdrec_pyg.errors import ConfigError, DataError, RunError
from lirdrec_pyg.recommender.update import UpdateConfig, promote


@pytest.fixture(scope="module")
def recommender(learnable_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    model = LIRDRecConfig(embedding_dim=8, knn_k=4)
    training = TrainingConfig(epochs=8, lr=0.01, batch_size=100, device="cpu")
    return fit(learnable_shop, model, training, tmp_path_factory.mktemp("runs") / "run")


def clicks(recommender: Recommender, users: list[int], per_user: int = 6) -> pl.DataFrame:
    """Clicks on items that the users do not know."""
    rng = np.random.default_rng(0)
    rows = []
    for user in users:
        position = recommender.users.find(pl.Series([user]))[0]
        seen = recommender.seen.pairs(torch.tensor([position]))[1].tolist() if position >= 0 else []
        free = np.setdiff1d(np.arange(len(recommender.items)), seen)
        rows += [(user, recommender.items.ids[int(item)]) for item in rng.choice(free, per_user, replace=False)]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row")
    return frame.sample(fraction=1, shuffle=True, seed=1).with_row_index("timestamp")


def test_users_and_clicks_join_and_the_training_goes_on(recommender: Recommender, tmp_path: Path) -> None:
    today = clicks(recommender, [0, 1, 2, 3, 900, 901])
    updated = recommender.update(today, out=tmp_path / "run", config=UpdateConfig(epochs=3, lr=0.001, num_validation=0))
    assert updated.users.ids.to_list() == [*recommender.users.ids, *updated.users.ids[-2:]]
    assert set(updated.users.ids[-2:]) == {900, 901}
    assert updated.graph[INTERACTS].edge_index.size(1) == recommender.seen.item.numel() + 28
    assert updated.dataset.facts["interactions added"] == len(today)
    known = {(u, i) for u, i in today.select("user_id", "item_id").rows()}
    offered = updated.recommend([0, 1, 2, 3, 900, 901], k=len(updated.items))
    assert not known & set(offered.select("user", "item").rows())
    assert offered["score"].is_finite().all()
    # The vectors are those of the weights on the larger graph, and stand in the run folder.
    loaded = Recommender.load(tmp_path / "run")
    assert loaded.recommend().equals(updated.recommend())
    assert loaded.evaluate("valid")["recall@20"] == pytest.approx(updated.metrics["valid"]["recall@20"])
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["update"] == updated.metrics["update"]


def test_columns_of_the_training_are_those_of_later_tables(recommender: Recommender, tmp_path: Path) -> None:
    graph, ids = recommender.graph, (recommender.users.ids, recommender.items.ids)
    table = pl.DataFrame(
        {role: x.gather(graph[INTERACTS].edge_index[row]) for row, (role, x) in enumerate(zip(("buyer", "sku"), ids))}
    )
    table = table.with_columns(fold=pl.Series(["train", "train", "train", "valid"] * len(table)).head(len(table)))
    features = {"image": dict(zip(ids[1], graph["item"].x_image.numpy()))}
    catalog = pl.DataFrame({"code": ids[1], "name": ids[1].cast(pl.String)})
    columns = {"user_column": "buyer", "item_column": "sku", "label_column": "fold", "id_col": "code"}
    dataset = Dataset.from_frames(table, features, catalog, split="labels", **columns)
    path = tmp_path / "run"
    fit(dataset, LIRDRecConfig(embedding_dim=4), TrainingConfig(epochs=1, batch_size=100)).save(path)
    loaded = Recommender.load(path)
    today = clicks(loaded, [0, 1, 900]).rename({"user_id": "buyer", "item_id": "sku"})
    updated = loaded.update(today, config=UpdateConfig(epochs=1, num_validation=0))
    assert updated.dataset.facts["interactions added"] == len(today)
    assert len(loaded.with_catalog(catalog).dataset.catalog) == len(catalog)
    by_table = loaded.recommend_for_history(today, k=3)
    by_lists = loaded.recommend_for_history(
        {user: rows["sku"] for (user,), rows in today.group_by("buyer", maintain_order=True)}, k=3
    )
    assert by_table.drop("user").equals(by_lists.drop("user"))
    ids = today["buyer"].to_list(), today["sku"].to_list()
    for later in (today.rename({"buyer": "user_id", "sku": "item_id"}), ids):
        again = loaded.update(later, config=UpdateConfig(epochs=1, num_validation=0))
        assert again.dataset.facts["interactions added"] == len(today)
    usual = today.rename({"buyer": "user_id", "sku": "item_id"})
    assert loaded.recommend_for_history(usual, k=3).equals(by_table)
    (tmp_path / "asked.csv").write_text("sku;buyer\n7;0\n8;1\n")
    result = lirdrec("recommend", path, "--users-file", tmp_path / "asked.csv", "--out", tmp_path / "asked.parquet")
    assert result.exit_code == 0, result.output
    assert set(pl.read_parquet(tmp_path / "asked.parquet")["user"]) == {0, 1}
    for name, frame in (("same", today), ("usual", usual)):
        frame.write_csv(tmp_path / f"{name}.csv")
        out = tmp_path / f"{name}.parquet"
        result = lirdrec("recommend", path, "--history-file", tmp_path / f"{name}.csv", "-k", 3, "--out", out)
        assert result.exit_code == 0, result.output
        assert pl.read_parquet(out)["item"].to_list() == by_table["item"].to_list()


def test_formats_of_times_are_those_of_a_training_that_recognized_the_column() -> None:
    for trained, names, time_format in (
        (ColumnConfig(time_format="%d/%m/%Y"), ["user_id", "item_id", "date"], "%d/%m/%Y"),
        (ColumnConfig(time_column="when", time_format="%d/%m/%Y"), ["user_id", "item_id", "when"], "%d/%m/%Y"),
        (ColumnConfig(time_column="when", time_format="%d/%m/%Y"), ["user_id", "item_id"], None),
    ):
        assert columns_of_training(trained, names).time_format == time_format


def test_the_gate_compares_both_on_the_held_out_clicks_of_known_users(recommender: Recommender) -> None:
    today = clicks(recommender, [*range(20), 900, 901])
    updated = recommender.update(today, config=UpdateConfig(epochs=2, lr=0.001))
    graph, drops = updated.graph, []
    learned = set(np.flatnonzero(recommender.has_history).tolist())
    train = graph[INTERACTS].edge_index.T.tolist()
    for split in ("valid", "test"):
        gate, pairs = updated.metrics["update"][split], held_out_edges(graph, split).T.tolist()
        for name, vectors in (("before", recommender.vectors), ("after", updated.vectors)):
            hits = []
            for user in sorted({u for u, _ in pairs} & learned):
                score = vectors.item @ vectors.user[user]
                score[[item for u, item in train if u == user]] = -torch.inf
                wanted = {item for u, item in pairs if u == user}
                hits.append(len(wanted & set(score.topk(20).indices.tolist())) / len(wanted))
            assert gate[name]["recall@20"] == pytest.approx(np.mean(hits))
            assert gate["users"] == len(hits)
        drops.append(1 - gate["after"]["recall@20"] / gate["before"]["recall@20"])
    assert updated.metrics["update"]["drop"] == pytest.approx(max(drops))


def test_all_weights_start_from_where_they_stood(recommender: Recommender) -> None:
    updated = recommender.update(clicks(recommender, [*range(20), 900]), config=UpdateConfig(lr=1e-12, epochs=1))
    for name, value in recommender.model.state_dict().items():
        if not name.startswith("fusion"):  # whose schedule goes on
            found = updated.model.state_dict()[name]
            torch.testing.assert_close(found[: len(value)], value, rtol=0, atol=1e-9, msg=name)
    assert not torch.equal(updated.vectors.user[:20], recommender.vectors.user[:20])  # their clicks joined the graph


def test_without_hold_out_all_clicks_are_trained_on_for_all_epochs(recommender: Recommender) -> None:
    today = clicks(recommender, [0, 900])
    updated = recommender.update(today, config=UpdateConfig(hold_out=0.0, epochs=2))
    assert updated.graph[INTERACTS].edge_index.size(1) == recommender.seen.item.numel() + len(today)
    assert updated.metrics["epochs"] == updated.metrics["best_epoch"] == 2
    assert "update" not in updated.metrics


def test_new_items_become_trained_ones_and_known_ones_are_left_out(recommender: Recommender) -> None:
    widths = {m: len(x[0]) for m, x in features_of(recommender).items()}
    new = NewItems(
        Vocabulary(pl.Series([0, 500, 501]), "item"), {m: torch.randn(3, width) for m, width in widths.items()}, {}
    )
    today = pl.concat(
        [clicks(recommender, [0, 1]).drop("timestamp"), pl.DataFrame({"user_id": [0, 5], "item_id": [500, 500]})]
    )
    updated = recommender.update(today, new, config=UpdateConfig(hold_out=0.0, epochs=1))
    assert updated.num_trained_items == len(updated.items) == len(recommender.items) + 2
    assert updated.items.ids[-2:].to_list() == [500, 501]
    again = updated.update(clicks(updated, [7, 8]), config=UpdateConfig(hold_out=0.0, epochs=1))  # the next night
    assert len(again.items) == len(updated.items)
    grown = updated.add_items(
        NewItems(Vocabulary(pl.Series([600]), "item"), {m: x[:1] for m, x in new.features.items()}, {})
    )
    later = grown.update(pl.DataFrame({"user": [3], "item": [600]}), config=UpdateConfig(hold_out=0.0, epochs=1))
    assert later.num_trained_items == len(grown.items)


def test_features_in_memory_fill_what_was_missing(recommender: Recommender) -> None:
    features = features_of(recommender)
    mask = torch.arange(len(recommender.items)) > 1
    graph = copy.copy(recommender.graph)
    graph["item"].mask_text = mask  # as if items 0 and 1 had no texts
    partial = replace(recommender, dataset=replace(recommender.dataset, graph=graph))
    text = {n: torch.randn(features["text"].size(1)) for n in (0, 3, 500)}
    today = pl.concat([clicks(recommender, [0, 1]), clicks(recommender, [2])])
    with pytest.warns(UserWarning, match=r"^Features of image are missing for all 1 new items\.$"):
        updated = partial.update(today, {"text": text}, config=UpdateConfig(hold_out=0.0, epochs=1))
    assert updated.items.ids[-1] == 500
    found = features_of(updated)["text"]
    assert torch.equal(found[0], text[0])
    assert torch.equal(found[3], features["text"][3])  # which was known
    assert (~updated.graph["item"].mask_text).nonzero().tolist() == [[1]]
    facts = updated.dataset.facts
    assert [facts[name] for name in ("items with more features", "items without text", "items without image")] == [
        1,
        1,
        1,
    ]


def features_of(recommender: Recommender) -> dict[str, torch.Tensor]:
    return {m: recommender.graph["item"][f"x_{m}"] for m in ("image", "text")}


def test_what_cannot_be_updated_is_refused(recommender: Recommender) -> None:
    with pytest.raises(DataError, match="Of 2 new interactions, too few are of known users"):
        recommender.update(clicks(recommender, [900], per_user=2))
    with pytest.raises(DataError, match="Of 12 new interactions, too few are of known users"):
        recommender.update(clicks(recommender, [900, 901]))
    known = recommender.items.ids.gather(recommender.history.pairs(torch.tensor([0]))[1].numpy())
    with pytest.raises(DataError, match="known already"):
        recommender.update(([recommender.users.ids[0]] * len(known), known))
    with pytest.raises(RunError, match="itself"):
        recommender.update(clicks(recommender, [0]), out=recommender.path, overwrite=True)
    flat = fit(recommender.dataset, LIRDRecConfig(embedding_dim=4, dct="2d"), TrainingConfig(epochs=1, device="cpu"))
    with pytest.raises(ConfigError, match="updates"):
        flat.update(clicks(recommender, [0]))


def test_a_link_always_leads_to_one_of_the_runs(tmp_path: Path) -> None:
    runs = [tmp_path / name for name in ("monday", "tuesday")]
    for run in runs:
        run.mkdir()
        (run / "name").write_text(run.name)
    link, found, stop = tmp_path / "current", set(), threading.Event()
    promote(runs[0], link)

    def read() -> None:
        while not stop.is_set():
            found.add((link / "name").read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(50):
        promote(runs[number % 2], link)
    stop.set()
    reader.join()
    assert found == {"monday", "tuesday"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["current", "monday", "tuesday"]
    assert link.resolve() == runs[1].resolve()


def test_only_links_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(RunError, match="not a symbolic link"):
        promote(tmp_path, tmp_path / "folder")
    with pytest.raises(RunError, match="does not exist"):
        promote(tmp_path, tmp_path / "nowhere" / "current")
