import math

import pytest
import scipy.fft
import torch
from torch import Tensor

from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.nn import MultimodalDCT, dct, idct


def reference(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(scipy.fft.dctn(x.numpy(), type=2, norm="ortho", axes=axes))


def test_dct_and_idct_match_scipy_for_every_size_and_dimension() -> None:
    for size in (1, 2, 3, 4, 7, 8, 33, 64):
        x = torch.randn(size, size, size + 1, dtype=torch.double)
        for dim in (-1, 0, 1):
            torch.testing.assert_close(dct(x, dim), reference(x, (dim,)))
            torch.testing.assert_close(idct(dct(x, dim), dim), x)


def test_gradients() -> None:
    for size in (1, 2, 5, 6):
        x = torch.randn(3, size, dtype=torch.double, requires_grad=True)
        assert torch.autograd.gradcheck(dct, (x,))
        assert torch.autograd.gradgradcheck(dct, (x,))


def test_the_transform_folds_into_weights() -> None:
    xs = [torch.randn(5, width, dtype=torch.double) for width in (4, 7)]
    weight = torch.randn(3, 11, dtype=torch.double, requires_grad=True)
    layer = MultimodalDCT()
    expected = layer(xs) @ weight.T
    torch.testing.assert_close(torch.cat(xs, dim=1) @ layer.fold_into(weight, [4, 7]).T, expected)
    assert torch.autograd.gradcheck(lambda w: layer.fold_into(w, [4, 7]), (weight,))
    with pytest.raises(ValueError, match="2d"):
        MultimodalDCT("2d").fold_into(weight, [4, 7])


def test_the_input_is_not_modified() -> None:
    x = torch.randn(4, 1)
    before = x.clone()
    dct(x, 0).zero_()
    dct(x, 1).zero_()
    assert torch.equal(x, before)


def test_multimodal_dct_concatenates_the_transforms() -> None:
    for widths in ((5,), (1, 4), (2, 3, 8)):
        xs = [torch.randn(6, width, dtype=torch.double) for width in widths]
        for layer, axes in ((MultimodalDCT(), (1,)), (MultimodalDCT("2d"), (0, 1))):
            torch.testing.assert_close(layer(xs), torch.cat([reference(x, axes) for x in xs], dim=1))
            assert not layer.state_dict()


def test_half_precision_is_computed_in_float32() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        x = torch.randn(5, 7).to(dtype)
        for layer in (MultimodalDCT(), MultimodalDCT("2d")):
            out = layer([x])
            assert out.dtype == torch.float32
            assert torch.equal(out, layer([x.float()]))
        for dim in (0, 1):
            assert dct(x, dim).dtype == dtype
            assert torch.equal(dct(x, dim), dct(x.float(), dim).to(dtype))


def test_only_real_floating_point_tensors_are_transformed() -> None:
    for dtype in (torch.int64, torch.uint8, torch.bool, torch.complex64):
        for transform in (dct, idct, lambda x: MultimodalDCT()([x])):
            with pytest.raises(TypeError, match=f"floating-point tensor, got {dtype}"):
                transform(torch.ones(3, 4).to(dtype))


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"`mode` is '3d'\. Choose one of feature, 2d"):
        MultimodalDCT("3d")  # type: ignore[arg-type]


def test_float32_stays_precise_on_long_rows() -> None:
    x = torch.randn(2, 4096, dtype=torch.double)
    error = (dct(x.float()).double() - reference(x, (1,))).abs().max()
    assert error < 1e-5
    assert math.isclose(dct(x).norm(), x.norm())
