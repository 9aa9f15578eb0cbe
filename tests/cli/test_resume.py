"""Whatever ends a training, it goes on to the weights that it would have had."""

import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import assert_refused, lirdrec
from filelock import FileLock
from safetensors.torch import load_file

from lirdrec_pyg.config import DataConfig, LIRDRecConfig, TrainingConfig
from lirdrec_pyg.data import INTERACTS
from lirdrec_pyg.datasets import synthetic_data
from lirdrec_pyg.training import Run, trainer

KILLS = 50
OPTIONS = ("--embedding-dim", 8, "--lr", 1e-2, "--batch-size", 64, "--epochs", 4, "--checkpoint-minutes", 0)
# What does not depend on how long anything took.
SAME = ("model", "vectors", "neighbourhood")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    graph = synthetic_data(num_users=60, num_items=50).graph
    splits = {0: "edge_index", 1: "val_edge_label_index", 2: "test_edge_label_index"}
    lines = [f"{u}\t{i}\t{label}" for label, name in splits.items() for u, i in graph[INTERACTS][name].T.tolist()]
    (folder / "shop.inter").write_text("\n".join(["userID\titemID\tx_label", *lines]) + "\n")
    for modality in ("image", "text"):
        np.save(folder / f"{modality}_feat.npy", graph["item"][f"x_{modality}"].numpy())
    return folder


