import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
RECORDED = sorted((Path(__file__).parent / "recordings").glob("*.npz"))


def replay(*files: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks/parity.py"), *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_recorded_trajectories_are_reproduced() -> None:
    result = replay(*RECORDED)
    assert result.returncode == 0, result.stdout + result.stderr
    assert len(RECORDED) == 2
    for report in json.loads(result.stdout).values():
        assert report["passed"]
        assert report["one_pass"]["largest"] <= 1e-5
        assert report["trajectory"]["largest"] <= 1e-3


@pytest.mark.parametrize("key", ["grad_image_w1", "losses", "final_theta", "item_adj"])
def test_a_deviation_is_noticed(tmp_path: Path, key: str) -> None:
    content = dict(np.load(RECORDED[-1]))
    content[key] = content[key] + 0.01
    np.savez(tmp_path / "wrong.npz", **content)
    result = replay(tmp_path / "wrong.npz")
    assert result.returncode == 1
    assert not json.loads(result.stdout)[str(tmp_path / "wrong.npz")]["passed"]
