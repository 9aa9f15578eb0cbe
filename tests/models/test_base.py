from collections.abc import Callable

import pytest
from torch import nn

from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.models import BPRMFConfig, LIRDRecConfig, eval_mode


def test_missing_capabilities_name_the_model_and_what_to_change() -> None:
    with pytest.raises(ConfigError, match=r"`model='bpr-mf'`.*new items.*`model='lirdrec'`"):
        BPRMFConfig().require("new_items")
    for config, capability, fix in (
        (LIRDRecConfig(dct="2d"), "new_items", "`dct='feature'`"),
        (LIRDRecConfig(id_branch=True), "new_items", "`id_branch=True`"),
        (LIRDRecConfig(id_branch=True), "neighbor_sampling", "`id_branch=True`"),
        (LIRDRecConfig(num_layers=0), "new_users", "`num_layers=0`"),
    ):
        with pytest.raises(ConfigError, match=f"does not support {capability.replace('_', ' ')}.*{fix}"):
            config.require(capability)
        LIRDRecConfig().require(capability)


@pytest.mark.parametrize("fails", [False, True])
def test_eval_mode_restores_the_mode_of_every_module(fails: bool, request: pytest.FixtureRequest) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout()))
    model[1].eval()  # frozen
    modes: Callable[[], list[bool]] = lambda: [module.training for module in model.modules()]  # noqa: E731
    try:
        with eval_mode(model):
            assert modes() == [False] * 4
            if fails:
                raise RuntimeError
    except RuntimeError:
        pass
    assert modes() == [True, True, False, False]
