"""A long training needs no more memory than at its start."""

import json
import resource
from pathlib import Path

import pytest
from commands import started
from trainers import MODEL

from lirdrec_pyg import Callback, TrainingConfig, fit
from lirdrec_pyg.cli.allocator import keep_freed_memory
from lirdrec_pyg.datasets import synthetic_data
from lirdrec_pyg.training import EpochResult


class Resident(Callback):
    """Notes the resident memory after two of the epochs, without that of files, which the system may reclaim."""

    def __init__(self) -> None:
        self.bytes: dict[int, int] = {}

    def on_epoch_end(self, result: EpochResult) -> None:
        if result.epoch in (20, 60):
            _, resident, of_files, *_ = map(int, Path("/proc/self/statm").read_text().split())
            self.bytes[result.epoch] = (resident - of_files) * resource.getpagesize()


def train(folder: Path) -> None:
    keep_freed_memory()  # as the command does
    resident = Resident()
    # A checkpoint after each step.
    config = TrainingConfig(epochs=60, patience=60, batch_size=500, lr=1e-3, device="cpu", checkpoint_minutes=0)
    fit(synthetic_data(num_users=60, num_items=50), MODEL, config, folder / "run", callbacks=[resident])
    (folder / "resident.json").write_text(json.dumps(resident.bytes))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not show resident memory")
def test_long_training_does_not_leak(tmp_path: Path) -> None:
    process = started(train, tmp_path)  # with a memory that holds nothing else
    process.join(timeout=100)
    assert process.exitcode == 0
    resident = json.loads((tmp_path / "resident.json").read_text())
    assert resident["60"] <= 1.02 * resident["20"]
    assert len((tmp_path / "run" / "history.csv").read_text().splitlines()) == 61
