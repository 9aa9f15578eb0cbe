import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from commands import assert_refused, help_of, lirdrec, run_program, started
from trainers import needs_torch_sparse

import lirdrec_pyg.experiments.tune  # noqa: F401
from lirdrec_pyg.cli.tune import _Progress

optuna = pytest.importorskip("optuna")

SMALL = ["--embedding-dim", "8", "--epochs", "2", "--batch-size", "64"]
SPACE = "num_layers: [1, 2, 3]\nlr: [1e-3, 1e-2]\n"


@pytest.fixture
def space(tmp_path: Path) -> Path:
    file = tmp_path / "space.yaml"
    file.write_text(SPACE)
    return file


def tune(data: Path, out: Path, space: Path, trials: int, *more: object) -> list[object]:
    return ["tune", "--data", data, "--out", out, "--space", space, "--trials", trials, *SMALL, *more]


def points(out: Path) -> list[tuple[object, ...]]:
    return pl.read_csv(out / "trials.csv").select("num_layers", "lr").rows()


def test_the_best_settings_can_be_trained_with(shop: Path, space: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    result = lirdrec(*tune(shop, out, space, 2))
    assert result.exit_code == 0, result.output
    assert "2 trials are done." in result.output
    assert "test" not in result.output.replace(str(tmp_path), "")
    settings = yaml.safe_load((out / "best.yaml").read_text())
    best = (
        pl.read_csv(out / "trials.csv").sort("valid_recall@20", descending=True, maintain_order=True).row(0, named=True)
    )
    assert (settings["num_layers"], settings["lr"]) == (best["num_layers"], best["lr"])
    assert settings["data"] == str(shop.absolute())
    assert settings["epochs"] == 1000  # the two are those of a trial

    run = tmp_path / "run"
    result = lirdrec("fit", "--config", out / "best.yaml", "--epochs", 2, "--out", run)
    assert result.exit_code == 0, result.output
    history = pl.read_csv(run / "history.csv")
    assert history["valid_recall@20"].max() == pytest.approx(best["valid_recall@20"])


def test_ctrl_c_keeps_the_trials_and_the_same_command_resumes(
    shop: Path, space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "study"
    original = _Progress.on_epoch_end
    epochs = []

    def on_epoch_end(self: _Progress, result: object) -> None:
        original(self, result)  # type: ignore[arg-type]
        epochs.append(result)
        if len(epochs) == 3:  # in the second trial
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(_Progress, "on_epoch_end", on_epoch_end)
    result = lirdrec(*tune(shop, out, space, 3))
    assert result.exit_code == 128 + signal.SIGINT, result.output
    assert "Traceback" not in result.output
    assert "1 trial is done of 3.\n" in result.output
    assert "The same command resumes the study." in result.output
    assert len(points(out)) == 1
    result = lirdrec(*tune(shop, out, space, 3))
    assert "3 trials are done." in result.output
    assert len(set(points(out))) == len(points(out)) == 3


def wait_for_trials(out: Path, number: int, process: Any, printed: Path) -> None:
    deadline = time.monotonic() + 60
    while not (out / "trials.csv").is_file() or len(points(out)) < number:
        assert process.is_alive(), printed.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_two_programs_share_the_trials(shop: Path, space: Path, tmp_path: Path) -> None:
    out, printed = tmp_path / "study", tmp_path / "printed"
    arguments = tune(shop, out, space, 4, "--epochs", 4)
    other = started(run_program, printed, {}, *arguments, "--device", "cpu")
    wait_for_trials(out, 1, other, printed)
    result = lirdrec(*arguments)
    other.join()
    outputs = result.output, printed.read_text()
    assert (result.exit_code, other.exitcode) == (0, 0), outputs
    assert len(set(points(out))) == len(points(out)) == 4
    shares = [sum(line.startswith("trial ") for line in output.splitlines()) for output in outputs]
    assert min(shares) > 0, outputs
    assert sum(shares) == 4


@pytest.mark.slow
def test_the_trial_of_a_killed_program_is_repeated(
    shop: Path, space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, printed = tmp_path / "study", tmp_path / "printed"
    arguments = tune(shop, out, space, 3, "--epochs", 4)
    killed = started(run_program, printed, {}, *arguments, "--device", "cpu")
    wait_for_trials(out, 1, killed, printed)
    killed.kill()
    killed.join()
    monkeypatch.setattr(sys.modules["lirdrec_pyg.experiments.tune"], "_GRACE_SECONDS", 1)
    result = lirdrec(*arguments)
    assert result.exit_code == 0, result.output
    assert "3 trials are done." in result.output
    assert len(set(points(out))) == len(points(out)) == 3


def test_the_trial_of_a_program_killed_before_its_first_heartbeat_is_repeated(
    shop: Path, space: Path, tmp_path: Path
) -> None:
    out = tmp_path / "study"
    assert lirdrec(*tune(shop, out, space, 1)).exit_code == 0
    optuna.load_study(study_name="lirdrec-pyg", storage=f"sqlite:///{out / 'study.db'}").ask()
    result = lirdrec(*tune(shop, out, space, 3))
    assert "3 trials are done." in result.output
    assert len(set(points(out))) == len(points(out)) == 3


def test_it_starts_from_the_preset_best_without_its_race(shop: Path, tmp_path: Path) -> None:
    assert "[default: 128; x>=1]" in help_of("tune")  # of --embedding-dim
    small = ("--embedding-dim", 4, "--epochs", 1, "--trials", 1)
    for more, named in (((), {"loss": "softmax", "race": False}), (("--preset", "paper"), {"loss": "bpr"})):
        out = tmp_path / f"study{len(more)}"
        result = lirdrec("tune", "--data", shop, "--out", out, *small, *more)
        assert result.exit_code == 0, result.output
        settings = yaml.safe_load((out / "best.yaml").read_text())
        assert {name: settings[name] for name in named} == named


@needs_torch_sparse
def test_neighbor_sampling_has_the_preset_paper(shop: Path, space: Path, tmp_path: Path) -> None:
    result = lirdrec(*tune(shop, tmp_path / "study", space, 1), "--sampling", "neighbors")
    assert result.exit_code == 0, result.output
    assert yaml.safe_load((tmp_path / "study" / "best.yaml").read_text())["loss"] == "bpr"


def test_it_says_that_it_waits_for_other_programs(
    shop: Path, space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "study"
    assert lirdrec(*tune(shop, out, space, 1)).exit_code == 0
    running = optuna.load_study(study_name="lirdrec-pyg", storage=f"sqlite:///{out / 'study.db'}").ask()
    running.set_user_attr("started", True)
    monkeypatch.setattr(sys.modules["lirdrec_pyg.experiments.tune"], "_GRACE_SECONDS", 1)
    result = lirdrec(*tune(shop, out, space, 2))
    assert result.exit_code == 0, result.output
    assert (
        len(re.findall(r"waiting up to \d s for 1 trials of other programs, or of killed ones\n", result.output)) == 1
    )
    assert "1 trial is done of 2; others are running" in result.output


def test_mistakes_are_one_sentence(shop: Path, space: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    for text, *named in (
        ("num_layer: [1]\n", "space.yaml", "did you mean 'num_layers'"),
        ("num_layers: [-1]\n", "--num-layers is -1"),
        ("only_modality: [image, sound]\n", "sound"),
    ):
        space.write_text(text)
        assert_refused(lirdrec(*tune(shop, out, space, 2)), *named)
    space.write_text("num_layers: [1]\n")
    assert_refused(lirdrec(*tune(shop, out, space, 2, "--user-gradients", "sparse")), "--user-gradients sparse")
    assert not out.exists()
    assert lirdrec(*tune(shop, out, space, 1, "--epochs", 1)).exit_code == 0
    assert_refused(lirdrec(*tune(shop, out, space, 2, "--epochs", 1, "--lr", "0.1")), "trials with another --lr")
    space.write_text("num_layers: [1, 2]\n")
    assert_refused(lirdrec(*tune(shop, out, space, 2, "--epochs", 1)), "trials with another --space")
