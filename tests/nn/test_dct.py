import math

import pytest
import scipy.fft
import torch
from torch import Tensor

from lirdrec_pyg.config import DCTMode
from lirdrec_pyg.nn import MultimodalDCT, dct, idct

SIZES = [1, 2, 3, 4, 7, 8, 33, 64]


def reference(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(scipy.fft.dctn(x.numpy(), type=2, norm="ortho", axes=axes))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dim", [-1, 0, 1])
def test_dct_matches_scipy(size: int, dim: int) -> None:
    x = torch.randn(size, size, size + 1, dtype=torch.double)
    torch.testing.assert_close(dct(x, dim), reference(x, (dim,)))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dim", [-1, 0, 1])
def test_idct_matches_scipy(size: int, dim: int) -> None:
    x = torch.randn(size, size, size + 1, dtype=torch.double)
    expected = torch.from_numpy(scipy.fft.idct(x.numpy(), type=2, norm="ortho", axis=dim))
    torch.testing.assert_close(idct(x, dim), expected)
    torch.testing.assert_close(idct(dct(x, dim), dim), x)


def test_the_transform_folds_into_weights() -> None:
    xs = [torch.randn(5, width, dtype=torch.double) for width in (4, 7)]
    weight = torch.randn(3, 11, dtype=torch.double, requires_grad=True)
    layer = MultimodalDCT()
    expected = layer(xs) @ weight.T
    torch.testing.assert_close(torch.cat(xs, dim=1) @ layer.fold_into(weight, [4, 7]).T, expected)
    assert torch.autograd.gradcheck(lambda w: layer.fold_into(w, [4, 7]), (weight,))
    with pytest.raises(ValueError, match="2d"):
        MultimodalDCT("2d").fold_into(weight, [4, 7])


@pytest.mark.parametrize("size", SIZES)
def test_dct_is_orthonormal(size: int) -> None:
    eye = torch.eye(size, dtype=torch.double)
    matrix = dct(eye)
    torch.testing.assert_close(matrix @ matrix.T, eye)


@pytest.mark.parametrize("size", [1, 2, 5, 6])
def test_dct_gradients(size: int) -> None:
    x = torch.randn(3, size, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(dct, (x,))
    assert torch.autograd.gradgradcheck(dct, (x,))


def test_dct_leaves_its_input_alone() -> None:
    x = torch.randn(4, 1)
    before = x.clone()
    dct(x, 0).zero_()
    dct(x, 1).zero_()
    assert torch.equal(x, before)


def test_dct_of_a_constant_is_its_first_coefficient() -> None:
    torch.testing.assert_close(dct(torch.ones(9)), torch.tensor([3.0, *[0.0] * 8]), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("mode", "axes"), [("feature", (1,)), ("2d", (0, 1))])
@pytest.mark.parametrize("widths", [(5,), (1, 4), (2, 3, 8)])
def test_multimodal_dct_concatenates_the_transforms(
    mode: DCTMode, axes: tuple[int, ...], widths: tuple[int, ...]
) -> None:
    xs = [torch.randn(6, width, dtype=torch.double) for width in widths]
    torch.testing.assert_close(MultimodalDCT(mode)(xs), torch.cat([reference(x, axes) for x in xs], dim=1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mode", ["feature", "2d"])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype, mode: DCTMode) -> None:
    x = torch.randn(5, 7).to(dtype)
    out = MultimodalDCT(mode)([x])
    assert out.dtype == torch.float32
    assert torch.equal(out, MultimodalDCT(mode)([x.float()]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dim", [0, 1])
def test_dct_keeps_half_precision(dtype: torch.dtype, dim: int) -> None:
    x = torch.randn(5, 7).to(dtype)
    out = dct(x, dim)
    assert out.dtype == dtype
    assert torch.equal(out, dct(x.float(), dim).to(dtype))


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64])
def test_only_real_floating_point_numbers_are_transformed(dtype: torch.dtype) -> None:
    x = torch.ones(3, 4).to(dtype)
    for transform in (dct, lambda x: MultimodalDCT()([x])):
        with pytest.raises(TypeError, match=f"needs a floating-point tensor, got {dtype}: convert it"):
            transform(x)


def test_feature_mode_keeps_every_row_to_itself_and_2d_does_not() -> None:
    x = torch.randn(6, 4)
    changed = x.clone()
    changed[0] += 1.0
    same = {
        mode: torch.isclose(MultimodalDCT(mode)([x]), MultimodalDCT(mode)([changed])).all(dim=1)
        for mode in ("feature", "2d")
    }
    assert same["feature"].tolist() == [False, *[True] * 5]
    assert not same["2d"].any()


def test_float32_stays_precise_on_long_rows() -> None:
    x = torch.randn(2, 4096, dtype=torch.double)
    error = (dct(x.float()).double() - reference(x, (1,))).abs().max()
    assert error < 1e-5
    assert math.isclose(dct(x).norm(), x.norm())


def test_multimodal_dct_has_no_parameters_and_a_repr() -> None:
    transform = MultimodalDCT("2d")
    assert not transform.state_dict()
    assert repr(transform) == "MultimodalDCT(mode='2d')"
