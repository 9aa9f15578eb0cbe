import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from small_graph import prepared, small_graph
from torch import Tensor

from lirdrec_pyg.data import feature_mask, item_features
from lirdrec_pyg.models import LIRDRecConfig
from lirdrec_pyg.nn import PrincipalComponents


def features(num_rows: int = 60, width: int = 12) -> Tensor:
    """Features whose components differ in variance, around a mean."""
    return torch.randn(num_rows, width) * 2.0 ** -torch.arange(width) + 3 * torch.randn(width)


def fitted(x: Tensor, out_channels: int) -> PrincipalComponents:
    module = PrincipalComponents(x.size(1), out_channels)
    module.fit(x)
    return module


def test_components_are_those_of_scikit_learn_up_to_sign_and_scale() -> None:
    x = features()
    expected = PCA(4, svd_solver="full").fit(x.numpy())
    module = fitted(x, 4)
    np.testing.assert_allclose(module.mean, expected.mean_, rtol=1e-4, atol=1e-5)
    basis = module.basis.T.numpy()
    scale = np.linalg.norm(basis, axis=1)
    np.testing.assert_allclose(scale, scale[0], rtol=1e-4)
    np.testing.assert_allclose(np.abs((basis * expected.components_).sum(axis=1) / scale), 1, atol=1e-4)
    np.testing.assert_allclose(module(x).abs().numpy(), np.abs(expected.transform(x.numpy())) * scale[0], atol=1e-3)


def test_rows_have_a_mean_length_of_1_and_are_centered() -> None:
    x = features()
    for dtype in (torch.float32, torch.float16):
        y = fitted(x.to(dtype), 3)(x.to(dtype))
        assert y.dtype == torch.float32
        assert float(y.norm(dim=1).mean()) == pytest.approx(1, abs=1e-4)
        torch.testing.assert_close(y.mean(dim=0), torch.zeros(3), rtol=0, atol=1e-3)


def test_fewer_rows_than_components_leave_columns_of_zeros() -> None:
    x = features(num_rows=3)
    y = fitted(x, 6)(x)
    assert not y[:, 3:].any()
    # Three rows lie in a plane, so all distances are kept.
    distance, reduced = torch.pdist(x), torch.pdist(y)
    torch.testing.assert_close(reduced / reduced[0], distance / distance[0], rtol=1e-3, atol=1e-3)
    # Equal rows have no components at all.
    assert not fitted(torch.ones(4, 5), 2)(torch.ones(4, 5)).any()


def test_fitting_is_deterministic_and_leaves_random_numbers_alone() -> None:
    x = features()
    state = torch.get_rng_state()
    first = fitted(x, 4)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(7)
    assert torch.equal(fitted(x, 4).basis, first.basis)


def test_model_finds_components_of_the_items_with_features_and_encodes_all_by_them() -> None:
    graph = small_graph(masks={"image": torch.arange(8) % 3 > 0})
    config = LIRDRecConfig(embedding_dim=4, knn_k=3, feature_dim=3)
    model, data = prepared(config, graph)
    for components, modality, reduced in zip(model.components, model.in_channels, data["item"].components, strict=True):
        x, mask = item_features(graph, modality), feature_mask(graph, modality)
        expected = fitted(x if mask is None else x[mask], 3)
        torch.testing.assert_close(components.basis.float(), expected.basis)
        torch.testing.assert_close(reduced.float(), expected(x), rtol=1e-4, atol=1e-5)
    encoded = model.encode_items(data)
    del data["item"].components  # as for new items
    torch.testing.assert_close(model.encode_items(data), encoded, rtol=1e-5, atol=1e-5)
