import pytest
from torch import nn

from lirdrec_pyg.models.mode import eval_mode


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def make_model() -> nn.Sequential:
    """In training mode but for a frozen part."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout()))
    model[1].eval()
    return model


def test_every_module_gets_its_own_mode_back() -> None:
    model = make_model()
    with eval_mode(model):
        assert modes(model) == [False] * 4
    assert modes(model) == [True, True, False, False]


def test_an_error_changes_nothing_of_that() -> None:
    model = make_model()
    with pytest.raises(RuntimeError, match="inside"), eval_mode(model):
        raise RuntimeError("inside")
    assert modes(model) == [True, True, False, False]
