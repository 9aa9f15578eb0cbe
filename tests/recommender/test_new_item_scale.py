"""Factors of the scores of new items: how validation finds them, and where they count."""

from dataclasses import replace

import pytest
import torch

from lirdrec_pyg import Dataset, LIRDRecConfig, Recommender, TrainingConfig, fit
from lirdrec_pyg.data import item_features, known_interactions, modalities, set_new_items
from lirdrec_pyg.datasets import synthetic_data
from lirdrec_pyg.evaluation import RankingTask, evaluate_ranker
from lirdrec_pyg.models import LIRDRec, model_vectors, scale_new_items
from lirdrec_pyg.nn import DotProducts
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


def test_factors_multiply_the_vectors_of_new_items(found: Recommender) -> None:
    scales = found.model_config.new_item_scale, found.model_config.new_linear_scale
    assert 0 not in scales
    vectors = as_new(found, found.model)
    width = found.vectors.width
    plain = replace(found.model_config, new_item_scale=1.0, new_linear_scale=1.0)
    model = type(found.model).from_config(plain, found.graph)
    model.load_state_dict(found.model.state_dict())
    expected = as_new(found, model.eval())
    torch.testing.assert_close(vectors[:, :width], scales[0] * expected[:, :width])
    torch.testing.assert_close(vectors[:, width:], scales[1] * expected[:, width:])
    features = [item_features(found.graph, m)[:5] for m in modalities(found.graph)]
    encoded, _ = ItemEncoder(found)(features, [torch.ones(5, dtype=torch.bool)] * 2)
    torch.testing.assert_close(encoded, vectors, rtol=1e-4, atol=1e-4)


def test_factors_are_kept_by_run_and_refit(dataset: Dataset, found: Recommender) -> None:
    loaded = Recommender.load(found.path)
    assert loaded.model_config == found.model_config
    assert loaded.model.new_item_scale == found.model.new_item_scale == found.model_config.new_item_scale
    refit = fit(dataset, MODEL, replace(SMALL, refit=True))
    assert refit.model_config == found.model_config


def test_validation_chooses_the_factors(found: Recommender) -> None:
    task = RankingTask.from_graph(found.graph, "valid")
    first: list[torch.Tensor] = []
    tried: dict[tuple[float, float], float] = {}

    def measure(ranker: DotProducts) -> float:
        first.append(ranker.item)  # both factors are 1
        changed = (first[0] != found.vectors.item).any(dim=1)
        assert 0 < changed.sum() <= (found.popularity > 0).sum() // 5
        assert not changed[found.popularity == 0].any()
        row = int(changed.nonzero()[0])
        ratio = ranker.item[row] / first[0][row]
        key = round(float(ratio[0]), 4), round(float(ratio[-1]), 4)
        tried[key] = evaluate_ranker(ranker, task)["recall@20"]
        return tried[key]

    arguments = found.model, found.graph, found.vectors
    config = scale_new_items(MODEL, *arguments, measure)
    chosen = config.new_item_scale, config.new_linear_scale
    assert chosen == (found.model_config.new_item_scale, found.model_config.new_linear_scale)
    assert len(tried) == len(first) >= 15
    assert tried[chosen] == max(tried.values()) > min(tried.values())
    fixed = replace(MODEL, new_item_scale=2.0)
    assert scale_new_items(fixed, *arguments, measure) is fixed
    without = scale_new_items(MODEL, *arguments, None)
    assert (without.new_item_scale, without.new_linear_scale) == (1.0, 1.0)


@pytest.mark.slow
def test_new_items_are_found_among_all() -> None:
    graph = synthetic_data(300, 200, seed=3).graph
    pairs = known_interactions(graph)
    features = {m: item_features(graph, m) for m in modalities(graph)}
    data = Dataset.from_frames((pairs[0].numpy(), pairs[1].numpy()), features, split="cold-items", seed=1)
    training = replace(SMALL, epochs=15)
    plain = fit(data, replace(MODEL, new_item_scale=1.0), training).metrics["cold_start"]["test"]
    scaled = fit(data, MODEL, training).metrics["cold_start"]["test"]
    assert scaled["cold among all"]["recall@20"] > plain["cold among all"]["recall@20"]
    assert scaled["all"]["recall@20"] >= 0.97 * plain["all"]["recall@20"]
    assert scaled["warm"] == plain["warm"]
