"""Trajectories recorded from the authors' program are reproduced."""

import json
from pathlib import Path

import numpy as np
import parity
from click.testing import CliRunner, Result

RECORDED = sorted((Path(__file__).parent / "recordings").glob("*.npz"))


def replay(*files: Path) -> Result:
    return CliRunner().invoke(parity.main, list(map(str, files)))


def test_recorded_trajectories_are_reproduced() -> None:
    result = replay(*RECORDED)
    assert result.exit_code == 0, result.output
    assert len(RECORDED) == 2
    for report in json.loads(result.stdout).values():
        assert report["passed"]
        assert report["one_pass"]["largest"] <= 1e-5
        assert report["trajectory"]["largest"] <= 1e-3


def test_deviations_are_noticed(tmp_path: Path) -> None:
    for key in ("grad_image_w1", "losses", "final_theta", "item_adj"):
        content = dict(np.load(RECORDED[-1]))
        content[key] = content[key] + 0.01
        np.savez(tmp_path / f"{key}.npz", **content)
        result = replay(tmp_path / f"{key}.npz")
        assert result.exit_code == 1, key
        assert not json.loads(result.stdout)[str(tmp_path / f"{key}.npz")]["passed"]
