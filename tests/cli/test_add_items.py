import re
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from commands import assert_refused, lirdrec
from filelock import FileLock
from runs import change_settings, contents, reseal

from lirdrec_pyg import Recommender
from lirdrec_pyg.data.provenance import write_provenance
from lirdrec_pyg.files import checksum

WIDTHS = {"image": 80, "text": 64}


@pytest.fixture
def features(tmp_path: Path) -> list[str]:
    """Options that name features of three new items, whose rows are matched by position."""
    rng = np.random.default_rng(0)
    for modality, width in WIDTHS.items():
        np.save(tmp_path / f"{modality}.npy", rng.standard_normal((3, width)).astype(np.float32))
    (tmp_path / "ids.txt").write_text("new-a\nnew-b\n7\n")
    named = [f"{modality}={tmp_path / modality}.npy" for modality in WIDTHS]
    return ["--features", named[0], "--features", named[1], "--ids", str(tmp_path / "ids.txt")]


@pytest.fixture
def noon(run: Path, tmp_path: Path, features: list[str]) -> Path:
    """A run with the new items."""
    before, out = contents(run), tmp_path / "noon"
    result = lirdrec("add-items", run, *features, "--out", out)
    assert result.exit_code == 0, result.output
    assert f"3 items were added; {out} has 63 items" in result.output
    assert contents(run) == before
    return out


def test_every_command_knows_the_new_items(noon: Path, tmp_path: Path) -> None:
    assert Recommender.load(noon).items.ids.to_list()[60:] == ["new-a", "new-b", "7"]
    (tmp_path / "candidates.txt").write_text("new-a\n7\n")
    result = lirdrec("recommend", noon, "--users", "user-1", "--candidates", tmp_path / "candidates.txt")
    assert sorted(line.split()[1] for line in result.output.splitlines()[1:]) == ["7", "new-a"]
    for by in ("vectors", "image"):
        result = lirdrec("similar", noon, "--item", "7", "-k", 5, "--by", by)
        assert len(result.output.splitlines()) == 6, result.output
    assert "score of new-b for user-1" in lirdrec("explain", noon, "--user", "user-1", "--item", "new-b").output
    assert lirdrec("recommend", noon, "--history", "new-a", "-k", 1).exit_code == 0
    assert lirdrec("export", noon, "--out", tmp_path / "vectors").exit_code == 0
    assert pl.read_parquet(tmp_path / "vectors" / "items.parquet")["id"].to_list()[60:] == ["new-a", "new-b", "7"]


def test_metrics_are_those_of_the_first_run(run: Path, noon: Path) -> None:
    of_both = [lirdrec("evaluate", path, "--split", "both", "--buckets") for path in (run, noon)]
    assert of_both[0].output == of_both[1].output
    assert of_both[1].output.count("as in metrics.json, to the last digit") == 2


def test_more_can_be_added_to_the_second_run(noon: Path, tmp_path: Path, features: list[str]) -> None:
    third = tmp_path / "evening"
    assert_refused(lirdrec("add-items", noon, *features, "--out", third), "3 of the new items", "'new-a'")
    assert not third.exists()
    (tmp_path / "ids.txt").write_text("new-c\nnew-d\nnew-e\n")
    assert "has 66 items" in lirdrec("add-items", noon, *features, "--out", third).output
    shutil.rmtree(noon)
    assert Recommender.load(third).items.ids.to_list()[60:] == ["new-a", "new-b", "7", "new-c", "new-d", "new-e"]


def test_modality_may_be_omitted(run: Path, tmp_path: Path, features: list[str]) -> None:
    result = lirdrec("add-items", run, *features[2:], "--out", tmp_path / "noon")
    assert result.exit_code == 0, result.output
    assert result.stderr == "Warning: Features of image are missing for all 3 new items.\n"
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


def test_each_mistake_in_a_file_is_one_error_and_writes_nothing(run: Path, tmp_path: Path, features: list[str]) -> None:
    """Wrong features themselves are tested with the functions that read them."""
    text, ids = tmp_path / "text.npy", tmp_path / "ids.txt"
    for change, named in (
        (lambda: np.save(text, np.ones((3, 63))), "text.npy has 63 columns"),
        (lambda: spoil(text, np.nan), "text.npy .*nan.* row 2, column 5"),
        (lambda: np.save(text, np.ones((2, 64))), "text.npy has 2 rows"),
        (text.unlink, "text.npy"),
        (lambda: ids.write_text("a\nb\na\n"), "more than once"),
        (lambda: ids.write_text("a\nitem-3\nb\n"), "'item-3'"),
        (ids.unlink, "ids.txt"),
    ):
        whole = contents(tmp_path)
        change()
        before = contents(tmp_path)
        result = lirdrec("add-items", run, *features, "--out", tmp_path / "noon")
        assert_refused(result)
        assert re.search(named, result.output)
        assert contents(tmp_path) == before
        for name, content in whole.items():
            (tmp_path / name).write_bytes(content)


def test_each_mistake_in_the_options_is_one_error_and_writes_nothing(
    run: Path, tmp_path: Path, features: list[str]
) -> None:
    out, before = tmp_path / "noon", contents(tmp_path)
    smell = ["--features", f"smell={tmp_path / 'text.npy'}"]
    for arguments, named in (
        ([run, "--out", out], "--features"),
        ([run, *features], "--out"),
        ([run, *features, *smell, "--out", out], "image, text"),
        ([run, *features[:4], "--out", out], "--ids"),
        ([run, "--features", "image", "--out", out], "--features"),
        ([tmp_path, *features, "--out", out], "not a run folder"),
        ([*features, "--out", out], "RUN"),
        ([run, *features, "--out", tmp_path / "ids.txt"], "is a file"),
        ([run, "--features", "image=none", "--out", run], "the run itself"),
    ):
        assert_refused(lirdrec("add-items", *arguments), named)
        assert contents(tmp_path) == before


