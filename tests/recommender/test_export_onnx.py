"""Encoders of new items and new users without torch."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lirdrec_pyg.data import NewItems
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.models import fold_in_users
from lirdrec_pyg.recommender import Recommender, export_vectors
from lirdrec_pyg.recommender.export.onnx import FoldIn, ItemEncoder

DOCUMENTED = re.findall(
    r"```python\n(.*?)```", (Path(__file__).parents[2] / "docs/guides/export.md").read_text(), re.DOTALL
)[2]

TrainRun = Callable[..., Path]
MakeNewItems = Callable[..., NewItems]


def inputs_of(new: NewItems, modalities: list[str]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return features, NaN where they are missing, and where they are not."""
    present = [new.masks.get(m, torch.ones(len(new.ids), dtype=torch.bool)) for m in modalities]
    return [new.features[m].where(mask.unsqueeze(1), torch.nan) for m, mask in zip(modalities, present)], present


def padded(histories: list[list[int]]) -> torch.Tensor:
    length = max(map(len, histories))
    return torch.tensor([items + [-1] * (length - len(items)) for items in histories])


def folded(recommender: Recommender, histories: list[list[int]]) -> torch.Tensor:
    pairs = torch.tensor([(user, item) for user, items in enumerate(histories) for item in items]).T
    new = torch.full((len(histories),), -1)
    known = recommender.vectors, recommender.history, recommender.popularity
    return fold_in_users(recommender.model, *known, pairs, new).user


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        {"num_item_layers": 3, "num_layers": 3, "knn_k": 5},
        {"num_item_layers": 0, "fusion": "mean", "dct": "none", "num_layers": 1},
        {"item_graph": False, "fusion": "static", "only_modality": "text"},
        {"fusion": "attention"},
        {"loss": "softmax", "feature_dim": 6, "only_modality": "text", "item_graph": False},
        {"linear_dim": 5, "linear_l2": 9.0, "linear_content": {"text": 1.0}, "linear_weight": 0.5},
        {"linear_dim": 5, "linear_l2": 9.0, "linear_content": {"text": 0.0}, "linear_weight": 0.5},
    ],
)
def test_encoders_equal_the_model(
    model: dict[str, Any], train_run: TrainRun, text_shop: Path, new_items: MakeNewItems
) -> None:
    recommender = Recommender.load(train_run(text_shop, **model))
    new = new_items("a", "b", "c", "d", missing={"image": [1], "text": [2]})
    grown = recommender.add_items(new)
    with torch.no_grad():
        vector, message = ItemEncoder(recommender).eval()(*inputs_of(new, list(recommender.model.in_channels)))
        histories = [[0, 9, 82], [83], [5, 6, 7, 8], [80, 81]]
        user = FoldIn(recommender).eval()(padded(histories), message)
    torch.testing.assert_close(vector, grown.vectors.item[-4:], rtol=0, atol=1e-5)
    torch.testing.assert_close(user, folded(grown, histories), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_runtime_equals_torch(
    linear_recommender: Recommender,
    new_items: MakeNewItems,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grown = linear_recommender.add_items(new_items("n0", "n1", "n2", "n3", missing={"image": [1], "text": [2]}))
    monkeypatch.chdir(tmp_path)
    paths = export_vectors(grown, Path("exports"), "onnx")
    assert sorted(paths) == sorted(Path("exports").iterdir())
    new = new_items("x", "y", "z")
    for name, x in new.features.items():
        np.save("new.npy" if name == "image" else f"new_{name}.npy", x.numpy())
    found: dict[str, Any] = {}
    exec(DOCUMENTED, found)
    larger = grown.add_items(new)
    np.testing.assert_allclose(found["vectors"], larger.item_vectors()[-3:], atol=1e-5)
    expected = larger.recommend_for_history(larger.items.ids.gather(found["history"][0]), k=10)
    np.testing.assert_allclose(np.sort(found["scores"][0])[::-1][:10], expected["score"], atol=1e-5)
    assert larger.items.ids.gather((-found["scores"][0]).argsort()[:10]).to_list() == expected["item"].to_list()

    new = new_items(*map(str, range(9)), missing={"image": [1], "text": [2, 5]})
    larger = grown.add_items(new)
    for rows in (slice(0, 9), slice(1, 2), slice(0, 0)):
        features, present = inputs_of(new, ["image", "text"])
        feed = {
            name: x[rows].numpy() for name, x in zip(("image", "text", "has_image", "has_text"), features + present)
        }
        vectors, messages = found["encoder"].run(["vector", "message"], feed)
        np.testing.assert_allclose(vectors, larger.item_vectors()[84:][rows], atol=1e-5)
    messages = found["encoder"].run(["message"], {k: x.numpy() for k, x in zip(feed, features + present)})[0]
    for histories, count in ([[[84, 3], [92], [1, 2, 5, 82]], 9], [[[4, 81, 80]], 0], [[[84]], 1]):
        feed = {"history": padded(histories).numpy(), "new_messages": messages[:count]}
        (user,) = found["fold_in"].run(None, feed)
        np.testing.assert_allclose(user, folded(larger, histories), atol=1e-5)


def test_models_without_encoders_are_refused(train_run: TrainRun, text_shop: Path, tmp_path: Path) -> None:
    recommender = Recommender.load(train_run(text_shop, dct="2d"))
    with pytest.raises(ConfigError, match="does not support new items"):
        export_vectors(recommender, tmp_path / "out", "onnx")
    assert not list(tmp_path.iterdir())
