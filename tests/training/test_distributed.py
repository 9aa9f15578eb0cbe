"""Several processes train as one."""

import itertools
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import run_by_torchrun, run_program, started, wait_until
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from trainers import needs_torch_sparse

from lirdrec_pyg.evaluation import RankingTask, evaluate_ranking
from lirdrec_pyg.nn import RowShards, row_shards, xavier_normal_rows_
from lirdrec_pyg.recommender import Run
from lirdrec_pyg.training.distributed import share_of

# A batch size that leaves an odd last batch.
OPTIONS = ("--preset", "paper", "--device", "cpu", "--embedding-dim", 8, "--lr", 1e-3, "--batch-size", 127)
EXACT = ("--precision", "64-true")
LONG = ("--epochs", 9999, "--patience", 9999)
# What ``fabric run --accelerator cpu --devices 2 --precision 64-true`` sets besides the variables of ``torchrun``.
FABRIC_RUN = {
    "LT_CLI_USED": "1",
    "LT_ACCELERATOR": "cpu",
    "LT_DEVICES": "2",
    "LT_NUM_NODES": "1",
    "LT_PRECISION": "64-true",
}


@given(st.integers(1, 40), st.integers(1, 8))
def test_mean_of_the_weighted_means_is_the_mean(size: int, processes: int) -> None:
    values = torch.rand(3, size, dtype=torch.double, generator=torch.Generator().manual_seed(size))
    parts = [share_of(values, rank, processes) for rank in range(processes)]
    mean = sum(weight * part[2].mean() for part, weight in parts) / processes
    assert float(mean) == pytest.approx(float(values[2].mean()))
    kept = torch.cat([part for part, weight in parts if weight], dim=1)
    assert torch.equal(kept, values)


@settings(max_examples=30)
@given(st.integers(1, 12), st.integers(1, 5))
def test_parts_of_a_task_add_up_to_the_whole(num_users: int, count: int) -> None:
    generator = torch.Generator().manual_seed(num_users)
    user, item = torch.randn(num_users, 4, generator=generator), torch.randn(30, 4, generator=generator)
    pairs = torch.stack([torch.arange(num_users), torch.randint(30, (num_users,), generator=generator)])
    task = RankingTask.of(pairs, None, 30)
    sums: list[list[torch.Tensor]] = []
    for index in range(count):
        sums.append([])
        evaluate_ranking(user, item, task.part(index, count), total=lambda part: sums[-1].append(part) or part)
    totals = iter([torch.stack(parts).sum(dim=0) for parts in zip(*sums, strict=True)])
    together = evaluate_ranking(user, item, task.part(0, count), total=lambda _: next(totals))
    assert together == pytest.approx(evaluate_ranking(user, item, task), abs=1e-6)


@pytest.fixture(scope="module")
def options(learnable_shop: Path) -> tuple[object, ...]:
    return "--data", learnable_shop, *OPTIONS


class Pair:
    """Two processes that run ``lirdrec-pyg fit``, with the variables that ``torchrun`` sets for them."""

    def __init__(self, folder: Path, *options: object, **environment: str) -> None:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        self.outputs = [folder / f"output{rank}" for rank in range(2)]
        self.processes: list[Any] = []
        for rank, output in enumerate(self.outputs):
            variables = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
            variables |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "x"}
            self.processes.append(started(run_program, output, {**variables, **environment}, "fit", *options))

    def join(self, patience: float) -> list[str]:
        """Wait for the first process, then ``patience`` seconds for the second; return what they printed."""
        for process, seconds in zip(self.processes, (100, patience), strict=True):
            process.join(seconds)
            process.kill()
            process.join()
        return [output.read_text() if output.exists() else "" for output in self.outputs]

    def fit(self) -> list[str]:
        outputs = self.join(patience=100)
        assert [process.exitcode for process in self.processes] == [0, 0], outputs
        return outputs

    def assert_refused(self, *named: str) -> None:
        """Check that one line by the first process names the mistake, for which the second may wait forever."""
        first, second = self.join(patience=0.2)
        assert all(process.exitcode for process in self.processes)
        (message,) = [line for line in (first + second).splitlines() if line.startswith("Error: ")]
        assert message in first
        assert all(name in message for name in named), message
        assert "Traceback" not in first + second


