import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lirdrec_pyg import threads
from lirdrec_pyg.threads import available_cpus, prepare_threads, usable_cpus


def without_openmp() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}


@pytest.fixture
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


@pytest.fixture
def before_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The state in which a command starts: no torch, no OpenMP variables."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(threads.os, "environ", without_openmp())


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text + "\n")


def cpus_in(folder: Path, membership: str) -> int:
    write(folder / "membership", membership)
    return usable_cpus(folder / "cgroup", folder / "membership")


@pytest.mark.usefixtures("eight_cpus")
@pytest.mark.parametrize(
    ("limit", "cpus"), [("max 100000", 8), ("150000 100000", 2), ("10000 100000", 1), ("1600000 100000", 8)]
)
def test_cgroup_v2_quota_limits_the_cpus(limit: str, cpus: int, tmp_path: Path) -> None:
    write(tmp_path / "cgroup/user/job/cpu.max", limit)
    assert cpus_in(tmp_path, "0::/user/job") == cpus


@pytest.mark.usefixtures("eight_cpus")
@pytest.mark.parametrize(("quota", "cpus"), [("-1", 8), ("300000", 3)])
def test_cgroup_v1_quota_limits_the_cpus(quota: str, cpus: int, tmp_path: Path) -> None:
    write(tmp_path / "cgroup/cpu/job/cpu.cfs_quota_us", quota)
    write(tmp_path / "cgroup/cpu/job/cpu.cfs_period_us", "100000")
    assert cpus_in(tmp_path, "5:memory:/job\n1:cpu,cpuacct:/job\n0::/") == cpus


@pytest.mark.usefixtures("eight_cpus")
def test_quotas_of_parent_cgroups_apply(tmp_path: Path) -> None:
    write(tmp_path / "cgroup/cpu.max", "400000 100000")
    write(tmp_path / "cgroup/user/cpu.max", "200000 100000")
    write(tmp_path / "cgroup/user/job/cpu.max", "max 100000")
    assert cpus_in(tmp_path, "0::/user/job") == 2
    assert cpus_in(tmp_path, "0::/path/on/the/host") == 4


@pytest.mark.usefixtures("eight_cpus")
def test_without_cgroups_the_affinity_counts(tmp_path: Path) -> None:
    assert usable_cpus(tmp_path, tmp_path / "missing") == 8


def test_without_affinity_masks_all_cpus_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert available_cpus() == (os.cpu_count() or 1)


@pytest.mark.usefixtures("eight_cpus", "before_torch")
@pytest.mark.parametrize(("cpus", "expected"), [(3, "3"), (8, None)])
def test_only_a_quota_sets_the_number_of_threads(
    cpus: int, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "usable_cpus", lambda: cpus)
    prepare_threads()
    assert os.environ.get("OMP_NUM_THREADS") == expected
    assert os.environ["GOMP_SPINCOUNT"] == "10000"


@pytest.mark.usefixtures("eight_cpus", "before_torch")
def test_the_user_settings_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "usable_cpus", lambda: 3)
    own = {"OMP_WAIT_POLICY": "ACTIVE", "OMP_NUM_THREADS": "5"}
    os.environ.update(own)
    prepare_threads()
    assert "GOMP_SPINCOUNT" not in os.environ
    assert {name: os.environ[name] for name in own} == own


@pytest.mark.usefixtures("before_torch")
def test_nothing_changes_once_torch_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", sys)
    prepare_threads()
    assert "GOMP_SPINCOUNT" not in os.environ


def python(program: str) -> subprocess.CompletedProcess[str]:
    environment = {**without_openmp(), "OMP_DISPLAY_ENV": "VERBOSE"}
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)


def test_importing_the_package_changes_no_variables() -> None:
    python("import os; before = dict(os.environ); import lirdrec_pyg.threads; assert os.environ == before")


@pytest.mark.skipif(sys.platform != "linux", reason="libgomp is the OpenMP runtime of torch on Linux only")
def test_the_runtime_of_torch_reads_the_setting() -> None:
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    # As `import torch` loads it, which takes seconds.
    (runtime,) = (Path(spec.origin or "").parent / "lib").glob("libgomp*")
    program = f"from lirdrec_pyg.threads import prepare_threads; prepare_threads(); CDLL({str(runtime)!r})"
    assert "GOMP_SPINCOUNT = '10000'" in python(f"from ctypes import CDLL; {program}").stderr
