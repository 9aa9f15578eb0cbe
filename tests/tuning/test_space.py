from dataclasses import replace
from pathlib import Path

import pytest
from trainers import needs_torch_sparse

from lirdrec_pyg.config import LIRDRecConfig, TrainingConfig
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.tuning import Range, Space

MODALITIES = ("image", "text")
SAMPLED = TrainingConfig(sampling="neighbors", fanout="5,5")


def read(folder: Path, text: str) -> Space:
    file = folder / "space.yaml"
    file.write_text(text)
    return Space.read(file)


def check(space: Space) -> None:
    space.check(LIRDRecConfig(), TrainingConfig(), MODALITIES)


def test_the_papers_grid_is_all_of_its_points() -> None:
    for names, count in {MODALITIES: 243, ("text",): 81, ("image",): 81, ("audio", "text"): 81}.items():
        space = Space.paper(names)
        space.check(LIRDRecConfig(), TrainingConfig(), names)
        points = space.points()
        assert points is not None
        assert len(points) == len({tuple(point.values()) for point in points}) == count


@pytest.mark.parametrize(
    ("model", "training", "left_out"),
    [
        (LIRDRecConfig(only_modality="text"), TrainingConfig(), {"graph_weights.image"}),
        (LIRDRecConfig(item_graph=False), TrainingConfig(), {"graph_weights.image"}),
        (LIRDRecConfig(fusion="mean"), TrainingConfig(), {"network_weight"}),
        pytest.param(
            LIRDRecConfig(),
            TrainingConfig(sampling="neighbors", user_gradients="sparse"),
            {"weight_decay"},
            marks=needs_torch_sparse,
        ),
    ],
)
def test_the_papers_grid_has_nothing_that_makes_no_difference(
    model: LIRDRecConfig, training: TrainingConfig, left_out: set[str]
) -> None:
    space = Space.paper(MODALITIES, model, training)
    assert Space.paper(MODALITIES).entries.keys() - space.entries.keys() == left_out
    space.check(model, training, MODALITIES)


@pytest.mark.parametrize(
    ("training", "entries", "named"),
    [
        (TrainingConfig(user_gradients="sparse"), {"num_layers": (2,)}, "--user-gradients sparse"),
        (TrainingConfig(), {"only_modality": ("text", "sound")}, "--only-modality is 'sound'"),
        (TrainingConfig(), {"only_modality": ("text",), "graph_weights.image": (0.1,)}, "'image'"),
        pytest.param(SAMPLED, {"num_layers": (2, 3)}, "--num-layers is 3", marks=needs_torch_sparse),
        pytest.param(
            TrainingConfig(),
            {"sampling": ("full", "neighbors"), "edge_dropout": Range(0.0, 0.5)},
            "--edge-dropout",
            marks=needs_torch_sparse,
        ),
    ],
)
def test_settings_that_can_not_go_together_are_refused_before_any_trial(
    training: TrainingConfig, entries: dict[str, tuple[object, ...] | Range], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        Space(entries).check(LIRDRecConfig(), training, MODALITIES)


@needs_torch_sparse
def test_the_number_of_layers_is_that_of_the_space() -> None:
    Space({"num_layers": (3,)}).check(LIRDRecConfig(), replace(SAMPLED, fanout="5,5,5"), MODALITIES)


def test_a_file_has_values_and_ranges(tmp_path: Path) -> None:
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
    assert space.points() is None


def test_settings_go_to_where_they_belong() -> None:
    settings = {"num_layers": 3, "weight_decay": 1e-6, "graph_weights.image": 0.5}
    model, training = Space.configs(settings, LIRDRecConfig(graph_weights={"text": 0.2}), TrainingConfig(lr=0.1))
    assert model == LIRDRecConfig(num_layers=3, graph_weights={"text": 0.2, "image": 0.5})
    assert training == TrainingConfig(lr=0.1, weight_decay=1e-6)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "has to hold"),
        ("[1, 2]", "has to hold"),
        ("lr: [", "is not YAML"),
        ("num_layer: [1]", "'num_layer' can't be tuned, did you mean 'num_layers'"),
        ("seed: [1, 2]", "'seed' can't be tuned"),
        ("device: [cpu]", "'device' can't be tuned"),
        ("graph_weights: [1]", "'graph_weights' can't be tuned"),
        ("lr: 0.1", "lr has to be a list of values, or a range"),
        ("lr: []", "lr has to be a list of values, or a range"),
        ("lr: [[1]]", "lr has to be a list of values, or a range"),
        ("lr: {low: 1}", "lr has to be a list of values, or a range"),
        ("lr: [fast]", "'fast', which is no number"),
        ("lr: {low: 0.1, high: 0.01}", "lr has no range from 0.1 to 0.01"),
        ("lr: {low: 0, high: 0.01, log: true}", "lr has no range from 0 to 0.01"),
        ("num_layers: {low: 0.5, high: 2}", "num_layers has no range from 0.5 to 2"),
        ("dct: {low: 1, high: 2, log: maybe}", "dct has no range"),
    ],
)
def test_a_file_that_is_no_space_is_refused(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=r"space\.yaml") as error:
        read(tmp_path, text)
    assert named in str(error.value)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("num_layers: [2, -1]", "--num-layers is -1"),
        ("num_layers: [2.5]", "--num-layers is 2.5"),
        ("lr: {low: -1, high: 1}", "--lr is -1"),
        ("dct: [3d]", "--dct is '3d'"),
        ("graph_weights.sound: [0.5]", "'sound', but the modalities are image, text"),
        ("graph_weights.image: [1.5]", "--graph-weights sums to 1.5"),
        ("graph_weights.image: [0, 0.5]\ngraph_weights.text: [0, 0.5]", "gives every modality the weight 0"),
    ],
)
def test_values_that_no_training_takes_are_refused(tmp_path: Path, text: str, named: str) -> None:
    space = read(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        check(space)
    assert named in str(error.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml can't be read"):
        Space.read(tmp_path / "none.yaml")
