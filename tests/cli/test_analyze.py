import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from commands import assert_refused, lirdrec

SMALL = ["--embedding-dim", "8", "--epochs", "2", "--lr", "0.01", "--batch-size", "64", "--device", "cpu"]


def test_gradient_bias_writes_table_plot_and_verdict(shop: Path, tmp_path: Path) -> None:
    out = tmp_path / "bias"
    result = lirdrec("analyze", "gradient-bias", "--data", shop, "--out", out, *SMALL)
    assert result.exit_code == 0, result.output
    assert {p.name for p in out.iterdir()} == {"gradient_bias.csv", "gradient_bias.png", "verdict.txt"}
    table = pl.read_csv(out / "gradient_bias.csv")
    assert table["branch"].to_list() == 2 * 2 * ["image", "text", "shared", "id"]
    assert "Items with shuffled features" in result.output
    sentences = (out / "verdict.txt").read_text().splitlines()
    assert len(sentences) == 2
    for sentence in sentences:
        assert sentence in result.output
    assert "no verdict yet" in sentences[1]
    assert "pass a larger --epochs, or a larger --patience" in sentences[1]
    assert "epoch    2/2" in result.output
    assert result.output.endswith(f"Written to {out}: gradient_bias.csv, verdict.txt, gradient_bias.png\n")


def test_fusion_writes_tables_and_plot_beside_the_run(run: Path) -> None:
    result = lirdrec("analyze", "fusion", run)
    assert result.exit_code == 0, result.output
    out = run.parent / f"{run.name}-fusion"
    names = {"fusion_schedule.csv", "fusion_weights.csv", "fusion_summary.csv", "fusion.png"}
    assert {p.name for p in out.iterdir()} == names
    weights = pl.read_csv(out / "fusion_weights.csv")
    assert weights.height == 40
    np.testing.assert_allclose(weights.drop("user").sum_horizontal(), 1, rtol=1e-5)
    assert "the best epoch is 1" in result.output
    second, first = np.sort(weights.drop("user").to_numpy(), axis=1).T[1:]
    assert f"\n{np.mean(first <= 1.05 * second):.1%} of the users have no heaviest branch" in result.output
    for branch in ("image", "text", "shared"):
        assert branch in result.output
    assert_refused(lirdrec("analyze", "fusion", run), "not empty", "--out", "--overwrite")
    assert lirdrec("analyze", "fusion", run, "--overwrite").exit_code == 0


def test_without_matplotlib_there_are_tables_and_a_hint(
    shop: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for arguments in (["gradient-bias", "--data", shop, *SMALL], ["fusion", run]):
        out = tmp_path / str(arguments[0])
        result = lirdrec("analyze", *arguments, "--out", out)
        assert result.exit_code == 0, result.output
        assert "pip install 'lirdrec-pyg[plot]'" in result.output
        assert list(out.glob("*.csv"))
        assert not list(out.glob("*.png"))
        last = result.output.splitlines()[-1]
        assert last.startswith(f"Written to {out}: ")
        assert set(last.split(": ")[1].split(", ")) == {file.name for file in out.iterdir()}


def test_mistakes_are_one_sentence(shop: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text("model: vbpr\n")
    out = tmp_path / "x"
    assert_refused(lirdrec("analyze", "fusion", tmp_path), "not a run folder")
    bias = ["analyze", "gradient-bias", "--data"]
    assert_refused(lirdrec(*bias, tmp_path / "none", "--out", out), "none")
    assert_refused(lirdrec(*bias, shop, "--out", tmp_path / "file" / "x"), "is a file", "--out")
    assert_refused(lirdrec(*bias, shop, "--out", tmp_path / "other", "--overwrite", *SMALL), "config.yaml", "--out")
    assert_refused(lirdrec(*bias, shop, "--out", out, "--precision", "16-mixed"), "--precision 16-mixed")
    for given in (("--sampling", "neighbors"), ("--user-gradients", "sparse")):
        assert_refused(lirdrec(*bias, shop, "--out", out, *given, *SMALL), " ".join(given))
    config = tmp_path / "other" / "config.yaml"
    assert_refused(lirdrec(*bias, "synthetic", "--config", config, "--out", out), "config.yaml is for --model vbpr")
    assert not out.exists()


@pytest.mark.usefixtures("small_synthetic")
def test_the_config_of_a_run_can_be_measured(run: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    settings = yaml.safe_load((run / "config.yaml").read_text())
    config.write_text(yaml.safe_dump({**settings, "batch_size": 20_000}))
    out = tmp_path / "bias"
    result = lirdrec("analyze", "gradient-bias", "--config", config, "--data", "synthetic", "--out", out)
    assert result.exit_code == 0, result.output
