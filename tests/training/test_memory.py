"""However long a training takes, it needs no more memory than at its start."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# A checkpoint after every step; in a process of its own, whose memory holds nothing else.
PROGRAM = """
import json
import resource
import sys
from pathlib import Path

from lirdrec_pyg.cli.allocator import keep_freed_memory
from lirdrec_pyg.config import DataConfig, LIRDRecConfig, TrainingConfig
from lirdrec_pyg.datasets import synthetic_data
from lirdrec_pyg.training import Hooks, fit

keep_freed_memory()  # as the command does
resident = {}


def note(result):
    if result.epoch in (20, 200):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        resident[result.epoch] = pages * resource.getpagesize()


fit(
    synthetic_data(num_users=60, num_items=50),
    sys.argv[1],
    DataConfig(),
    LIRDRecConfig(embedding_dim=8, knn_k=4),
    TrainingConfig(epochs=200, patience=200, batch_size=500, lr=1e-3, device="cpu", checkpoint_minutes=0),
    Hooks(on_epoch=note),
)
print(json.dumps(resident))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not say what is resident")
def test_a_long_training_leaks_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "run")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100, env=environment)
    assert done.returncode == 0, done.stderr
    resident = json.loads(done.stdout.splitlines()[-1])
    assert resident["200"] <= 1.02 * resident["20"]
    assert len((tmp_path / "run" / "history.csv").read_text().splitlines()) == 201
