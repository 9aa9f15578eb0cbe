from dataclasses import asdict

import numpy as np
import pytest
from trainers import needs_torch_sparse

from lirdrec_pyg import EASEConfig, LIRDRecConfig, TrainingConfig, VBPRConfig
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.training import PRESETS, check_settings, preset


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
    numbers = TrainingConfig(epochs=np.int64(3), lr=np.float32(0.5))
    assert [(type(x), x) for x in (numbers.epochs, numbers.lr)] == [(int, 3), (float, 0.5)]
    assert type(LIRDRecConfig(graph_weights={"image": np.float32(0.5)}).graph_weights["image"]) is float
    with pytest.raises(ConfigError, match="`epochs`"):
        TrainingConfig(epochs=np.array([3]))  # type: ignore[arg-type]


def test_presets_are_settings_of_lirdrec_and_its_training() -> None:
    for name, settings in PRESETS.items():
        model_config, training_config = preset(name)
        check_settings(model_config, training_config)
        assert settings.items() <= {**asdict(model_config), **asdict(training_config)}.items()
    assert preset("paper") == (LIRDRecConfig(), TrainingConfig())
    assert preset("fast", lr=0.1, knn_k=3) == (LIRDRecConfig(knn_k=3), TrainingConfig(lr=0.1, batch_size=8192))
    raced, given, both = preset("best"), preset("best", item_graph=False), preset("best", item_graph=False, race=True)
    assert [training.race for _, training in (raced, given, both)] == [True, False, True]
    with pytest.raises(ConfigError, match=r"'slow'.*'paper', 'fast', 'best'"):
        preset("slow")  # type: ignore[arg-type]


def test_default_batches_of_large_graphs_are_a_share_of_them() -> None:
    assert [TrainingConfig().triples_per_step(n) for n in (100, 1_024_000, 10_000_000)] == [2048, 2048, 20_000]
    assert TrainingConfig(sampling="neighbors").triples_per_step(10_000_000) == 2048
    assert TrainingConfig(batch_size=64).triples_per_step(10_000_000) == 64


def test_race_needs_variants() -> None:
    for config in (VBPRConfig(), EASEConfig()):
        with pytest.raises(ConfigError, match=f"`race` tries variants.*`model='{config.model}'`.*`race=False`"):
            check_settings(config, TrainingConfig(device="cpu", race=True))


@needs_torch_sparse
def test_sharded_users_are_refused_where_all_users_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    sharded = {"device": "cpu", "sampling": "neighbors", "user_table": "sharded"}
    check_settings(LIRDRecConfig(), TrainingConfig(**sharded, user_gradients="sparse"))
    for model, settings, name in (
        ({}, {"race": True}, "race"),
        ({}, {"refit": True}, "refit"),
        ({}, {"sampling": "full"}, "user_table"),
        ({"new_item_scale": 0}, {}, "new_item_scale"),
    ):
        with pytest.raises(ConfigError, match=f"`{name}"):
            check_settings(LIRDRecConfig(**model), TrainingConfig(**{**sharded, **settings}))