def test_overwrite(run: Path, tmp_path: Path, features: list[str]) -> None:
    out = tmp_path / "noon"
    assert lirdrec("add-items", run, *features, "--out", out).exit_code == 0
    for folder in (out, Path(shutil.copytree(run, tmp_path / "trained"))):  # another training is not to be resumed
        before = contents(folder)
        message = f"{folder} is not empty. Pass another folder as --out, or --overwrite.\n"
        assert lirdrec("add-items", run, *features, "--out", folder).output == f"Error: {message}"
        assert contents(folder) == before
    (tmp_path / "ids.txt").write_text("x\ny\nz\n")
    assert lirdrec("add-items", run, *features, "--out", out, "--overwrite").exit_code == 0
    assert Recommender.load(out).items.ids.to_list()[60:] == ["x", "y", "z"]
    assert_refused(lirdrec("add-items", run, *features, "--out", tmp_path, "--overwrite"), "ids.txt", "--overwrite")
    before = contents(out)
    (tmp_path / "ids.txt").write_text("c\nd\ne\n")
    for options in ((), ("--overwrite",)):
        assert_refused(lirdrec("add-items", out, *features, "--out", out, *options), "noon")
        assert contents(out) == before


def test_model_that_cannot_encode_new_items_refuses_them(run: Path, tmp_path: Path, features: list[str]) -> None:
    own, out = Path(shutil.copytree(run, tmp_path / "own")), tmp_path / "noon"
    change_settings(own, dct="2d")
    reseal(own)
    assert_refused(lirdrec("add-items", own, *features, "--out", out), "new items", "--dct feature")
    assert not out.exists()


def test_column_of_item_ids_can_be_named(run: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    columns = {f"x{n}": rng.standard_normal(2).astype(np.float32) for n in range(WIDTHS["text"])}
    pl.DataFrame({"count": [3, 4], "sku": [100, 200], **columns}).drop("count").write_parquet(tmp_path / "text.parquet")
    options = ["--features", f"text={tmp_path / 'text.parquet'}", "--out", tmp_path / "noon"]
    assert_refused(lirdrec("add-items", run, *options), "item_id")
    result = lirdrec("add-items", run, *options, "--item-column", "sku")
    assert result.exit_code == 0, result.output
    assert Recommender.load(tmp_path / "noon").items.ids.to_list()[-2:] == ["100", "200"]


def test_ids_in_a_file_win_or_contradict_the_list(run: Path, tmp_path: Path, features: list[str]) -> None:
    x, by_list = np.load(tmp_path / "image.npy"), tmp_path / "by-list"
    assert lirdrec("add-items", run, *features, "--out", by_list).exit_code == 0
    expected = Recommender.load(by_list).similar_items("new-b", by="image")
    order = [2, 0, 1]
    np.savez(tmp_path / "image.npz", features=x[order], asins=np.array(["new-a", "new-b", "7"])[order])
    options = ("--features", f"image={tmp_path / 'image.npz'}", *features[2:])
    assert lirdrec("add-items", run, *options, "--out", tmp_path / "noon").exit_code == 0
    assert Recommender.load(tmp_path / "noon").similar_items("new-b", by="image").equals(expected)
    np.savez(tmp_path / "image.npz", features=x, asins=np.array(["new-a", "new-b", "new-c"]))
    refused = lirdrec("add-items", run, *options, "--out", tmp_path / "other")
    assert_refused(refused, "image.npz", "--ids lists others: 'new-c' is only in the file, '7' only in the list")
    np.savez(tmp_path / "image.npz", features=x, order=np.arange(3))
    assert_refused(lirdrec("add-items", run, *options, "--out", tmp_path / "other"), "'features', 'order'", "'ids'")


def test_features_of_another_model_are_refused_unless_allowed(shop: Path, tmp_path: Path) -> None:
    def made_by(folder: Path, model: str) -> None:
        file = folder / "text_feat.npy"
        encoder = {"model": model, "revision": "sha256:" + str(len(model)) * 32}
        write_provenance(folder, "text", {"file": file.name, "sha256": checksum(file), "encoder": encoder})

    made_by(shop, "small-model")
    run, new = tmp_path / "run", tmp_path / "new"
    result = lirdrec("fit", "--data", shop, "--out", run, "--epochs", 1, "--embedding-dim", 8)
    assert result.exit_code == 0, result.output
    new.mkdir()
    np.save(new / "text_feat.npy", np.random.default_rng(0).standard_normal((2, 7)))
    (new / "ids.txt").write_text("100\n101\n")
    command = ("add-items", run, "--features", new, "--ids", new / "ids.txt", "--out", tmp_path / "more")
    made_by(new, "large-model-2")
    assert_refused(
        lirdrec(*command),
        "The features of text were made by small-model, revision 111111111111 for the training",
        "but by large-model-2, revision 131313131313 for the new items",
        "--allow-other-features",
    )
    assert not (tmp_path / "more").exists()
    assert "2 items were added" in lirdrec(*command, "--allow-other-features").output
    made_by(new, "other-name!")  # of the same revision
    assert "2 items were added" in lirdrec(*command, "--overwrite").output


def test_modality_may_be_named_only_once(run: Path, tmp_path: Path, features: list[str]) -> None:
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
