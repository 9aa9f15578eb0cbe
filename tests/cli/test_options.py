from pathlib import Path

import pytest
from click.testing import CliRunner

from lirdrec_pyg.cli import main
from lirdrec_pyg.config import LIRDRecConfig, TrainingConfig
from lirdrec_pyg.errors import ConfigError


@pytest.mark.parametrize(
    "line",
    ["lr: {a: 1}", "epochs: [1]", "epochs: 1.5", "epochs: true", "seed: 2024-01-01", "graph_weights: 3", "lr: .inf"],
)
def test_wrong_kinds_of_values_in_a_config_file(shop: Path, tmp_path: Path, line: str) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(line)
    out = tmp_path / "run"
    result = CliRunner().invoke(main, ["fit", "--data", str(shop), "--out", str(out), "--config", str(config)])
    assert result.exit_code == 2, result.output
    assert line.split(":")[0].replace("_", "-") in result.output.replace("_", "-")
    assert not out.exists()


@pytest.mark.parametrize("seed", ["99999999999", "-1", "x"])
def test_seed_out_of_range(tmp_path: Path, seed: str) -> None:
    result = CliRunner().invoke(main, ["fit", "--data", "synthetic", "--out", str(tmp_path / "run"), "--seed", seed])
    assert result.exit_code == 2
    assert "--seed" in result.output


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (LIRDRecConfig, {"embedding_dim": "4"}),
        (LIRDRecConfig, {"embedding_dim": 4.0}),
        (LIRDRecConfig, {"num_layers": True}),
        (LIRDRecConfig, {"dct": "3d"}),
        (LIRDRecConfig, {"graph_weights": [1]}),
        (TrainingConfig, {"lr": None}),
        (TrainingConfig, {"lr": 0}),
        (TrainingConfig, {"lr": float("nan")}),
        (TrainingConfig, {"edge_dropout": 1.0}),
    ],
)
def test_configs_check_themselves(kind: type, settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="--" + next(iter(settings)).replace("_", "-")):
        kind(**settings)


def test_whole_numbers_do_for_real_ones() -> None:
    assert TrainingConfig(lr=1).lr == 1
