from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from trainers import needs_torch_sparse

from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.experiments import Range, Space
from lirdrec_pyg.models import LightGCNConfig, LIRDRecConfig
from lirdrec_pyg.training import TrainingConfig, preset

MODALITIES = ("image", "text")
SAMPLED = TrainingConfig(sampling="neighbors", fanout="5,5")


def read(folder: Path, text: str) -> Space:
    file = folder / "space.yaml"
    file.write_text(text)
    return Space.read(file, LIRDRecConfig())


def check(space: Space) -> None:
    space.check(LIRDRecConfig(), TrainingConfig(), MODALITIES)


def default(modalities: tuple[str, ...], **settings: Any) -> Space:
    return Space.default(modalities, LIRDRecConfig(**settings), TrainingConfig())


def test_the_papers_grid_has_only_what_makes_a_difference() -> None:
    for names, count in {MODALITIES: 243, ("text",): 81, ("image",): 81, ("audio", "text"): 81}.items():
        space = default(names)
        space.check(LIRDRecConfig(), TrainingConfig(), names)
        assert space.num_points == count
    for settings, left_out in (
        ({"only_modality": "text"}, "graph_weights.image"),
        ({"item_graph": False}, "graph_weights.image"),
        ({"fusion": "mean"}, "network_weight"),
    ):
        space = default(MODALITIES, **settings)
        assert default(MODALITIES).entries.keys() - space.entries.keys() == {left_out}
        space.check(LIRDRecConfig(**settings), TrainingConfig(), MODALITIES)  # type: ignore[arg-type]


def test_the_grid_of_the_preset_best() -> None:
    best, training = preset()
    space = Space.default(MODALITIES, best, training)
    assert space.entries.keys() == {"item_graph", "num_layers", "temperature"}
    space.check(best, training, MODALITIES)
    assert all(getattr(best, name) in values for name, values in space.entries.items())


@needs_torch_sparse
def test_sampling_in_the_space() -> None:
    sparse = TrainingConfig(sampling="neighbors", user_gradients="sparse")
    space = Space.default(MODALITIES, LIRDRecConfig(), sparse)
    assert "weight_decay" not in space.entries
    space.check(LIRDRecConfig(), sparse, MODALITIES)
    # The number of layers is that of the space.
    Space({"num_layers": (3,)}).check(LIRDRecConfig(), replace(SAMPLED, fanout="5,5,5"), MODALITIES)
    with pytest.raises(ConfigError, match="`num_layers"):
        Space({"num_layers": (2, 3)}).check(LIRDRecConfig(), SAMPLED, MODALITIES)
    with pytest.raises(ConfigError, match="`edge_dropout`"):
        check(Space({"sampling": ("full", "neighbors"), "edge_dropout": Range(0.0, 0.5)}))


def test_combinations_that_cannot_be_trained_are_refused() -> None:
    for training, entries, named in (
        (TrainingConfig(user_gradients="sparse"), {"num_layers": (2,)}, "`user_gradients='sparse'`"),
        (TrainingConfig(), {"only_modality": ("text", "sound")}, "sound"),
        (TrainingConfig(), {"only_modality": ("text",), "graph_weights.image": (0.1,)}, "'image'"),
        (TrainingConfig(), {"num_layer": (1, 2)}, "did you mean 'num_layers'"),
    ):
        with pytest.raises(ConfigError, match=named):
            Space(entries).check(LIRDRecConfig(), training, MODALITIES)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"'graph_weights.image' cannot be tuned"):
        Space({"graph_weights.image": (0.1,)}).check(LightGCNConfig(), TrainingConfig(), MODALITIES)


def test_file_with_values_and_ranges(tmp_path: Path) -> None:
    space = read(
        tmp_path,
        """
        num-layers: [2, 3]
        reg_weight: [1e-3, 0.01, 0.01]
        lr: {low: 1e-5, high: 1e-3, log: true}
        graph_weights.image: [0.1, 1]
        dct: [feature, 2d]
        """,
    )
    check(space)
    assert space.entries == {
        "num_layers": (2, 3),
        "reg_weight": (0.001, 0.01),
        "lr": Range(1e-5, 1e-3, log=True),
        "graph_weights.image": (0.1, 1),
        "dct": ("feature", "2d"),
    }
    assert space.num_points is None


def test_settings_go_to_their_configuration() -> None:
    settings = {"num_layers": 3, "weight_decay": 1e-6, "graph_weights.image": 0.5}
    model, training = Space.configs(settings, LIRDRecConfig(graph_weights={"text": 0.2}), TrainingConfig(lr=0.1))
    assert model == LIRDRecConfig(num_layers=3, graph_weights={"text": 0.2, "image": 0.5})
    assert training == TrainingConfig(lr=0.1, weight_decay=1e-6)


def test_invalid_files_are_refused(tmp_path: Path) -> None:
    for text, named in {
        "": "has no 'name: [value, ...]' lines",
        "[1, 2]": "has no 'name: [value, ...]' lines",
        "lr: [": "as YAML",
        "num_layer: [1]": "'num_layer' cannot be tuned, did you mean 'num_layers'",
        "seed: [1, 2]": "'seed' cannot be tuned",
        "device: [cpu]": "'device' cannot be tuned",
        "graph_weights: [1]": "'graph_weights' cannot be tuned",
        "lr: 0.1": "lr must be a list of values, or a range",
        "lr: []": "lr must be a list of values, or a range",
        "lr: [[1]]": "lr must be a list of values, or a range",
        "lr: {low: 1}": "lr must be a list of values, or a range",
        "lr: {low: slow, high: fast}": "lr must be a list of values, or a range",
        "lr: {low: 0.1, high: 0.01}": "no range from 0.1 to 0.01",
        "lr: {low: 0, high: 0.01, log: true}": "no range from 0 to 0.01",
        "lr: {low: 0.1, high: 1, log: maybe}": "lr must be a list of values, or a range",
        "dct: {low: 1, high: 2}": "dct must be a list of values, or a range",
    }.items():
        with pytest.raises(ConfigError, match=r"space\.yaml") as error:
            read(tmp_path, text)
        assert named in str(error.value)
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        Space.read(tmp_path / "none.yaml", LIRDRecConfig())


def test_values_out_of_bounds_are_refused(tmp_path: Path) -> None:
    for text, named in {
        "num_layers: [2, -1]": "`num_layers` is -1",
        "num_layers: [2.5]": "`num_layers` is 2.5",
        "num_layers: {low: 0.5, high: 2}": "`num_layers` is 0.5",
        "lr: [fast]": "`lr` is 'fast'",
        "lr: {low: -1, high: 1}": "`lr` is -1",
        "dct: [3d]": "`dct` is '3d'",
        "graph_weights.sound: [0.5]": "'sound'",
        "graph_weights.image: [1.5]": "1.5",
        "graph_weights.image: [0, 0.5]\ngraph_weights.text: [0, 0.5]": "are 0",
    }.items():
        space = read(tmp_path, text)
        with pytest.raises(ConfigError) as error:
            check(space)
        assert named in str(error.value)
