import re
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from commands import assert_refused, lirdrec
from filelock import FileLock

from lirdrec_pyg.cli import main
from lirdrec_pyg.config import DataConfig, LIRDRecConfig, TrainingConfig
from lirdrec_pyg.datasets import synthetic_data
from lirdrec_pyg.serving import Recommender
from lirdrec_pyg.training import fit

WIDTHS = {"image": 80, "text": 64}


@pytest.fixture
def features(tmp_path: Path) -> list[str]:
    """Options that name features of three new items, whose rows go by position."""
    rng = np.random.default_rng(0)
    for modality, width in WIDTHS.items():
        np.save(tmp_path / f"{modality}.npy", rng.standard_normal((3, width)).astype(np.float32))
    (tmp_path / "ids.txt").write_text("new-a\nnew-b\n7\n")
    named = [f"{modality}={tmp_path / modality}.npy" for modality in WIDTHS]
    return ["--features", named[0], "--features", named[1], "--ids", str(tmp_path / "ids.txt")]


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_new_items_are_in_a_run_of_their_own(run: Path, tmp_path: Path, features: list[str]) -> None:
    before, out = content(run), tmp_path / "noon"
    result = lirdrec("add-items", run, *features, "--out", out)
    assert result.exit_code == 0, result.output
    assert f"3 items were added, 63 are in {out}" in result.output
    assert content(run) == before
    recommender = Recommender.load(out)
    assert recommender.items.ids.to_list()[60:] == ["new-a", "new-b", "7"]
    assert np.isfinite(recommender.item_vectors()).all()


def test_every_command_knows_the_new_items(run: Path, tmp_path: Path, features: list[str]) -> None:
    out = tmp_path / "noon"
    assert lirdrec("add-items", run, *features, "--out", out).exit_code == 0
    (tmp_path / "candidates.txt").write_text("new-a\n7\n")
    result = lirdrec("recommend", out, "--users", "user-1", "--candidates", tmp_path / "candidates.txt")
    assert sorted(line.split()[1] for line in result.output.splitlines()[1:]) == ["7", "new-a"]
    for by in ("vectors", "image"):
        result = lirdrec("similar", out, "--item", "7", "-k", 5, "--by", by)
        assert len(result.output.splitlines()) == 6, result.output
    assert "score of new-b for user-1" in lirdrec("explain", out, "--user", "user-1", "--item", "new-b").output
    assert lirdrec("recommend", out, "--history", "new-a", "-k", 1).exit_code == 0
    assert CliRunner().invoke(main, ["export", str(out), "--out", str(tmp_path / "vectors")]).exit_code == 0
    assert pl.read_parquet(tmp_path / "vectors" / "items.parquet")["id"].to_list()[60:] == ["new-a", "new-b", "7"]


def test_evaluate_gives_the_figures_of_the_first_run(run: Path, tmp_path: Path, features: list[str]) -> None:
    out = tmp_path / "noon"
    assert lirdrec("add-items", run, *features, "--out", out).exit_code == 0
    of_both = [lirdrec("evaluate", path, "--split", "both", "--buckets") for path in (run, out)]
    assert of_both[0].output == of_both[1].output
    assert of_both[1].output.count("as in metrics.json, to the last digit") == 2


def test_more_can_be_added_to_the_second_run(run: Path, tmp_path: Path, features: list[str]) -> None:
    second, third = tmp_path / "noon", tmp_path / "evening"
    assert lirdrec("add-items", run, *features, "--out", second).exit_code == 0
    assert_refused(lirdrec("add-items", second, *features, "--out", third), "3 of the new items", "'new-a'")
    assert not third.exists()
    (tmp_path / "ids.txt").write_text("new-c\nnew-d\nnew-e\n")
    assert "66 are in" in lirdrec("add-items", second, *features, "--out", third).output
    shutil.rmtree(second)
    assert Recommender.load(third).items.ids.to_list()[60:] == ["new-a", "new-b", "7", "new-c", "new-d", "new-e"]


def test_a_modality_may_be_left_out(run: Path, tmp_path: Path, features: list[str]) -> None:
    result = lirdrec("add-items", run, *features[2:], "--out", tmp_path / "noon")
    assert result.exit_code == 0, result.output
    assert_refused(lirdrec("similar", tmp_path / "noon", "--item", "7", "--by", "image"), "no features in image")


def test_zero_rows_can_count_as_missing(run: Path, tmp_path: Path, features: list[str]) -> None:
    x = np.load(tmp_path / "image.npy")
    x[1] = 0
    np.save(tmp_path / "image.npy", x)
    out = tmp_path / "noon"
    assert_refused(lirdrec("add-items", run, *features, "--out", out), "image.npy is all zeros in row 1")
    assert not out.exists()
    assert lirdrec("add-items", run, *features, "--out", out, "--zero-features", "missing").exit_code == 0
    assert_refused(lirdrec("similar", out, "--item", "new-b", "--by", "image"), "no features in image")
    # Nothing in any modality.
    options = [*features[:2], *features[4:], "--zero-features", "missing"]
    assert_refused(lirdrec("add-items", run, *options, "--out", tmp_path / "other"), "'new-b' has no features")


def spoil(path: Path, value: float) -> None:
    x = np.load(path)
    x[2, 5] = value
    np.save(path, x)


