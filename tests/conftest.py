import functools
import gc
import importlib.util
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before numpy and torch are imported, and for all processes that tests start: with such small data, threads would only
# wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# On a busy machine, anything may take long.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the files that have slow tests, so that no worker is left with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Spare the garbage collector what was imported: hundreds of thousands of objects that never go."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


@pytest.fixture(scope="session", autouse=True)
def _no_waiting() -> Iterator[None]:
    """Do not wait for the disk, since nothing here cuts the power, nor look for installed plugins in each training."""

    def connect(*args: Any, **options: Any) -> sqlite3.Connection:
        connection = sqlite3.connect(*args, **options)
        connection.execute("PRAGMA synchronous = OFF")
        return connection

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        patch.setattr(sqlite3.dbapi2, "connect", connect)  # as SQLAlchemy calls it
        if registry := sys.modules.get("lightning_fabric.utilities.registry"):
            patch.setattr(registry, "entry_points", functools.cache(registry.entry_points))
        yield


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
def small_synthetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``synthetic`` stand for 40 users and 60 items."""
    from lirdrec_pyg.data import generator

    monkeypatch.setattr("lirdrec_pyg.data.dataset.generate", lambda: generator.generate(40, 60))


@pytest.fixture(scope="session")
def learnable_shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of data that can be learned, so that the best epoch is not the first; never to be changed."""
    from lirdrec_pyg.data import HELD_OUT, INTERACTS
    from lirdrec_pyg.datasets import synthetic_data

    folder = tmp_path_factory.mktemp("learnable")
    graph = synthetic_data(num_users=60, num_items=50).graph
    splits = {0: "edge_index", **{split.label: split.edge_label_key for split in HELD_OUT}}
    lines = [f"{u}\t{i}\t{label}" for label, name in splits.items() for u, i in graph[INTERACTS][name].T.tolist()]
    (folder / "shop.inter").write_text("\n".join(["userID\titemID\tx_label", *lines]) + "\n")
    for modality in ("image", "text"):
        np.save(folder / f"{modality}_feat.npy", graph["item"][f"x_{modality}"].numpy())
    return folder


@pytest.fixture
def shop(make_shop: Callable[[Path], Path], tmp_path: Path) -> Path:
    """The folder of such a data set."""
    return make_shop(tmp_path / "shop")
