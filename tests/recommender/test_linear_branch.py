"""After the training of a model with a softmax loss, reduced features, averaged weights and a linear branch."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import torch.nn.functional as F
from commands import lirdrec
from safetensors.torch import load_file
from trainers import Stop

from lirdrec_pyg import Callback, LIRDRecConfig, Recommender, TrainingConfig, fit, resume
from lirdrec_pyg.data import INTERACTS, NewItems, Vocabulary, item_features
from lirdrec_pyg.models import ItemRegression, LIRDRec, fold_in_users, new_nodes
from lirdrec_pyg.models.linear import linear_items
from lirdrec_pyg.recommender.update import UpdateConfig
from lirdrec_pyg.training import Trainer

MakeNewItems = Callable[..., NewItems]

MODEL = LIRDRecConfig(embedding_dim=8, knn_k=4, loss="softmax", feature_dim=5, linear_dim=6)
TRAINING = TrainingConfig(epochs=4, lr=0.01, batch_size=100, ema=0.9, device="cpu")
TENSORS = ("model", "vectors", "regression")


@pytest.fixture(scope="module")
def best_run(learnable_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "best"
    fit(learnable_shop, MODEL, TRAINING, out)
    return out


def assert_same_run(one: Path, other: Path) -> None:
    for name in TENSORS:
        expected, actual = (load_file(run / f"{name}.safetensors") for run in (one, other))
        assert expected.keys() == actual.keys()
        assert all(torch.equal(expected[key], actual[key]) for key in expected), name
    assert (one / "config.yaml").read_text() == (other / "config.yaml").read_text()


def linear_columns(recommender: Recommender, items: slice = slice(None)) -> torch.Tensor:
    return recommender.vectors.item[items, recommender.vectors.width :]


# --- Items and users -------------------------------------------------------------------------------------------------


def test_new_items_have_all_columns(linear_recommender: Recommender, new_items: MakeNewItems, tmp_path: Path) -> None:
    grown = linear_recommender.add_items(new_items("n0", "n1", "n2", "n3", missing={"image": [1, 3], "text": [2, 3]}))
    columns = linear_columns(grown, slice(-4, None))
    assert not columns.eq(0).any(dim=1).any()
    learned = grown.vectors.item[:, : grown.vectors.width]
    torch.testing.assert_close(learned.norm(dim=1), torch.ones(len(learned)))

    grown.save(tmp_path / "grown")
    loaded = Recommender.load(tmp_path / "grown")
    assert loaded.regression is not None
    for one, other in ((loaded.vectors, grown.vectors), (loaded.regression, grown.regression)):
        assert all(torch.equal(x, vars(other)[name]) for name, x in vars(one).items())
    more = [each.add_items(new_items("n4")).vectors for each in (loaded, grown)]
    assert torch.equal(more[0].item, more[1].item)
    assert torch.equal(more[0].linear, more[1].linear)


def test_a_new_item_gives_its_users_what_the_same_item_gives(
    linear_recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(new_nodes, "_STRENGTHS", (1e4,))
    graph = linear_recommender.graph
    twins = graph[INTERACTS].edge_index[1].unique()[20:23]
    features = {modality: item_features(graph, modality)[twins] for modality in ("image", "text")}
    plain = replace(linear_recommender, regression=None)
    grown = plain.add_items(NewItems(Vocabulary(pl.Series(["a", "b", "c"]), "item"), features, {}))
    for both in (grown.vectors.linear, linear_columns(grown)):
        torch.testing.assert_close(both[-3:], both[twins], rtol=0.01, atol=0.01 * float(both.abs().max()))


def test_users_are_folded_in_with_their_linear_part(linear_recommender: Recommender, new_items: MakeNewItems) -> None:
    grown = linear_recommender.add_items(new_items("n0"))
    vectors, known = grown.vectors, torch.from_numpy(grown.has_history.nonzero()[0])
    last = len(grown.items) - 1
    history = torch.tensor([[0, 0, 0, 1], [4, 9, last, last]])
    position = torch.cat([torch.tensor([-1, -1]), known])
    found = fold_in_users(grown.model, vectors, grown.history, grown.popularity, history, position)
    # Known users without further items keep their vectors.
    torch.testing.assert_close(found.user[2:], vectors.user[known], rtol=1e-5, atol=1e-6)
    given = torch.stack([vectors.linear[[4, 9, last]].sum(dim=0), vectors.linear[last]])
    length = found.user[:2, : vectors.width].norm(dim=1, keepdim=True)
    torch.testing.assert_close(found.user[:2, vectors.width :], length * F.normalize(given), rtol=1e-5, atol=1e-6)
    for user in ("u2", "u9"):
        again = grown.history.pairs(grown.user_positions([user]))[1][:1].numpy()
        frame = grown.recommend_for_history({user: grown.items.ids.gather(again)}, k=500)
        expected = grown.recommend([user], k=500)
        np.testing.assert_allclose(frame["score"], expected["score"], atol=1e-5)


def test_linear_columns_do_not_choose_the_features_that_predict(linear_recommender: Recommender) -> None:
    model, data, vectors = linear_recommender.model, linear_recommender.graph, linear_recommender.vectors
    noise = torch.randn(len(vectors.item), vectors.linear.size(1), generator=torch.Generator().manual_seed(0))
    noisy = replace(vectors, item=torch.cat([vectors.learned_item, 100 * noise], dim=1))
    found = ItemRegression.of(model, data, noisy).strength
    assert found.any()
    assert torch.equal(found, ItemRegression.of(model, data, vectors).strength)


def test_similar_items_are_compared_by_the_learned_columns(linear_recommender: Recommender) -> None:
    vectors, ids = linear_recommender.vectors, linear_recommender.items.ids
    x = vectors.item[:, : vectors.width].double()
    cosine = F.cosine_similarity(x, x[20:21])
    # Linear columns that nearly all belong to a part that all items share.
    item = torch.cat([vectors.item[:, : vectors.width], 4000 + vectors.item[:, vectors.width :]], dim=1)
    found = replace(linear_recommender, vectors=replace(vectors, item=item))
    frame = found.similar_items(ids[20], k=5)
    place = linear_recommender.item_positions(frame["item"])
    np.testing.assert_allclose(frame["cosine"], cosine[place], atol=1e-5)
    np.testing.assert_allclose(frame["cosine"], cosine.topk(6).values[1:], atol=1e-5)
    listed = pl.concat(found.similar_items_blocks(k=5)).filter(item=ids[20])
    assert listed["similar_item"].to_list() == frame["item"].to_list()
    user = found.users.ids[[0]]
    varied, plain = (x.recommend(user, k=5, diversity=1.0)["item"] for x in (found, linear_recommender))
    assert set(varied) == set(plain)


# --- Explanations ----------------------------------------------------------------------------------------------------


def test_parts_of_items_and_of_branches_add_up_to_the_score(linear_run: Path) -> None:
    recommender = Recommender.load(linear_run)
    offered = recommender.recommend(["u2", "u9"], k=3)
    because = recommender.because(offered, 1)
    for user, item, _, score, best, share in because.iter_rows():
        explanation = recommender.explain(user, item)
        assert explanation.items["part"].sum() + explanation.user_part == pytest.approx(score, abs=1e-5)
        assert explanation.branches["part"].sum() == pytest.approx(score, abs=1e-5)
        strongest = explanation.items.filter(pl.col("item") != item).row(0)
        assert (best, share) == (strongest[0], pytest.approx(strongest[2], abs=1e-5))
        name, weight, part = explanation.branches.row(-1)
        width = recommender.vectors.width
        vector, other = recommender.user_vectors([user])[0], recommender.item_vectors([item])[0]
        assert (name, weight) == ("linear", None)
        assert part == pytest.approx(vector[width:] @ other[width:], abs=1e-5)
    result = lirdrec("explain", linear_run, "--user", user, "--item", item)
    assert ["linear", f"{part:.4f}"] in [line.split() for line in result.output.splitlines()]
    shown = json.loads(lirdrec("explain", linear_run, "--user", user, "--item", item, "--json").output)
    assert shown["branches"][-1] == {"branch": "linear", "weight": None, "part": part}


# --- Further trainings -----------------------------------------------------------------------------------------------


def clicks(recommender: Recommender, num_users: int) -> pl.DataFrame:
    rng, rows = np.random.default_rng(0), []
    for user in range(num_users):
        seen = recommender.seen.pairs(torch.tensor([user]))[1].numpy()
        free = np.setdiff1d(np.arange(len(recommender.items)), seen)
        rows += [(recommender.users.ids[user], recommender.items.ids[int(i)]) for i in rng.choice(free, 6, False)]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row")
    return frame.sample(fraction=1, shuffle=True, seed=1).with_row_index("timestamp")


def test_an_update_keeps_what_was_chosen_and_computes_the_rest_again(best_run: Path, tmp_path: Path) -> None:
    before = Recommender.load(best_run)
    widths = {m: item_features(before.graph, m).size(1) for m in ("image", "text")}
    new = NewItems(Vocabulary(pl.Series([500, 501]), "item"), {m: torch.randn(2, w) for m, w in widths.items()}, {})
    today = pl.concat(
        [clicks(before, 20).drop("timestamp"), pl.DataFrame({"user_id": [0, 5], "item_id": [500, 500]})]
    ).with_row_index("timestamp")
    updated = before.update(today, new, tmp_path / "run", config=UpdateConfig(epochs=1, lr=1e-12))
    assert updated.model_config == before.model_config
    linear = linear_items(
        updated.graph, MODEL.linear_dim, before.model_config.linear_l2, before.model_config.linear_content
    )
    torch.testing.assert_close(updated.vectors.linear, linear.given)
    # The averaged weights start from where they stood, and the features are reduced as they were.
    for name, value in before.model.state_dict().items():
        if not name.startswith("fusion"):
            found = updated.model.state_dict()[name]
            torch.testing.assert_close(found[: len(value)], value, rtol=0, atol=1e-8, msg=name)
    old = before.vectors.item_layers[0]
    torch.testing.assert_close(updated.vectors.item_layers[0, : len(old)], old, rtol=0, atol=1e-5)
    loaded = Recommender.load(tmp_path / "run")
    assert loaded.evaluate("valid") == pytest.approx(updated.metrics["valid"])
    # A run of an update is resumed by the same components.
    again = resume(tmp_path / "run", {"epochs": 2})
    torch.testing.assert_close(again.vectors.item_layers[0, : len(old)], old, rtol=0, atol=1e-5)


class SlowerAndSlower(Callback):
    """A clock by which everything in a second training takes a thousand times as long."""

    now, tick = 0.0, 1e-5

    def on_fit_start(self, trainer: Trainer) -> None:
        self.tick *= 1e3

    def perf_counter(self) -> float:
        self.now += self.tick
        return self.now


def test_a_refit_has_the_chosen_settings_and_all_its_epochs(
    best_run: Path, learnable_shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = Recommender.load(best_run).model_config
    assert chosen.linear_l2
    assert chosen.linear_content
    assert chosen.linear_weight
    clock = SlowerAndSlower()
    monkeypatch.setattr("lirdrec_pyg.training.trainer.time", clock)
    limited = replace(TRAINING, refit=True, minutes=1.0)
    found = fit(learnable_shop, MODEL, limited, callbacks=[clock])
    assert found.metrics is not None
    assert found.metrics["refit"]["seconds"] > 60 > found.metrics["seconds"]
    assert found.metrics["refit"]["epochs"] == found.metrics["best_epoch"] > 1
    assert found.model_config == chosen
    assert found.training_config == limited


class StopsAtOnce(Callback):
    def should_stop(self) -> bool:
        return True


def test_an_interrupted_training_is_resumed_as_if_it_had_never_stopped(
    best_run: Path, learnable_shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fit(learnable_shop, MODEL, TRAINING, tmp_path / "run", callbacks=[Stop((2, 1))])
    assert first.metrics is not None
    assert first.metrics["stopped"] == "interrupted"
    assert Recommender.load(tmp_path / "run").recommend().equals(first.recommend())

    # It is killed at its end, and keeps the averaged weights.
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LIRDRec, "complete", killed)
        with pytest.raises(KeyboardInterrupt):
            resume(tmp_path / "run")
    with pytest.warns(UserWarning, match="unfinished"):
        loaded = Recommender.load(tmp_path / "run")
    expected = Recommender.load(best_run)
    width = expected.vectors.width
    clicked = expected.popularity > 0  # the others depend on the linear branch
    torch.testing.assert_close(loaded.vectors.item[clicked], expected.vectors.item[clicked, :width])

    # Then it is interrupted while it chooses the linear branch.
    stopped = resume(tmp_path / "run", callbacks=[StopsAtOnce()])
    assert stopped.metrics is not None
    assert stopped.metrics["stopped"] == "interrupted"
    assert stopped.model_config == MODEL
    torch.testing.assert_close(stopped.vectors.item[clicked], expected.vectors.item[clicked, :width])
    resume(tmp_path / "run")
    assert_same_run(best_run, tmp_path / "run")


def test_the_metrics_of_a_run_are_reproduced(best_run: Path, linear_run: Path) -> None:
    for run in (best_run, linear_run):
        loaded = Recommender.load(run)
        assert loaded.metrics is not None
        for split in ("valid", "test"):
            assert loaded.evaluate(split) == pytest.approx(loaded.metrics[split], abs=1e-6)
        regression = ItemRegression.of(loaded.model, loaded.graph, loaded.vectors)
        for name, x in vars(regression).items():
            torch.testing.assert_close(vars(loaded.regression)[name], x, rtol=1e-4, atol=1e-5)