def fit_alone(folder: Path, *options: object) -> None:
    process = started(run_program, folder / "output", {}, "fit", *options)
    process.join(timeout=100)
    assert process.exitcode == 0, (folder / "output").read_text()


@pytest.fixture(scope="module")
def alone(options: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    fit_alone(folder, *options, *EXACT, "--epochs", 3, "--out", folder / "run")
    return folder / "run"


def assert_alike(one: Path, other: Path) -> None:
    expected, actual = (load_file(run / "model.safetensors") for run in (one, other))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
    histories = [Run.open(run).checkpoint().history for run in (one, other)]
    for a, b in zip(*histories, strict=True):
        assert b.loss == pytest.approx(a.loss, abs=1e-5)
        assert b.valid == pytest.approx(a.valid, abs=1e-5)
        assert a.improved == b.improved
    metrics, others = (Run.open(run).metrics() for run in (one, other))
    assert metrics is not None
    assert others is not None
    assert others["test"] == pytest.approx(metrics["test"], abs=1e-5)


@pytest.mark.slow
def test_two_processes_reach_the_weights_of_one(alone: Path, options: tuple[object, ...], tmp_path: Path) -> None:
    first, second = Pair(tmp_path, *options, *EXACT, "--epochs", 3, "--out", tmp_path / "run").fit()
    assert_alike(alone, tmp_path / "run")
    # Only the first one prints, except for what Lightning logs.
    assert "Test metrics" in first
    assert [line for line in second.splitlines() if not line.startswith("Initializing distributed")] == []


@pytest.mark.slow
def test_another_launcher_or_number_of_processes_resumes(
    alone: Path, options: tuple[object, ...], tmp_path: Path
) -> None:
    Pair(tmp_path, *options, *EXACT, "--epochs", 1, "--out", tmp_path / "run", **FABRIC_RUN).fit()
    fit_alone(tmp_path, "--resume", tmp_path / "run", "--epochs", 2)
    Pair(tmp_path, "--resume", tmp_path / "run", "--epochs", 3).fit()
    assert_alike(alone, tmp_path / "run")


@pytest.mark.slow
def test_two_processes_race_and_average_as_one(options: tuple[object, ...], tmp_path: Path) -> None:
    settings = ("--loss", "softmax", "--fusion", "mean", "--feature-dim", 4, "--ema", 0.8, "--race")
    options = (*options, *EXACT, "--epochs", 2, *settings)
    fit_alone(tmp_path, *options, "--out", tmp_path / "one")
    Pair(tmp_path, *options, "--out", tmp_path / "two").fit()
    one, two = (Run.open(tmp_path / name) for name in ("one", "two"))
    assert one.model_config() == two.model_config()
    values = [[round.pop("recall@20") for round in run.metrics()["race"]] for run in (one, two)]
    assert values[1] == pytest.approx(values[0], abs=1e-5)
    assert len({*values[0]}) > 1
    assert_alike(one.path, two.path)


@pytest.mark.slow
@needs_torch_sparse
def test_two_processes_train_on_samples_as_one(options: tuple[object, ...], tmp_path: Path) -> None:
    """All neighbors are sampled, and there is no regularizer, which depends on the nodes of each process's part."""
    options = (*options, *EXACT, "--epochs", 2, "--reg-weight", 0, "--sampling", "neighbors", "--fanout", "-1,-1")
    fit_alone(tmp_path, *options, "--out", tmp_path / "one")
    Pair(tmp_path, *options, "--out", tmp_path / "two").fit()
    assert_alike(tmp_path / "one", tmp_path / "two")
    # The memory of the fusion was updated in all users.
    attention = load_file(tmp_path / "two" / "model.safetensors")["fusion.last_attention"]
    assert not attention.isnan().any()


SHARDED = ("--reg-weight", 0, "--sampling", "neighbors", "--fanout", "-1,-1", "--user-table", "sharded")


@pytest.mark.slow
@needs_torch_sparse
@pytest.mark.parametrize("settings", [("--user-gradients", "sparse"), ("--fusion", "static", "--ema", 0.9)])
def test_processes_with_some_users_each_train_as_one(
    options: tuple[object, ...], tmp_path: Path, settings: tuple[object, ...]
) -> None:
    options = (*options, *EXACT, *SHARDED, *settings)
    fit_alone(tmp_path, *options, "--epochs", 2, "--out", tmp_path / "one")
    Pair(tmp_path, *options, "--epochs", 1, "--out", tmp_path / "two").fit()
    Pair(tmp_path, "--resume", tmp_path / "two", "--epochs", 2).fit()
    assert_alike(tmp_path / "one", tmp_path / "two")
    Run.open(tmp_path / "two").verify()
    # Another number of processes resumes.
    for name in ("one", "two"):
        fit_alone(tmp_path, "--resume", tmp_path / name, "--epochs", 3)
    assert_alike(tmp_path / "one", tmp_path / "two")


def test_blocks_of_rows_get_the_weights_of_the_whole_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_shards, "_BLOCK_ROWS", 64)
    for num_rows, count, branches in itertools.product((1, 5, 64, 65, 127, 128, 200), (2, 3, 4), (1, 3)):
        whole = torch.empty(num_rows, branches, 5)
        torch.manual_seed(0)
        for branch in range(branches):
            torch.nn.init.xavier_normal_(whole[:, branch])
        state, parts = torch.get_rng_state(), []
        for rank in range(count):
            monkeypatch.setattr(row_shards.dist, "get_world_size", lambda count=count: count)
            monkeypatch.setattr(row_shards.dist, "get_rank", lambda rank=rank: rank)
            shards = RowShards(num_rows)
            parts.append(torch.empty(shards.num_own, branches, 5))
            torch.manual_seed(0)
            for branch in range(branches):
                xavier_normal_rows_(parts[-1][:, branch], shards)
            assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(torch.cat(parts), whole)


