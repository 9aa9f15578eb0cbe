import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
import yaml
from commands import assert_refused, lirdrec

pytest.importorskip("optuna")

SMALL = ["--embedding-dim", "8", "--epochs", "10", "--batch-size", "64"]


@pytest.fixture
def space(tmp_path: Path) -> Path:
    file = tmp_path / "space.yaml"
    file.write_text("num_layers: [1, 2, 3]\nlr: [1e-3, 1e-2]\n")
    return file


def tune(data: Path, out: Path, space: Path, trials: int, *more: object) -> list[object]:
    return ["tune", "--data", data, "--out", out, "--space", space, "--trials", trials, *SMALL, *more]


def start(arguments: list[object]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "lirdrec_pyg", *map(str, arguments), "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def table(out: Path) -> pl.DataFrame:
    return pl.read_csv(out / "trials.csv")


def tried(out: Path) -> list[tuple[object, ...]]:
    return table(out).select("state", "num_layers", "lr", "valid_recall@20").rows()


def wait_for_a_trial(out: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not (out / "trials.csv").is_file():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_best_settings_can_be_trained_with(shop: Path, space: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    result = lirdrec(*tune(shop, out, space, 2))
    assert result.exit_code == 0, result.output
    assert "2 trials are done." in result.output
    assert "test" not in result.output.replace(str(tmp_path), "")
    settings = yaml.safe_load((out / "best.yaml").read_text())
    best = table(out).sort("valid_recall@20", descending=True, maintain_order=True).row(0, named=True)
    assert (settings["num_layers"], settings["lr"]) == (best["num_layers"], best["lr"])

    run = tmp_path / "run"
    result = lirdrec("fit", "--config", out / "best.yaml", "--out", run)
    assert result.exit_code == 0, result.output
    history = pl.read_csv(run / "history.csv")
    assert history["valid_recall@20"].max() == pytest.approx(best["valid_recall@20"])


def test_a_killed_search_goes_on_to_the_same_trials(shop: Path, space: Path, tmp_path: Path) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    process = start(tune(shop, killed, space, 4))
    wait_for_a_trial(killed, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    for out in (undisturbed, killed):
        result = lirdrec(*tune(shop, out, space, 4))
        assert result.exit_code == 0, result.output
        assert "4 trials are done." in result.output
    assert [row[:3] for row in tried(killed)] == [row[:3] for row in tried(undisturbed)]
    values = [[row[3] for row in tried(out)] for out in (killed, undisturbed)]
    assert values[0] == pytest.approx(values[1])  # sums of other numbers of threads round otherwise
    assert len(tried(killed)) == 4


def test_ctrl_c_keeps_the_trials_and_says_how_to_go_on(shop: Path, space: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    process = start(tune(shop, out, space, 6))
    wait_for_a_trial(out, process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGINT, output
    assert "Traceback" not in output
    assert "The same command goes on from here." in output
    assert 1 <= len(tried(out)) < 6


def test_two_searches_at_once_share_the_work(shop: Path, space: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    other = start(tune(shop, out, space, 6, "--epochs", 15))
    wait_for_a_trial(out, other)
    result = lirdrec(*tune(shop, out, space, 6, "--epochs", 15))
    outputs = [result.output, other.communicate(timeout=120)[0]]
    assert [result.exit_code, other.returncode] == [0, 0], outputs
    assert len({(layers, rate) for _, layers, rate, *_ in tried(out)}) == len(tried(out)) == 6
    shares = [sum(line.startswith("trial ") for line in output.splitlines()) for output in outputs]
    assert min(shares) > 0
    assert sum(shares) == 6


def test_mistakes_are_one_sentence(shop: Path, space: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    space.write_text("num_layer: [1]\n")
    assert_refused(lirdrec(*tune(shop, out, space, 2)), "space.yaml", "did you mean 'num_layers'")
    space.write_text("num_layers: [-1]\n")
    assert_refused(lirdrec(*tune(shop, out, space, 2)), "--num-layers is -1")
    space.write_text("only_modality: [image, sound]\n")
    assert_refused(lirdrec(*tune(shop, out, space, 2)), "--only-modality is 'sound'")
    space.write_text("num_layers: [1]\n")
    assert_refused(lirdrec(*tune(shop, out, space, 2, "--user-gradients", "sparse")), "--user-gradients sparse")
    assert not out.exists()
    assert lirdrec(*tune(shop, out, space, 1)).exit_code == 0
    assert_refused(lirdrec(*tune(shop, out, space, 2, "--lr", "0.1")), "trials with another --lr")
