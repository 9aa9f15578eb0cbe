"""What a run folder gives when it is loaded, and how it is told that it is damaged."""

import json
import pickle
import shutil
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lirdrec_pyg.errors import ConfigError, LIRDRecError, RunError
from lirdrec_pyg.models import LIRDRec, model_vectors
from lirdrec_pyg.serving import Recommender
from lirdrec_pyg.training import Run

ARTIFACT = ["config.yaml", "versions.json", "graph.safetensors", "users.parquet", "items.parquet"]
ARTIFACT += ["model.safetensors", "vectors.safetensors"]
NEW_ITEMS = ["new_items.safetensors", "new_items.parquet", "new_vectors.safetensors"]


@pytest.fixture(scope="module")
def grown_run(grown: Recommender, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("grown") / "run"
    grown.save(out)
    return out


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "copy"))


def test_vectors_are_those_of_the_models_own_forward_pass(run: Path, recommender: Recommender) -> None:
    opened = Run.open(run)
    data = LIRDRec.input_transform(opened.model_config())(opened.graph())
    with torch.no_grad():
        user, item = opened.model(data)(data)
    np.testing.assert_array_equal(recommender.user_vectors(), user.numpy())
    np.testing.assert_array_equal(recommender.item_vectors(), item.numpy())


def test_recommendations_are_those_of_the_model(run: Path, recommender: Recommender) -> None:
    opened = Run.open(run)
    score, item = opened.model(opened.graph()).recommend(opened.graph(), [3, 1], k=5)
    frame = recommender.recommend(recommender.users.ids.gather([3, 1]), k=5)
    assert frame["item"].to_list() == recommender.items.ids.gather(item.flatten().numpy()).to_list()
    np.testing.assert_allclose(frame["score"], score.flatten().numpy(), atol=1e-5)


def test_loading_an_intact_run_warns_of_nothing(run: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module="lirdrec_pyg")
        warnings.filterwarnings("error", message=".*cut off.*")
        Recommender.load(str(run))


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_in_half(path: Path) -> None:
    content = path.read_bytes()
    end = len(content) // 2
    if path.suffix == ".yaml":  # within a name, as entries that are lacking have their defaults
        end = content.index(b"\n", end) + 3
    path.write_bytes(content[:end])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [flip_a_byte, cut_in_half, empty, Path.unlink])
@pytest.mark.parametrize("name", [*ARTIFACT, *NEW_ITEMS])
def test_each_damaged_file_is_one_error(
    grown_run: Path, tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    damaged = Path(shutil.copytree(grown_run, tmp_path / "damaged"))
    damage(damaged / name)
    with pytest.raises(RunError) as caught:
        Recommender.load(damaged)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [*ARTIFACT, *NEW_ITEMS])
def test_without_the_checksums_a_cut_file_is_an_error_of_ours_all_the_same(
    grown_run: Path, tmp_path: Path, name: str
) -> None:
    damaged = Path(shutil.copytree(grown_run, tmp_path / "damaged"))
    cut_in_half(damaged / name)
    with pytest.raises(LIRDRecError) as caught:
        _ = Recommender.load(damaged, verify=False).model
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [0, 3])
def test_a_list_of_checksums_that_was_cut_between_two_lines_is_an_error(copy: Path, kept: int) -> None:
    lines = (copy / "SHA256SUMS").read_text().splitlines(keepends=True)
    (copy / "SHA256SUMS").write_text("".join(lines[:kept]))
    with pytest.raises(RunError):
        Recommender.load(copy)


def test_a_list_of_checksums_that_was_cut_within_a_line_is_an_error(copy: Path) -> None:
    cut_in_half(copy / "SHA256SUMS")
    with pytest.raises(RunError, match="SHA256SUMS"):
        Recommender.load(copy)


def test_new_items_of_another_run_do_not_slip_in(copy: Path, grown_run: Path) -> None:
    for name in NEW_ITEMS:
        shutil.copyfile(grown_run / name, copy / name)
    with pytest.raises(RunError):
        Recommender.load(copy)


def test_what_only_tells_of_the_training_may_be_missing(copy: Path, recommender: Recommender) -> None:
    for name in ("history.csv", "metrics.json", "checkpoint.safetensors"):
        (copy / name).unlink()
    assert Recommender.load(copy).recommend(["u2"]).equals(recommender.recommend(["u2"]))


