import pytest

from lirdrec_pyg import LIRDRecConfig, TrainingConfig
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.training import PRESETS


def test_configs_check_themselves() -> None:
    for kind, settings in (
        (LIRDRecConfig, {"embedding_dim": "4"}),
        (LIRDRecConfig, {"embedding_dim": 4.0}),
        (LIRDRecConfig, {"num_layers": True}),
        (LIRDRecConfig, {"dct": "3d"}),
        (LIRDRecConfig, {"graph_weights": [1]}),
        (TrainingConfig, {"lr": None}),
        (TrainingConfig, {"lr": 0}),
        (TrainingConfig, {"lr": float("nan")}),
        (TrainingConfig, {"edge_dropout": 1.0}),
    ):
        with pytest.raises(ConfigError, match=f"`{next(iter(settings))}`"):
            kind(**settings)
    assert TrainingConfig(lr=1).lr == 1  # an integer where a float is expected


def test_presets_are_settings_of_a_training() -> None:
    for settings in PRESETS.values():
        TrainingConfig(**settings)
