import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

# Before torch is imported, and for all processes that tests start: with such small data, threads would only wait for
# each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_report_header() -> str:
    found = importlib.util.find_spec("torch_sparse") is not None
    if os.environ.get("LIRDREC_REQUIRE_TORCH_SPARSE") and not found:
        pytest.exit("LIRDREC_REQUIRE_TORCH_SPARSE is set, but torch-sparse is not installed.", returncode=1)
    return f"torch-sparse: {'installed' if found else 'MISSING, its tests are skipped'}"


@pytest.fixture(scope="session")
def make_shop() -> Callable[[Path], Path]:
    """Write a small data set in MMRec layout: 40 users, 30 items, image and text features, split labels."""

    def make(folder: Path) -> Path:
        rng = np.random.default_rng(0)
        folder.mkdir()
        lines = ["userID\titemID\tx_label"]
        for user in range(40):
            for rank, item in enumerate(rng.choice(30, size=8, replace=False)):
                lines.append(f"{user}\t{item}\t{max(0, rank - 5)}")
        (folder / "shop.inter").write_text("\n".join(lines) + "\n")
        for modality, width in {"image": 12, "text": 7}.items():
            np.save(folder / f"{modality}_feat.npy", rng.standard_normal((30, width)).astype(np.float32))
        return folder

    return make


@pytest.fixture
def shop(make_shop: Callable[[Path], Path], tmp_path: Path) -> Path:
    """The folder of such a data set."""
    return make_shop(tmp_path / "shop")
