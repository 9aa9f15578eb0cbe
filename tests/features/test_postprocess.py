import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from lirdrec_pyg.errors import DataError
from lirdrec_pyg.features import Postprocessing

X = torch.from_numpy(
    np.random.default_rng(0).standard_normal((200, 6)) @ np.random.default_rng(1).standard_normal((6, 10)) + 3
).float()


def through(steps: Postprocessing, x: Tensor) -> Tensor:
    return steps.apply(x, "image")


def up_to_sign(x: Tensor) -> Tensor:
    return x * x[x.abs().argmax(dim=0), torch.arange(x.size(1))].sign()


@pytest.mark.parametrize("whiten", [True, False])
def test_components_are_those_of_scikit_learn(whiten: bool) -> None:
    for width in (1, 3, 6):
        found = through(Postprocessing(pca=width, whiten=whiten), X)
        expected = torch.from_numpy(PCA(width, whiten=whiten, svd_solver="full").fit_transform(X.double().numpy()))
        torch.testing.assert_close(up_to_sign(found), up_to_sign(expected.float()), atol=2e-4, rtol=1e-4)


def test_the_covariance_of_whitened_vectors_is_the_identity() -> None:
    found = through(Postprocessing(whiten=True), X)
    assert found.shape == (200, 6)  # the others have no variance
    torch.testing.assert_close(torch.cov(found.T), torch.eye(6), atol=1e-3, rtol=0)
    torch.testing.assert_close(found.mean(dim=0), torch.zeros(6), atol=1e-4, rtol=0)


def test_the_block_size_has_no_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Postprocessing(pca=4, whiten=True, normalize=True)
    whole = through(steps, X)
    monkeypatch.setattr("lirdrec_pyg.features.postprocess._BLOCK_ROWS", 7)
    torch.testing.assert_close(through(steps, X), whole, atol=1e-4, rtol=1e-4)


def test_normalization_is_the_last_step() -> None:
    for steps in (Postprocessing(normalize=True), Postprocessing(pca=3, whiten=True, normalize=True)):
        torch.testing.assert_close(through(steps, X).norm(dim=1), torch.ones(200), atol=1e-5, rtol=0)
    torch.testing.assert_close(through(Postprocessing(normalize=True), X), X / X.norm(dim=1, keepdim=True))


def test_nothing_is_done_by_default() -> None:
    assert Postprocessing().describe() == {}
    assert through(Postprocessing(), X) is X
    assert Postprocessing(pca=5, normalize=True).describe() == {"pca": 5, "normalize": True}


def test_too_many_components_are_refused() -> None:
    with pytest.raises(DataError, match=r"200 vectors of image vary in 6 directions.*`pca=6`"):
        through(Postprocessing(pca=7), X)
    with pytest.raises(DataError, match="vary in 0 directions"):
        through(Postprocessing(whiten=True), torch.ones(5, 4))
    with pytest.raises(DataError, match="1 vectors of image vary in 0 directions"):
        through(Postprocessing(whiten=True), X[:1])
