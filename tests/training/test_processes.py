"""Several processes train as one."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from trainers import needs_torch_sparse

from lirdrec_pyg.evaluation import RankingTask, evaluate_ranking
from lirdrec_pyg.training import Run
from lirdrec_pyg.training.processes import share_of

OPTIONS = ["--data", "synthetic", "--device", "cpu", "--embedding-dim", "8", "--lr", "1e-3", "--batch-size", "3333"]
# With one thread each, they need not wait for each other's.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
ALONE = [sys.executable, "-m", "lirdrec_pyg"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
FABRIC = [
    str(Path(sys.executable).parent / "fabric"),
    "run",
    "--accelerator",
    "cpu",
    "--devices",
    "2",
    "--main-port",
    "29731",
    "--precision",
]
PROGRAM = str(Path(sys.executable).parent / "lirdrec-pyg")


def fit(launcher: list[str], *options: object) -> str:
    command = [*launcher, "fit", *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@given(st.integers(1, 40), st.integers(1, 8))
def test_the_mean_of_the_weighted_means_is_the_mean(size: int, processes: int) -> None:
    values = torch.rand(3, size, dtype=torch.double, generator=torch.Generator().manual_seed(size))
    parts = [share_of(values, rank, processes) for rank in range(processes)]
    mean = sum(weight * part[2].mean() for part, weight in parts) / processes
    assert float(mean) == pytest.approx(float(values[2].mean()))
    kept = torch.cat([part for part, weight in parts if weight], dim=1)
    assert torch.equal(kept, values)


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 5))
def test_parts_of_a_task_come_to_the_whole(num_users: int, count: int) -> None:
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
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "run"
    fit(ALONE, *OPTIONS, "--precision", "64-true", "--epochs", 3, "--out", out)
    return out


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


@pytest.mark.parametrize(
    "launcher", [[*TORCHRUN, "-m", "lirdrec_pyg"], [*FABRIC, "64-true", "--", PROGRAM]], ids=["torchrun", "fabric run"]
)
def test_two_processes_come_to_the_weights_of_one(launcher: list[str], alone: Path, tmp_path: Path) -> None:
    output = fit(launcher, *OPTIONS, "--precision", "64-true", "--epochs", 3, "--out", tmp_path / "run")
    assert_alike(alone, tmp_path / "run")
    # Only the first one speaks.
    assert output.count("Test, all items ranked") == output.count("parameters on cpu") == 1


@needs_torch_sparse
def test_two_processes_train_on_samples_as_one(tmp_path: Path) -> None:
    """All neighbours are drawn, and there is no regulariser, which is of the nodes of each process's part."""
    options = [*OPTIONS, "--precision", "64-true", "--epochs", "2", "--reg-weight", "0"]
    options += ["--sampling", "neighbors", "--fanout", "-1,-1"]
    fit(ALONE, *options, "--out", tmp_path / "one")
    fit([*TORCHRUN, "-m", "lirdrec_pyg"], *options, "--out", tmp_path / "two")
    assert_alike(tmp_path / "one", tmp_path / "two")
    # It trained, and the memory took over what the last epoch said.
    attention = load_file(tmp_path / "two" / "model.safetensors")["fusion.last_attention"]
    assert not attention.isnan().any()


def test_another_number_of_processes_goes_on(alone: Path, tmp_path: Path) -> None:
    two = [*TORCHRUN, "-m", "lirdrec_pyg"]
    fit(two, *OPTIONS, "--precision", "64-true", "--epochs", 1, "--out", tmp_path / "run")
    fit(ALONE, "--resume", tmp_path / "run", "--epochs", 2)
    fit(two, "--resume", tmp_path / "run", "--epochs", 3)
    assert_alike(alone, tmp_path / "run")


@pytest.mark.parametrize(
    ("launcher", "named"),
    [
        ([*TORCHRUN, "-m", "lirdrec_pyg"], "is not empty"),
        ([*FABRIC, "bf16-mixed", "--", PROGRAM], "give both the same --precision"),
    ],
    ids=["torchrun", "fabric run"],
)
def test_a_mistake_is_named_once(launcher: list[str], named: str, alone: Path, tmp_path: Path) -> None:
    out = alone if "empty" in named else tmp_path / "run"
    command = [*launcher, "fit", *OPTIONS, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT, timeout=100)
    assert done.returncode != 0
    (message,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert named in message
    assert not (tmp_path / "run").exists()


def test_what_only_the_first_process_meets_is_named_once(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run" / ".lock"):
        command = [*TORCHRUN, "-m", "lirdrec_pyg", "fit", *OPTIONS, "--out", str(tmp_path / "run")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT, timeout=100)
    assert done.returncode != 0
    (message,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert "is in use by another training" in message
    assert "[rank1]" not in done.stderr


def two_disturbed(out: Path, disturb: Callable[[subprocess.Popen[str]], None]) -> str:
    """What two processes say that meet something after the first of many epochs."""
    command = [*TORCHRUN, "-m", "lirdrec_pyg", "fit", *OPTIONS, "--epochs", "999", "--patience", "999"]
    with subprocess.Popen(
        [*command, "--out", str(out)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT
    ) as launcher:
        deadline = time.monotonic() + 60
        while not (out / "history.csv").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        disturb(launcher)
        return launcher.communicate(timeout=60)[0]


def test_a_signal_to_the_launcher_saves_what_was_learned(tmp_path: Path) -> None:
    output = two_disturbed(tmp_path / "run", lambda launcher: launcher.send_signal(signal.SIGTERM))
    metrics = Run.open(tmp_path / "run").metrics()
    assert metrics is not None
    assert metrics["stopped"] == "interrupted"
    assert output.count("Stopping: ") == output.count("Go on with: ") == 1


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="the system does not tell the processes apart")
def test_a_process_that_is_killed_ends_the_other_by_a_sentence(tmp_path: Path) -> None:
    def kill_second(launcher: subprocess.Popen[str]) -> None:
        started = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
        (second,) = [pid for pid in started if b"\0RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes()]
        os.kill(int(second), signal.SIGKILL)

    output = two_disturbed(tmp_path / "run", kill_second)
    assert output.count("Error: Another of the processes has ended") == 1
    assert "[rank0]" not in output
    # There is something to go on from.
    assert Run.open(tmp_path / "run").checkpoint().losses.isfinite().all()
