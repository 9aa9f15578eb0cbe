"""The rows of feature matrices: one pass over them, checks and filling in."""

from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from lirdrec_pyg.data import FeatureTable, features
from lirdrec_pyg.data.features import check_matrix, check_rows, fill_missing_rows, scan_rows

X = torch.from_numpy(np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32))


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows of width 3 per block."""
    monkeypatch.setattr(features, "_BLOCK_BYTES", 24)


def changed(rows: dict[int, Any], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    x = X.to(dtype, copy=True)
    for row, values in rows.items():
        x[row] = torch.as_tensor(values, dtype=dtype)
    return x


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_scan_finds_all_properties_of_rows(dtype: torch.dtype) -> None:
    x = changed({1: 0.0, 2: [np.inf, -np.inf, 1], 3: np.nan}, dtype)
    scan = scan_rows(torch.cat([x, x[:2]]), find_duplicates=True)
    assert scan.finite.tolist() == [True, True, False, False, True, True, True]
    assert scan.zero.tolist() == [False, True, False, False, False, False, True]
    assert scan.nan.tolist() == [False, False, False, True, False, False, False]
    assert scan.blank.tolist() == [False, True, False, True, False, False, True]
    assert scan.duplicate.tolist() == [False] * 5 + [True] * 2
    assert scan_rows(x[[0, 0, 4]], True).duplicate.tolist() == [False, True, False]
    signed = torch.tensor([[0.0, 1.0], [-0.0, 1.0], [-1.0, 1.0]])
    assert scan_rows(signed, True).duplicate.tolist() == [False, True, False]


def test_large_numbers_are_finite_though_their_sum_is_not() -> None:
    x = changed({2: torch.finfo(torch.float32).max, 3: [np.inf, -np.inf, 0], 4: [-1, 0, 1]})
    assert scan_rows(x).finite.tolist() == [True, True, True, False, True]
    assert not scan_rows(x).zero.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_bad_row_is_named(dtype: torch.dtype, refuses: Any) -> None:
    def check(rows: dict[int, Any], *text: str, used: list[bool] | None = None) -> None:
        x = changed(rows, dtype)
        with refuses("shop.npy", *text):
            check_rows(x, scan_rows(x), "shop.npy", None if used is None else torch.tensor(used))

    for value in (np.nan, np.inf, -np.inf):
        check({3: [1, value, 1]}, f"holds {value} in row 3, column 1")
    check({4: 0}, "all zeros in row 4", "`zero_features='missing'`")
    check({3: np.nan, 4: [1, np.nan, 1]}, "all NaN in row 3", "`zero_features='missing'`")
    rows = {1: 0, 4: [np.nan, 1, 1]}
    check(rows, "row 1", used=[True, True, True, True, False])
    check(rows, "row 4", used=[True, False, True, True, True])
    x = changed(rows, dtype)
    check_rows(x, scan_rows(x), "shop.npy", torch.tensor([True, False, True, True, False]))


def test_a_row_that_float32_cannot_scale_is_named(refuses: Any) -> None:
    for value, text in ((1e30, "length 1.7e+30 in row 2"), (1e-30, "length 1.7e-30 in row 2")):
        x = changed({2: value})
        with refuses("shop.npy", text):
            check_rows(x, scan_rows(x), "shop.npy")
        check_rows(x, scan_rows(x), "shop.npy", torch.tensor([True, True, False, True, True]))


@pytest.mark.parametrize("x", [torch.ones(3), torch.ones(3, 2, dtype=torch.long), torch.ones(3, 0), X.numpy()])
def test_features_are_a_float_matrix(x: Any, refuses: Any) -> None:
    with refuses("shop.npy"):
        check_matrix(x, "shop.npy")


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_missing_rows_become_the_mean_of_the_others(dtype: torch.dtype, refuses: Any) -> None:
    x = torch.tensor([[1.0, 2.0], [9.0, torch.nan], [3.0, 6.0], [0.0, 0.0]], dtype=dtype)
    filled = fill_missing_rows(x, torch.tensor([True, False, True, False]), "x_image")
    assert filled.dtype == dtype
    assert filled.tolist() == [[1, 2], [2, 4], [3, 6], [2, 4]]
    assert x[3].tolist() == [0, 0]
    assert fill_missing_rows(x, torch.ones(4, dtype=torch.bool), "x_image") is x
    with refuses("x_image"):
        fill_missing_rows(x, torch.zeros(4, dtype=torch.bool), "x_image")


def test_a_table_can_be_made_in_memory(refuses: Any) -> None:
    table = FeatureTable.of(X.double().numpy(), list("abcde"), "images")
    assert table.values.dtype == torch.float32
    assert table.ids is not None
    assert table.ids.to_list() == list("abcde")
    with refuses("images", "4 item IDs for 5 rows"):
        FeatureTable.of(X, list("abcd"), "images")
    with refuses("images", "shape is (3,)"):
        FeatureTable.of(X[0], None, "images")


def test_columns_of_a_table_in_memory_are_recognized(refuses: Any) -> None:
    numbers = {f"d{n}": column for n, column in enumerate(X.numpy().T)}
    frame = pl.DataFrame({"Unnamed: 0": [4, 2, 0, 3, 1], "sku": list("abcde"), **numbers})
    with pytest.warns(UserWarning, match=r"images has index columns, which are not used as features: 'Unnamed: 0'\."):
        table = FeatureTable.from_frame(frame, None, "images")
    assert table.values.tolist() == X.tolist()
    assert table.ids is not None
    assert table.ids.to_list() == list("abcde")
    table = FeatureTable.from_frame(frame.drop("sku"), "Unnamed: 0", "images")
    assert table.ids is not None
    assert table.ids.to_list() == [4, 2, 0, 3, 1]
    with refuses("images", "at least one column of features"), pytest.warns(UserWarning, match="'index', 'level_0'"):
        FeatureTable.from_frame(pl.DataFrame({"item": [1], "index": [0], "level_0": [0]}), None, "images")