@pytest.mark.slow
@needs_torch_sparse
def test_sharded_training_survives_the_loss_of_a_process(options: tuple[object, ...], tmp_path: Path) -> None:
    run = tmp_path / "run"
    pair = Pair(tmp_path, *options, *SHARDED, *LONG, "--out", run)
    wait_until((run / "history.csv").exists, pair.processes[0])
    os.kill(pair.processes[0].pid, signal.SIGKILL)
    _, second = pair.join(patience=100)
    assert second.count("Error: Another of the processes has ended") == 1
    assert "Traceback" not in second
    epochs = len(Run.open(run).checkpoint().history)
    Pair(tmp_path, "--resume", run, "--epochs", epochs + 1).fit()
    assert len(Run.open(run).checkpoint().history) == epochs + 1


@pytest.mark.slow
def test_a_mistake_is_named_once(alone: Path, options: tuple[object, ...], tmp_path: Path) -> None:
    Pair(tmp_path, *options, "--out", alone).assert_refused("is not empty")
    Pair(tmp_path, *options, "--out", tmp_path / "run", **FABRIC_RUN).assert_refused("fabric run", "--precision")
    assert not (tmp_path / "run").exists()
    # Only the first process tries to lock the folder.
    (tmp_path / "used").mkdir()
    with FileLock(tmp_path / "used" / ".lock"):
        Pair(tmp_path, *options, "--out", tmp_path / "used").assert_refused("is in use by another program")


@pytest.mark.slow
def test_signal_to_the_launcher_saves_the_progress(options: tuple[object, ...], tmp_path: Path) -> None:
    arguments = ("fit", *options, *LONG, "--out", tmp_path / "run")
    launcher = started(run_by_torchrun, tmp_path / "output", *arguments, daemon=False)
    wait_until((tmp_path / "run" / "history.csv").exists, launcher)
    launcher.terminate()
    launcher.join(100)
    output = (tmp_path / "output").read_text()
    metrics = Run.open(tmp_path / "run").metrics()
    assert metrics is not None, output
    assert metrics["stopped"] == "interrupted"
    assert output.count("Stopping and saving") == output.count("Resume with: ") == 1


@pytest.mark.slow
def test_process_that_is_killed_ends_the_other_with_one_sentence(options: tuple[object, ...], tmp_path: Path) -> None:
    pair = Pair(tmp_path, *options, *LONG, "--out", tmp_path / "run")
    wait_until((tmp_path / "run" / "history.csv").exists, pair.processes[0])
    os.kill(pair.processes[1].pid, signal.SIGKILL)
    first, _ = pair.join(patience=0)
    assert pair.processes[0].exitcode == 1
    assert first.count("Error: Another of the processes has ended") == 1
    assert "Traceback" not in first
    # There is something to resume from.
    assert Run.open(tmp_path / "run").checkpoint().losses.isfinite().all()