def test_a_newer_format_is_refused(copy: Path) -> None:
    versions = json.loads((copy / "versions.json").read_text())
    (copy / "versions.json").write_text(json.dumps(versions | {"format": 99}))
    with pytest.raises(RunError, match="format 99"):
        Recommender.load(copy)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RunError, match="no run folder"):
            Recommender.load(path)


@pytest.mark.parametrize("of_new_items", [False, True])
def test_a_run_that_was_cut_off_warns_and_recommends_the_same(
    run: Path, grown_run: Path, tmp_path: Path, of_new_items: bool
) -> None:
    source = grown_run if of_new_items else run
    cut = Path(shutil.copytree(source, tmp_path / "cut"))
    for name in (
        "SHA256SUMS",
        "metrics.json",
        "vectors.safetensors",
        "new_vectors.safetensors",
        "neighbourhood.safetensors",
    ):
        (cut / name).unlink(missing_ok=True)
    with pytest.warns(UserWarning, match="cut off"):
        again = Recommender.load(cut)
    whole = Recommender.load(source)
    np.testing.assert_allclose(again.user_vectors(), whole.user_vectors(), atol=1e-6)
    np.testing.assert_allclose(again.item_vectors(), whole.item_vectors(), atol=1e-6)
    users = whole.users.ids.head(40)
    columns = ["user", "item", "rank"]
    assert again.recommend(users, k=5).select(columns).equals(whole.recommend(users, k=5).select(columns))
    user, item = users[0], whole.items.ids[-1]
    np.testing.assert_allclose(again.explain(user, item).score, whole.explain(user, item).score, atol=1e-5)


def test_a_finished_run_without_its_checksums_is_refused(run: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(run, tmp_path / "copied"))
    (copied / "SHA256SUMS").unlink()
    with pytest.raises(RunError, match="lacks SHA256SUMS"):
        Recommender.load(copied)


def test_a_run_without_a_finished_epoch_is_told(run: Path, tmp_path: Path) -> None:
    cut = Path(shutil.copytree(run, tmp_path / "cut"))
    for name in ("SHA256SUMS", "metrics.json", "model.safetensors"):
        (cut / name).unlink()
    with pytest.raises(RunError, match="cut off before the first epoch"):
        Recommender.load(cut)


def test_a_run_that_was_replaced_since_is_not_mixed_with_what_was_loaded(
    run: Path, cold_run: Path, tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(run, tmp_path / "copied"))
    recommender = Recommender.load(copied)
    shutil.rmtree(copied)
    shutil.copytree(cold_run, copied)
    with pytest.raises(RunError, match="replaced since it was loaded"):
        recommender.recommend_for_history({"somebody": [recommender.items.ids[0]]})


def test_no_file_of_a_run_needs_unpickling(grown_run: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was unpickled")

    for path in (*grown_run.iterdir(), *run.iterdir()):
        assert not zipfile.is_zipfile(path)
        assert not path.read_bytes().startswith(b"\x80")
    for target in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, target, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    recommender = Recommender.load(grown_run)
    recommender.recommend(["u2"])
    recommender.recommend_for_history({"somebody": ["n0"]})


def test_a_device_that_is_not_there_is_one_error(run: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("CUDA is there")
    with pytest.raises(LIRDRecError, match="--device cuda"):
        Recommender.load(run, device="cuda")


def test_a_run_with_items_held_out_has_them_at_the_end(cold_run: Path) -> None:
    recommender = Recommender.load(cold_run)
    opened = Run.open(cold_run)
    data = opened.graph()
    model = opened.model(data)
    expected = model_vectors(model, data, opened.model_config().knn_k)
    held_out = opened.new_items()
    assert held_out is not None
    assert recommender.items.ids.tail(len(held_out)).to_list() == held_out.ids.to_list()
    np.testing.assert_allclose(recommender.item_vectors(), expected.item.numpy(), atol=1e-6)
    assert recommender.popularity[-len(held_out) :].sum() == 0


def test_a_model_without_any_layer_is_loaded_too(train_run: Callable[..., Path], text_shop: Path) -> None:
    run = train_run(text_shop, dct="2d", num_layers=0, num_item_layers=0)
    recommender = Recommender.load(run)
    assert recommender.recommend(["u2"], k=3)["rank"].to_list() == [1, 2, 3]
    with pytest.raises(ConfigError, match="--num-layers 0"):
        recommender.recommend_for_history({"somebody": ["sku/2"]})
