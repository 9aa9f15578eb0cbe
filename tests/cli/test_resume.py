"""Whatever ends a training, it resumes to the weights that it would have had."""

import json
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import assert_refused, lirdrec, run_program, started, wait_until
from filelock import FileLock
from runs import contents
from safetensors.torch import load_file

from lirdrec_pyg import LIRDRecConfig, TrainingConfig
from lirdrec_pyg.cli.progress import Progress
from lirdrec_pyg.datasets import synthetic_data
from lirdrec_pyg.recommender import Run
from lirdrec_pyg.training import trainer

KILLS = 5
OPTIONS = ("--embedding-dim", 8, "--lr", 1e-2, "--batch-size", 64, "--epochs", 3, "--checkpoint-minutes", 0)
# The files that do not depend on how long anything took.
SAME = ("model", "vectors", "regression")


@pytest.fixture(scope="module")
def uninterrupted(learnable_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; never to be changed."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    process = fit_in_process(folder / "output", "--data", learnable_shop, "--out", folder / "run", *OPTIONS)
    process.join()
    assert process.exitcode == 0, (folder / "output").read_text()
    return folder / "run"


@pytest.fixture(scope="module")
def killed(learnable_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed at the end of its first epoch; never to be changed."""

    def kill(*_: Any) -> None:
        raise KeyboardInterrupt

    out = tmp_path_factory.mktemp("killed") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Progress, "on_epoch_end", kill)
        assert lirdrec("fit", "--data", learnable_shop, "--out", out, *OPTIONS).exit_code == 130
    return out


@pytest.fixture
def cut_short(killed: Path, tmp_path: Path) -> Path:
    """A copy of that run."""
    return Path(shutil.copytree(killed, tmp_path / "cut"))


def fit_in_process(output: Path, *options: object) -> Any:
    preset = () if "--resume" in options else ("--preset", "paper")
    return started(run_program, output, {}, "fit", "--device", "cpu", *preset, *options)


def num_lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def assert_same_run(one: Path, other: Path) -> None:
    for name in SAME:
        expected, actual = (load_file(run / f"{name}.safetensors") for run in (one, other))
        assert expected.keys() == actual.keys()
        assert all(torch.equal(expected[key], actual[key]) for key in expected), name
    metrics, others = (Run.open(run).metrics() for run in (one, other))
    assert metrics is not None
    assert others is not None
    for key in ("best_epoch", "epochs", "stopped", "valid", "test", "data"):
        assert metrics[key] == others[key]
    assert num_lines(one / "history.csv") == num_lines(other / "history.csv")


@pytest.mark.slow
def test_training_killed_at_random_moments_resumes_to_the_same_weights(
    learnable_shop: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    def train(out: Path) -> Any:
        # Killed before there was anything to resume from, it starts again.
        has_checkpoint = (out / "checkpoint.safetensors").exists()
        new = ("--data", learnable_shop, "--out", out, "--overwrite", *OPTIONS)
        return fit_in_process(tmp_path / "output", *(("--resume", out) if has_checkpoint else new))

    generator = random.Random(0)
    start = time.monotonic()
    train(tmp_path / "timed").join()
    seconds = time.monotonic() - start
    kills, resumed, number = 0, 0, 0
    while kills < KILLS:
        number += 1
        out = tmp_path / f"run{number}"
        process = train(out)
        while process.exitcode is None:
            after_the_start = kills % 2
            if after_the_start:
                wait_until((out / "history.csv").exists, process)
            longest = seconds / 4 if after_the_start else seconds
            process.join(generator.uniform(0, longest) if kills < KILLS else None)
            if process.exitcode is None:
                process.kill()
                process.join()
                kills += 1
                resumed += (out / "checkpoint.safetensors").exists()
                process = train(out)
        assert process.exitcode == 0, (tmp_path / "output").read_text()
        assert_same_run(uninterrupted, out)
        assert not [p.name for p in out.iterdir() if p.name.startswith(".")]
    assert resumed


def replace_and_be_killed(out: Path, moves: int) -> None:
    """Start a new run in the folder of another; killed before it moves its ``moves``-th file, if it gets there."""
    real, done = os.replace, iter(range(1, moves))

    def move(source: Any, target: Any) -> None:
        if next(done, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        real(source, target)

    os.replace = move
    with Run.created(out, synthetic_data(60, 50), LIRDRecConfig(), TrainingConfig(), overwrite=True):
        pass


@pytest.mark.slow
def test_overwrite_killed_before_any_move_loses_nothing(uninterrupted: Path, tmp_path: Path) -> None:
    earlier = contents(uninterrupted)
    restored = 0
    for moves in range(1, 100, 3):  # each takes a process
        out = tmp_path / f"run{moves}"
        shutil.copytree(uninterrupted, out)
        process = started(replace_and_be_killed, out, moves)
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        # What any program does that comes next.
        with Run.locked(out):
            pass
        if contents(out) == earlier:
            restored += 1
        else:  # the new run was complete by then
            assert Run.open(out).dataset().graph["user"].num_nodes == 60
            assert not (out / "metrics.json").exists()
    assert process.exitcode == 0
    assert restored >= len(earlier) // 3


def test_signals_save_the_progress(learnable_shop: Path, uninterrupted: Path, tmp_path: Path) -> None:
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        out = tmp_path / f"run{code}"

        def interrupt(_: Any, epoch: int, step: int, number: int = number) -> None:
            if (epoch, step) == (2, 3):
                os.kill(os.getpid(), number)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Progress, "on_step_end", interrupt)
            result = lirdrec("fit", "--data", learnable_shop, "--out", out, *OPTIONS)
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        assert f"fit --resume {out}" in result.output
        metrics = json.loads((out / "metrics.json").read_text())
        assert (metrics["stopped"], metrics["epochs"]) == ("interrupted", 1)
    assert lirdrec("evaluate", out).exit_code == 0
    resumed = lirdrec("fit", "--resume", out)
    assert resumed.exit_code == 0, resumed.output
    assert "resuming after epoch 1" in resumed.output
    assert_same_run(uninterrupted, out)


def test_signal_saves_the_progress_of_a_refit(learnable_shop: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"

    def interrupt(progress: Progress, epoch: int, step: int) -> None:
        if progress._trainer.task is None and (epoch, step) == (1, 3):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Progress, "on_step_end", interrupt)
        result = lirdrec("fit", "--data", learnable_shop, "--out", out, *OPTIONS, "--refit")
    assert result.exit_code == 130, result.output
    assert f"from scratch, for 0 of {json.loads((out / 'metrics.json').read_text())['best_epoch']} epochs so far" in (
        result.output
    )
    assert lirdrec("fit", "--resume", out).exit_code == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert (metrics["refit"]["epochs"], metrics["refit"]["stopped"]) == (metrics["best_epoch"], "all epochs done")


def test_data_are_not_needed_to_resume(cut_short: Path, uninterrupted: Path) -> None:
    result = lirdrec("fit", "--resume", cut_short)
    assert result.exit_code == 0, result.output
    assert_same_run(uninterrupted, cut_short)
    assert lirdrec("evaluate", cut_short).exit_code == 0


def test_finished_training_is_extended_or_left_as_it_is(
    uninterrupted: Path, learnable_shop: Path, tmp_path: Path
) -> None:
    short = Path(shutil.copytree(uninterrupted, tmp_path / "short"))
    before = contents(short)
    assert lirdrec("fit", "--resume", short).exit_code == 0
    after = contents(short)
    assert before.keys() == after.keys()
    # The first holds the memory of this program, the second its entries in any order.
    assert {name for name in before if before[name] != after[name]} <= {"metrics.json", "checkpoint.safetensors"}

    assert lirdrec("fit", "--data", learnable_shop, "--out", tmp_path / "long", *OPTIONS, "--epochs", 5).exit_code == 0
    result = lirdrec("fit", "--resume", short, "--epochs", 5)
    assert result.exit_code == 0, result.output
    assert_same_run(tmp_path / "long", short)
    assert Run.open(short).training_config().epochs == 5


def test_training_that_ran_out_of_time_is_given_more(uninterrupted: Path, learnable_shop: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert lirdrec("fit", "--data", learnable_shop, "--out", run, *OPTIONS, "--minutes", 1e-6).exit_code == 0
    assert (Run.open(run).metrics() or {})["epochs"] == 1
    result = lirdrec("fit", "--resume", run, "--minutes", 60)
    assert result.exit_code == 0, result.output
    assert_same_run(uninterrupted, run)


def test_what_cannot_be_changed_is_refused(cut_short: Path) -> None:
    before = contents(cut_short)
    for option in (("--data", "x"), ("--out", "x"), ("--batch-size", 5), ("--preset", "fast"), ("--overwrite",)):
        # Without --device, which may be changed.
        assert_refused(lirdrec("fit", "--resume", cut_short, *option), option[0], "--epochs")
        assert contents(cut_short) == before


def test_there_must_be_something_to_resume_from(cut_short: Path, tmp_path: Path) -> None:
    assert_refused(lirdrec("fit", "--resume", tmp_path / "nothing"), "nothing", "not a run folder")
    path = cut_short / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:2000])
    before = contents(cut_short)
    assert_refused(lirdrec("fit", "--resume", cut_short), "checkpoint.safetensors")
    assert contents(cut_short) == before
    path.unlink()
    assert_refused(lirdrec("fit", "--resume", cut_short), "checkpoint.safetensors", "--overwrite")


def test_checkpoint_of_another_training_is_refused(run: Path, uninterrupted: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(uninterrupted, tmp_path / "run"))
    shutil.copyfile(run / "checkpoint.safetensors", copied / "checkpoint.safetensors")
    before = contents(copied)
    assert_refused(lirdrec("fit", "--resume", copied, "--epochs", 9), "another model, graph, batch size")
    assert contents(copied) == before


def test_damaged_finished_run_gets_no_new_checksums(uninterrupted: Path, tmp_path: Path) -> None:
    for name in ("graph.safetensors", "items.parquet", "config.yaml"):
        copied = Path(shutil.copytree(uninterrupted, tmp_path / name))
        (copied / name).write_bytes((copied / name).read_bytes() + b"\n")
        before = contents(copied)
        assert_refused(lirdrec("fit", "--resume", copied, "--epochs", 9), name, "was changed")
        assert contents(copied) == before


def test_two_trainings_do_not_share_a_folder(cut_short: Path, learnable_shop: Path) -> None:
    before = contents(cut_short)
    with FileLock(cut_short / ".lock"):
        assert_refused(lirdrec("fit", "--resume", cut_short), str(cut_short), "in use")
        assert_refused(lirdrec("fit", "--data", learnable_shop, "--out", cut_short, "--overwrite", *OPTIONS), "in use")
        assert {name: data for name, data in contents(cut_short).items() if name != ".lock"} == before


def resume_on_a_full_disk(output: Path, out: Path) -> None:
    # No file may be larger: smaller than a checkpoint, larger than everything else that is written.
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    run_program(output, {}, "fit", "--resume", out, "--device", "cpu")


def test_full_disk_is_one_error_and_the_checkpoint_stays(cut_short: Path, uninterrupted: Path) -> None:
    checkpoint, output = (cut_short / "checkpoint.safetensors").read_bytes(), cut_short.parent / "output"
    process = started(resume_on_a_full_disk, output, cut_short)
    process.join()
    message = output.read_text()
    assert process.exitcode == 2, message
    assert f"Cannot write {cut_short / 'checkpoint.safetensors'}" in message
    assert "Traceback" not in message
    assert (cut_short / "checkpoint.safetensors").read_bytes() == checkpoint
    assert not [p.name for p in cut_short.iterdir() if p.name.startswith(".")]
    assert lirdrec("fit", "--resume", cut_short).exit_code == 0
    assert_same_run(uninterrupted, cut_short)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_run_is_one_error(cut_short: Path) -> None:
    cut_short.chmod(0o500)
    assert_refused(lirdrec("fit", "--resume", cut_short), "Cannot write")


def test_diverged_training_keeps_the_batch_and_the_state_before(
    learnable_shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    done: list[torch.Tensor] = []
    step: Callable[..., torch.Tensor] = trainer.training_step

    def poisoned(*arguments: Any) -> torch.Tensor:
        loss = step(*arguments)
        done.append(arguments[2])
        return loss * torch.nan if len(done) == 12 else loss

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "training_step", poisoned)
        result = lirdrec("fit", "--data", learnable_shop, "--out", out, *OPTIONS)
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    for named in ("The loss became nan in epoch", "diverged.safetensors", f"--resume {out}", "--lr 0.003"):
        assert named in result.output
    assert torch.equal(load_file(out / "diverged.safetensors")["triples"], done[11])
    assert all(value.isfinite().all() for value in Run.open(out).checkpoint().model.values())
    assert not (out / "metrics.json").exists()
    assert lirdrec("fit", "--resume", out, "--lr", 0.003).exit_code == 0
    settings = Run.open(out).training_config()
    assert (settings.lr, settings.epochs) == (0.003, 3)
    assert not (out / "diverged.safetensors").exists()
    assert json.loads((out / "metrics.json").read_text())["epochs"] == 3
