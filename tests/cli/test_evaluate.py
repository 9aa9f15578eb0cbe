import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lirdrec_pyg.cli import main
from lirdrec_pyg.training import Run


@pytest.fixture
def run(shop: Path, tmp_path: Path) -> Path:
    out = tmp_path / "run"
    arguments = ["fit", "--data", str(shop), "--out", str(out), "--epochs", "1", "--embedding-dim", "8"]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    return out


def evaluate(run: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["evaluate", str(run), "--device", "cpu", *options])


def cut(name: str) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        content = (run / name).read_bytes()
        (run / name).write_bytes(content[: len(content) // 2])

    return damage


def newer(run: Path) -> None:
    versions = json.loads((run / "versions.json").read_text())
    (run / "versions.json").write_text(json.dumps(versions | {"format": 99}))


def setting(old: str, new: str) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        config = run / "config.yaml"
        config.write_text(config.read_text().replace(old, new))
        Run(run).seal()  # its author's own mistake, and no damage

    return damage


def edited(run: Path) -> None:
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("lr: 0.0001", "lr: 0.0002") + "# edited\n")


@pytest.mark.parametrize(
    ("damage", "culprit"),
    [
        (cut("model.safetensors"), "model.safetensors"),
        (cut("graph.safetensors"), "graph.safetensors"),
        (cut("config.yaml"), "config.yaml"),
        (lambda run: (run / "model.safetensors").unlink(), "model.safetensors"),
        (newer, "format 99"),
        (edited, "config.yaml is not as it was written"),
        (setting("embedding_dim: 8", "embedding_dim: '8'"), "--embedding-dim"),
        (setting("sparse_backend: torch", "sparse_backend: cuda"), "--sparse-backend"),
        (setting("embedding_dim: 8", "embedding_dim: 16"), "model.safetensors"),
    ],
    ids=[
        *("cut weights", "cut graph", "cut config", "no weights", "newer format", "edited config"),
        *("wrong type", "unknown backend", "other model"),
    ],
)
def test_damaged_run_is_one_error(run: Path, damage: Callable[[Path], None], culprit: str) -> None:
    damage(run)
    result = evaluate(run)
    assert result.exit_code == 2, result.output
    (message,) = result.output.splitlines()
    assert message.startswith("Error:")
    assert culprit in message


@pytest.mark.parametrize("content", [None, "{}", '{"test": {"recall@20": 1.0}}'])
def test_a_run_cut_off_before_its_end_can_be_evaluated(run: Path, content: str | None) -> None:
    (run / "metrics.json").unlink()
    if content:
        (run / "metrics.json").write_text(content)
    result = evaluate(run)
    assert result.exit_code == 0, result.output
    assert "cut off" in result.output


def test_a_difference_is_told(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["test"]["recall@20"] += 0.25
    (run / "metrics.json").write_text(json.dumps(metrics))
    assert "differs from metrics.json by up to 2.50e-01" in evaluate(run).output


@pytest.fixture
def cold_run(shop: Path, tmp_path: Path) -> Path:
    out = tmp_path / "cold"
    arguments = ["fit", "--data", str(shop), "--out", str(out), "--epochs", "1", "--split", "cold-items"]
    assert CliRunner().invoke(main, [*arguments, "--embedding-dim", "8", "--device", "cpu"]).exit_code == 0
    return out


def test_figures_of_held_out_items_come_again(cold_run: Path) -> None:
    saved = json.loads((cold_run / "metrics.json").read_text())
    result = evaluate(cold_run, "--split", "both", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.output) == {name: saved[name] for name in ("valid", "test", "cold_start")}
    shown = evaluate(cold_run).output
    assert "test, items held out:" in shown
    assert "cold among all" in shown
    assert "to the last digit" in shown
    assert "valid" not in shown


def test_figures_without_held_out_items_are_as_before(run: Path) -> None:
    assert "held out" not in evaluate(run).output
    assert json.loads(evaluate(run, "--json").output).keys() == {"test"}


def test_buckets_are_shown_when_asked_for(run: Path) -> None:
    found = json.loads(evaluate(run, "--json", "--buckets", "--split", "both").output)
    assert found.keys() == {"valid", "test", "buckets"}
    for split, parts in found["buckets"].items():
        users = [part for part in parts if part["kind"] == "user activity"]
        assert sum(part["num_pairs"] for part in users) == 40
        mean = sum(part["num_users"] * part["metrics"]["recall@20"] for part in users) / 40
        assert mean == pytest.approx(found[split]["recall@20"], rel=1e-5)
    shown = evaluate(run, "--buckets").output
    assert "test, by training interactions:" in shown
    assert "valid" not in shown
    for part in found["buckets"]["test"]:
        row = f"{part['kind']} {part['interactions']} {part['num_users']} {part['num_pairs']}"
        assert row in " ".join(shown.split())