MISTAKES = {
    "too narrow": (lambda f: np.save(f / "text.npy", np.ones((3, 63))), "text.npy has 63 columns, but text had 64"),
    "NaN": (lambda f: spoil(f / "text.npy", np.nan), "text.npy holds nan in row 2, column 5"),
    "infinite": (lambda f: spoil(f / "text.npy", np.inf), "text.npy holds inf in row 2, column 5"),
    "fewer rows": (lambda f: np.save(f / "text.npy", np.ones((2, 64))), "text.npy has 2 rows, but --ids lists 3"),
    "no such features": (lambda f: (f / "text.npy").unlink(), "text.npy"),
    "no features": (lambda f: (f / "text.npy").write_text("x"), "text.npy"),
    "no such IDs": (lambda f: (f / "ids.txt").unlink(), "ids.txt"),
    "an ID twice": (lambda f: (f / "ids.txt").write_text("a\nb\na\n"), "'a' more than once"),
    "an ID that is known": (lambda f: (f / "ids.txt").write_text("a\nitem-3\nb\n"), "'item-3'"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_each_mistake_in_a_file_is_one_error_and_writes_nothing(
    run: Path, tmp_path: Path, features: list[str], case: str
) -> None:
    change, named = MISTAKES[case]
    change(tmp_path)
    before = content(tmp_path)
    assert_refused(lirdrec("add-items", run, *features, "--out", tmp_path / "noon"), named)
    assert content(tmp_path) == before


def test_each_mistake_in_the_options_is_one_error_and_writes_nothing(
    run: Path, tmp_path: Path, features: list[str]
) -> None:
    out, before = tmp_path / "noon", content(tmp_path)
    smell = ["--features", f"smell={tmp_path / 'text.npy'}"]
    for arguments, named in (
        ([run, "--out", out], "--features"),
        ([run, *features], "--out"),
        ([run, *features, *smell, "--out", out], "'smell', but the model was trained with image, text"),
        ([run, *features[:4], "--out", out], "--ids"),
        ([run, "--features", "image", "--out", out], "--features"),
        ([tmp_path, *features, "--out", out], "no run folder"),
        ([*features, "--out", out], "RUN"),
        ([run, *features, "--out", tmp_path / "ids.txt"], "is a file"),
    ):
        assert_refused(lirdrec("add-items", *arguments), named)
    assert content(tmp_path) == before


def test_overwrite(run: Path, tmp_path: Path, features: list[str]) -> None:
    out = tmp_path / "noon"
    assert lirdrec("add-items", run, *features, "--out", out).exit_code == 0
    before = content(out)
    assert_refused(lirdrec("add-items", run, *features, "--out", out), "--overwrite")
    assert content(out) == before
    (tmp_path / "ids.txt").write_text("x\ny\nz\n")
    assert lirdrec("add-items", run, *features, "--out", out, "--overwrite").exit_code == 0
    assert Recommender.load(out).items.ids.to_list()[60:] == ["x", "y", "z"]
    assert_refused(lirdrec("add-items", run, *features, "--out", tmp_path, "--overwrite"), "other things than a run")


@pytest.mark.parametrize("options", [[], ["--overwrite"]])
def test_a_run_is_not_written_over_itself(run: Path, tmp_path: Path, features: list[str], options: list[str]) -> None:
    own = Path(shutil.copytree(run, tmp_path / "own"))
    before = content(own)
    result = lirdrec("add-items", own, *features, "--out", own, *options)
    assert content(own) == before
    assert_refused(result, "own")


def test_a_2d_model_says_why_it_takes_no_new_items(tmp_path: Path, features: list[str]) -> None:
    config = LIRDRecConfig(embedding_dim=8, dct="2d")
    fit(synthetic_data(40, 60), tmp_path / "run", DataConfig(), config, TrainingConfig(epochs=1, device="cpu"))
    out = tmp_path / "noon"
    assert_refused(lirdrec("add-items", tmp_path / "run", *features, "--out", out), "--dct 2d", "all items")
    assert not out.exists()


def test_help_names_every_option() -> None:
    text = re.sub(r"\s+", " ", lirdrec("add-items", "--help").output)
    for option in ("--features", "--ids", "--out", "--overwrite", "--zero-features [error|missing]", "--device"):
        assert option in text


def test_the_column_of_item_ids_can_be_named(run: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    columns = {f"x{n}": rng.standard_normal(2).astype(np.float32) for n in range(WIDTHS["text"])}
    pl.DataFrame({"count": [3, 4], "sku": [100, 200], **columns}).drop("count").write_parquet(tmp_path / "text.parquet")
    options = ["--features", f"text={tmp_path / 'text.parquet'}", "--out", tmp_path / "noon"]
    assert_refused(lirdrec("add-items", run, *options), "item_id")
    result = lirdrec("add-items", run, *options, "--item-column", "sku")
    assert result.exit_code == 0, result.output
    assert Recommender.load(tmp_path / "noon").items.ids.to_list()[-2:] == ["100", "200"]


def test_a_modality_is_named_once(run: Path, tmp_path: Path, features: list[str]) -> None:
    assert_refused(
        lirdrec("add-items", run, *features, *features[:2], "--out", tmp_path / "noon"), "image", "more than once"
    )


def test_a_folder_that_another_program_writes_into_is_left_alone(
    run: Path, tmp_path: Path, features: list[str]
) -> None:
    (tmp_path / "more").mkdir()
    with FileLock(tmp_path / "more" / ".lock"):
        assert_refused(lirdrec("add-items", run, *features, "--out", tmp_path / "more"), "is in use by another")
        assert [file.name for file in (tmp_path / "more").iterdir()] == [".lock"]
