"""The factor of the scores of new items: how it is found, and where it counts."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from lirdrec_pyg import Dataset, LIRDRecConfig, Recommender, TrainingConfig, fit
from lirdrec_pyg.data import item_features, known_interactions, modalities, set_new_items
from lirdrec_pyg.datasets import synthetic_data
from lirdrec_pyg.models import LIRDRec, model_vectors, scale_new_items
from lirdrec_pyg.recommender.export.onnx import ItemEncoder

MODEL = LIRDRecConfig(embedding_dim=8, knn_k=4, loss="softmax", fusion="mean", linear_dim=8, new_item_scale=0)
SMALL = TrainingConfig(epochs=3, batch_size=256, lr=0.01, device="cpu", seed=1)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return synthetic_data(100, 200)


@pytest.fixture(scope="module")
def found(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    return fit(dataset, MODEL, SMALL, tmp_path_factory.mktemp("runs") / "run")


def as_new(recommender: Recommender, model: LIRDRec) -> torch.Tensor:
    """Return the vectors of items with the features of the first five."""
    graph = recommender.graph
    features = {m: item_features(graph, m)[:5] for m in modalities(graph)}
    return model_vectors(model, set_new_items(graph, features)).item[graph["item"].num_nodes :]


def test_the_factor_multiplies_the_vectors_of_new_items(found: Recommender) -> None:
    scale = found.model_config.new_item_scale
    assert scale not in (0, 1)
    vectors = as_new(found, found.model)
    model = type(found.model).from_config(replace(found.model_config, new_item_scale=1.0), found.graph)
    model.load_state_dict(found.model.state_dict())
    torch.testing.assert_close(vectors, scale * as_new(found, model.eval()))
    features = [item_features(found.graph, m)[:5] for m in modalities(found.graph)]
    encoded, _ = ItemEncoder(found)(features, [torch.ones(5, dtype=torch.bool)] * 2)
    torch.testing.assert_close(encoded, vectors, rtol=1e-4, atol=1e-4)


def test_the_factor_is_kept_by_run_and_refit(dataset: Dataset, found: Recommender) -> None:
    loaded = Recommender.load(found.path)
    assert loaded.model_config == found.model_config
    assert loaded.model.new_item_scale == found.model.new_item_scale == found.model_config.new_item_scale
    refit = fit(dataset, MODEL, replace(SMALL, refit=True))
    assert refit.model_config == found.model_config
    fixed = replace(MODEL, new_item_scale=2.0)
    assert scale_new_items(fixed, found.model, found.graph, found.vectors) is fixed


def fitted_scale(num_users: int, num_items: int, clicks: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """Return the factor of a short training on the pairs that ``clicks`` selects, with random features."""
    generator = torch.Generator().manual_seed(0)
    user, item = clicks(torch.rand(num_users, num_items, generator=generator)).nonzero(as_tuple=True)
    features = {"text": torch.randn(num_items, 8, generator=generator).numpy()}
    data = Dataset.from_frames((user.numpy(), item.numpy()), features, split="none")
    return fit(data, MODEL, replace(SMALL, epochs=2)).model_config.new_item_scale


def test_lists_are_short_in_a_small_catalog() -> None:
    assert fitted_scale(40, 22, lambda chance: chance < 0.2) != 1.0


def test_without_a_factor_that_does_it_scores_are_unchanged() -> None:
    assert fitted_scale(10, 20, lambda chance: chance < 2) == 1.0  # everybody has clicked everything


def test_new_items_are_offered_as_often_as_others() -> None:
    graph = synthetic_data(300, 200, seed=3).graph
    pairs = known_interactions(graph)
    features = {m: item_features(graph, m) for m in modalities(graph)}
    data = Dataset.from_frames((pairs[0].numpy(), pairs[1].numpy()), features, split="cold-items", seed=1)

    metrics = [
        fit(data, replace(MODEL, new_item_scale=scale), replace(SMALL, epochs=8)).metrics["cold_start"]["test"]
        for scale in (0, 0.5)
    ]
    assert metrics[0]["warm"] == metrics[1]["warm"]
    found, half = (each["cold among all"] for each in metrics)
    assert found["offered@20"] == pytest.approx(found["interacted"], abs=0.03)
    assert half["offered@20"] < 0.1 < half["interacted"] == found["interacted"]
    assert half["recall@20"] < found["recall@20"]
