"""However a file is mutated, its reader reads it, or refuses it with one message.

``LIRDREC_FUZZ_CASES=10000`` sets the total number of files; by default they are a few hundred, and the
same ones every time.
"""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from forms import FORMS, Form
from guarded_reading import GuardedReader, Outcome
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.fuzz

CASES = int(os.environ.get("LIRDREC_FUZZ_CASES", "300"))

# MiB: small files need little memory.
MEMORY = 300

settings_of_size = settings(
    max_examples=-(-CASES // len(FORMS)),
    derandomize="LIRDREC_FUZZ_CASES" not in os.environ,
    deadline=None,  # the child has one per file
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Form], Path]:
    """Write the folder of a valid file once for all forms that share it."""
    folders: dict[Callable[[Path], object], Path] = {}

    def make(form: Form) -> Path:
        if form.write not in folders:
            folders[form.write] = tmp_path_factory.mktemp("good")
            form.write(folders[form.write])
        return folders[form.write]

    return make


def assert_sound(found: Outcome, *named: Path) -> None:
    """The file was read, or refused with a short message that names it, and nothing else was done."""
    assert found.kind in ("read", "refused"), f"{found.kind}: {found.text}"
    assert not found.effects
    assert found.memory <= MEMORY
    if found.kind == "refused":
        assert found.text.isprintable(), found.text
        assert len(found.text) <= 1200, found.text
        # A mistake in the data as a whole has no file.
        names = (
            *(path.name for path in named),
            "`",
            "item(s)",
            "The graph",
            "No item has",
            " pairs have ",
            "split is empty",
        )
        assert any(name in found.text for name in names), found.text


@pytest.mark.parametrize("name", FORMS)
def test_a_mutated_file_is_read_or_refused(
    name: str, reader: GuardedReader, folder_of: Callable[[Form], Path], tmp_path: Path
) -> None:
    form = FORMS[name]
    folder = tmp_path / "data"
    shutil.copytree(folder_of(form), folder)
    path = folder / form.mutated
    content = path.read_bytes()
    options = {key: str(folder / value) if key == "ids" else value for key, value in form.options.items()}

    def read() -> Outcome:
        return reader.read(form.reader, folder / (form.read or form.mutated), **options)

    assert read().kind == "read"  # otherwise the mutations show nothing

    @settings_of_size
    @given(st.lists(st.sampled_from(form.mutations), min_size=1, max_size=3), st.integers(0, 2**32 - 1))
    def check(chosen: list[Callable[..., bytes]], seed: int) -> None:
        path.write_bytes(form.mutate(content, chosen, seed))
        found = read()
        if path.suffix == ".parquet" and found.kind == "died" and "memory allocation of" in found.text:
            return  # a known limit, see test_hostile_files
        assert_sound(found, path, folder)

    check()


FAULTS = {
    "JSON nested too deep": ("versions.json", "run", '{"format": ' + "[" * 100_000),
    "YAML nested too deep": ("config.yaml", "run", "a: " + "[" * 1_000),
    "YAML with a 13th month": ("config.yaml", "run", "data: 2024-13-01"),
    "YAML with 5000 digits": ("config.yaml", "run", "seed: " + "9" * 5000),
    "a number beyond floats": ("config.yaml", "run", None),
    "a list for a model": ("config.yaml", "run", "model: [lirdrec]"),
    "options nested too deep": ("config.yaml", "config", "epochs: " + "[" * 1_000),
    "options with a 13th month": ("config.yaml", "config", "data: 2024-13-01"),
    "options with 5000 digits": ("config.yaml", "config", "seed: " + "9" * 5000),
    "options of a few lines that expand to gigabytes": (
        "config.yaml",
        "config",
        "epochs:\n- &a x\n"
        + "".join(f"- &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefghi", "bcdefghij")),
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_settings_that_crash_parsers_are_refused(
    name: str, reader: GuardedReader, folder_of: Callable[[Form], Path], tmp_path: Path
) -> None:
    file, kind, content = FAULTS[name]
    folder = tmp_path / "run"
    shutil.copytree(folder_of(FORMS["run: config"]) / "run", folder)
    path = folder / file
    if content is None:
        content = re.sub("(?m)^epochs: .*", "epochs: " + "9" * 400, path.read_text())
    path.write_text(content)
    found = reader.read(kind, folder if kind == "run" else path, timeout=4)
    assert found.kind == "refused"
    assert_sound(found, path, folder)