@pytest.fixture(scope="module")
def undisturbed(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    in_process(train, shop, out)
    return out


def train(shop: Path, out: Path) -> None:
    torch.set_num_threads(1)
    result = lirdrec("fit", "--data", shop, "--out", out, "--overwrite", *OPTIONS)
    sys.exit(result.exit_code)


def train_on(_shop: Path, out: Path) -> None:
    torch.set_num_threads(1)
    sys.exit(lirdrec("fit", "--resume", out).exit_code)


# Forked from a process that has imported everything and computed nothing.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["lirdrec_pyg.training", "lirdrec_pyg.datasets", "lirdrec_pyg.cli", "commands"])


def started(work: Callable[..., None], *arguments: Any) -> Any:
    process = CONTEXT.Process(target=work, args=arguments)
    process.start()
    return process


def in_process(work: Callable[..., None], *arguments: Any) -> float:
    start = time.monotonic()
    process = started(work, *arguments)
    process.join()
    assert process.exitcode == 0
    return time.monotonic() - start


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


def test_a_training_killed_at_random_moments_goes_on_to_the_same_weights(
    shop: Path, undisturbed: Path, tmp_path: Path
) -> None:
    generator = random.Random(0)
    whole = in_process(train, shop, tmp_path / "timed")
    kills, went_on, number = 0, 0, 0
    while kills < KILLS:
        number += 1
        out = tmp_path / f"run{number}"
        work = train
        while True:
            process = started(work, shop, out)
            process.join(generator.uniform(0, whole))
            if process.exitcode is not None:
                break
            process.kill()
            process.join()
            kills += 1
            # Killed before there was anything to go on from, it has to be started anew.
            work = train_on if (out / "checkpoint.safetensors").exists() else train
            went_on += work is train_on
            if kills >= KILLS:
                in_process(work, shop, out)
                break
        assert process.exitcode in (0, -signal.SIGKILL)
        assert_same_run(undisturbed, out)
        assert not [p.name for p in out.iterdir() if p.name.startswith(".")]
    assert went_on


def replace_and_be_killed(out: Path, moves: int) -> None:
    """Starts a new run in the place of another; killed before it moves its ``moves``-th file, if it gets there."""
    real, done = os.replace, iter(range(1, moves))

    def move(source: Any, target: Any) -> None:
        if next(done, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        real(source, target)

    os.replace = move
    data = synthetic_data(num_users=60, num_items=50)
    with Run.locked(out):
        Run.create(out, data, (DataConfig(), LIRDRecConfig(), TrainingConfig()), overwrite=True)


def test_an_overwrite_killed_before_any_move_loses_nothing(undisturbed: Path, tmp_path: Path) -> None:
    earlier = {file.name: file.read_bytes() for file in undisturbed.iterdir()}
    came_back = 0
    for moves in range(1, 100):
        out = tmp_path / f"run{moves}"
        shutil.copytree(undisturbed, out)
        process = started(replace_and_be_killed, out, moves)
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        # What any program does that comes next.
        with Run.locked(out):
            pass
        if {file.name: file.read_bytes() for file in out.iterdir()} == earlier:
            came_back += 1
        else:  # the new run was complete by then
            assert Run.open(out).graph()["user"].num_nodes == 60
            assert not (out / "metrics.json").exists()
    assert process.exitcode == 0
    assert came_back >= len(earlier)


def test_a_checkpoint_of_another_training_is_refused(undisturbed: Path, tmp_path: Path) -> None:
    other = lirdrec("fit", "--data", "synthetic", "--embedding-dim", 4, "--epochs", 1, "--out", tmp_path / "other")
    assert other.exit_code == 0, other.output
    shutil.copytree(undisturbed, tmp_path / "run")
    shutil.copyfile(tmp_path / "other" / "checkpoint.safetensors", tmp_path / "run" / "checkpoint.safetensors")
    before = {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()}
    assert_refused(
        lirdrec("fit", "--resume", tmp_path / "run", "--epochs", 9), "is of another model, graph or batch size"
    )
    assert {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()} == before


PROGRAM = [sys.executable, "-m", "lirdrec_pyg", "fit"]
LONG = ["--device", "cpu", *map(str, OPTIONS), "--epochs", "40", "--patience", "40"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def long(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("long") / "run"
    command = [*PROGRAM, "--data", shop, *LONG, "--out", out]
    subprocess.run(command, check=True, capture_output=True, env=ENVIRONMENT)
    return out


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_signal_and_the_way_on(shop: Path, long: Path, tmp_path: Path, number: int, code: int) -> None:
    out = tmp_path / "run"
    command = [*PROGRAM, "--data", shop, *LONG, "--out", out]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=ENVIRONMENT) as process:
        deadline = time.monotonic() + 120
        # Two epochs, since a checkpoint follows upon the line of its epoch.
        while num_lines(out / "history.csv") < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(number)
        output = process.communicate(timeout=120)[0].decode()
    assert process.returncode == code, output
    assert (out / "metrics.json").exists() == (number != signal.SIGKILL)
    assert (f"fit --resume {out}" in output) == (number != signal.SIGKILL)
    done = subprocess.run([*PROGRAM, "--resume", out], check=True, capture_output=True, text=True, env=ENVIRONMENT)
    assert "going on after epoch" in done.stdout
    assert_same_run(long, out)


@pytest.fixture
def cut_short(shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A run that was killed in its second epoch."""

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "cut"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with monkeypatch.context() as patch:
        patch.setattr("lirdrec_pyg.cli.progress.Progress.epoch", killed)
        assert lirdrec("fit", "--data", shop, "--out", out, *OPTIONS).exit_code == 130
    yield out
    torch.set_num_threads(threads)


def contents(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.iterdir()}


def test_it_goes_on_without_the_data(cut_short: Path, undisturbed: Path) -> None:
    result = lirdrec("fit", "--resume", cut_short)
    assert result.exit_code == 0, result.output
    assert_same_run(undisturbed, cut_short)
    assert lirdrec("evaluate", cut_short).exit_code == 0


def test_more_epochs_go_on_from_the_end(undisturbed: Path, shop: Path, tmp_path: Path) -> None:
    assert lirdrec("fit", "--data", shop, "--out", tmp_path / "long", *OPTIONS, "--epochs", 6).exit_code == 0
    assert lirdrec("fit", "--data", shop, "--out", tmp_path / "short", *OPTIONS).exit_code == 0
    result = lirdrec("fit", "--resume", tmp_path / "short", "--epochs", 6)
    assert result.exit_code == 0, result.output
    assert_same_run(tmp_path / "long", tmp_path / "short")
    assert Run.open(tmp_path / "short").training_config().epochs == 6


def test_a_finished_training_stays_as_it_is(undisturbed: Path, shop: Path, tmp_path: Path) -> None:
    assert lirdrec("fit", "--data", shop, "--out", tmp_path / "run", *OPTIONS).exit_code == 0
    before = contents(tmp_path / "run")
    assert lirdrec("fit", "--resume", tmp_path / "run").exit_code == 0
    after = contents(tmp_path / "run")
    assert before.keys() == after.keys()
    # The one says how much memory this program took, the other has its entries in any order.
    changed = {name for name in before if before[name] != after[name]}
    assert changed <= {"metrics.json", "checkpoint.safetensors"}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--data", "x"], ["--data", "--epochs"]),
        (["--out", "x"], ["--out"]),
        (["--batch-size", 5], ["--batch-size"]),
        (["--preset", "fast"], ["--preset"]),
        (["--overwrite"], ["--overwrite"]),
    ],
)
def test_what_cannot_be_changed_is_refused(cut_short: Path, options: list[object], named: list[str]) -> None:
    before = contents(cut_short)
    assert_refused(lirdrec("fit", "--resume", cut_short, *options), *named)
    assert contents(cut_short) == before


def test_there_has_to_be_something_to_go_on_from(run: Path, cut_short: Path, tmp_path: Path) -> None:
    assert_refused(lirdrec("fit", "--resume", tmp_path / "nothing"), "nothing", "no run folder")
    (cut_short / "checkpoint.safetensors").unlink()
    assert_refused(lirdrec("fit", "--resume", cut_short), "checkpoint.safetensors", "--overwrite")


def test_a_damaged_checkpoint_is_named(cut_short: Path) -> None:
    path = cut_short / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:2000])
    before = contents(cut_short)
    assert_refused(lirdrec("fit", "--resume", cut_short), "checkpoint.safetensors")
    assert contents(cut_short) == before


@pytest.mark.parametrize("name", ["graph.safetensors", "items.parquet", "config.yaml"])
def test_a_finished_run_that_was_damaged_is_not_finished_anew(undisturbed: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(undisturbed, tmp_path / "run")
    content = bytearray((tmp_path / "run" / name).read_bytes())
    content[-3] ^= 1
    (tmp_path / "run" / name).write_bytes(content)
    before = contents(tmp_path / "run")
    assert_refused(lirdrec("fit", "--resume", tmp_path / "run", "--epochs", 9), name, "is not as it was written")
    assert contents(tmp_path / "run") == before


def test_two_trainings_do_not_share_a_folder(cut_short: Path, shop: Path) -> None:
    before = contents(cut_short)
    with FileLock(cut_short / ".lock"):
        assert_refused(lirdrec("fit", "--resume", cut_short), str(cut_short), "in use")
        assert_refused(lirdrec("fit", "--data", shop, "--out", cut_short, "--overwrite", *OPTIONS), "in use")
        assert {name: data for name, data in contents(cut_short).items() if name != ".lock"} == before


def full_disk(_shop: Path, out: Path) -> None:
    torch.set_num_threads(1)
    # No file may be larger: smaller than a checkpoint, larger than what else is written.
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    result = lirdrec("fit", "--resume", out)
    (out.parent / "message").write_text(result.output)
    sys.exit(result.exit_code)


def test_a_full_disk_is_one_error_and_the_checkpoint_stays(cut_short: Path, undisturbed: Path) -> None:
    checkpoint = (cut_short / "checkpoint.safetensors").read_bytes()
    process = started(full_disk, None, cut_short)
    process.join()
    message = (cut_short.parent / "message").read_text()
    assert process.exitcode == 2, message
    assert "checkpoint.safetensors can't be written" in message
    assert "Traceback" not in message
    assert (cut_short / "checkpoint.safetensors").read_bytes() == checkpoint
    assert not [p.name for p in cut_short.iterdir() if p.name.startswith(".")]
    assert lirdrec("fit", "--resume", cut_short).exit_code == 0
    assert_same_run(undisturbed, cut_short)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_run_is_one_error(cut_short: Path) -> None:
    cut_short.chmod(0o500)
    assert_refused(lirdrec("fit", "--resume", cut_short), "can't be written")


def test_a_loss_that_is_no_number_keeps_its_batch_and_the_state_before(
    shop: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[torch.Tensor] = []
    step = trainer.training_step

    def poisoned(*arguments: Any) -> torch.Tensor:
        loss = step(*arguments)
        done.append(arguments[2])
        return loss * torch.nan if len(done) == 12 else loss

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "training_step", poisoned)
        result = lirdrec("fit", "--data", shop, "--out", tmp_path / "run", *OPTIONS)
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    for named in ("The loss is nan in epoch", "diverged.safetensors", f"--resume {tmp_path / 'run'} --lr 0.003"):
        assert named in result.output
    assert torch.equal(load_file(tmp_path / "run" / "diverged.safetensors")["triples"], done[11])
    assert all(value.isfinite().all() for value in Run.open(tmp_path / "run").checkpoint().model.values())
    assert not (tmp_path / "run" / "metrics.json").exists()
    assert lirdrec("fit", "--resume", tmp_path / "run", "--lr", 0.003).exit_code == 0
    settings = Run.open(tmp_path / "run").training_config()
    assert (settings.lr, settings.epochs) == (0.003, 4)
    assert not (tmp_path / "run" / "diverged.safetensors").exists()
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["epochs"] == 4
