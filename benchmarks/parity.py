"""Replay trajectories that were recorded from the authors' program.

    python benchmarks/parity.py FILE.npz...

Each file holds a small graph, the initial weights, every batch, and what the authors' program computed from them. The
replay uses the public model, layers, transforms and training step. It prints the largest absolute deviation of each
recorded quantity as JSON, and exits with 0 only if one pass agrees to 1e-5 and whole trajectories agree to 1e-3.
"""

import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from lirdrec_pyg.data import INTERACTS, SIMILAR, build_graph
from lirdrec_pyg.models import LIRDRec, LIRDRecConfig
from lirdrec_pyg.training import TrainingConfig, make_optimizer, training_step

ONE_PASS, TRAJECTORY = 1e-5, 1e-3


class Recording:
    """A recorded trajectory; ``recording["key"]`` is one of its arrays as a tensor."""

    def __init__(self, path: Path) -> None:
        self._file = np.load(path, allow_pickle=False)
        self.config = json.loads(str(self._file["config"]))
        self.modalities = ("image", "text")

    def __getitem__(self, key: str) -> Tensor:
        return torch.from_numpy(self._file[key])

    def model_config(self) -> LIRDRecConfig:
        image = self.config["image_graph_weight"]
        return LIRDRecConfig(
            embedding_dim=self.config["embedding_dim"],
            num_layers=self.config["n_ui_layers"],
            num_item_layers=self.config["n_item_layers"],
            knn_k=self.config["knn_k"],
            graph_weights={"image": image, "text": 1 - image},
            network_weight=self.config["initial_network_weight"],
            decay_base=self.config["decay_base"],
            reg_weight=self.config["reg_weight"],
        )

    def training_config(self) -> TrainingConfig:
        return TrainingConfig(lr=self.config["lr"], weight_decay=self.config["weight_decay"])

    def graph(self) -> HeteroData:
        return build_graph(
            torch.stack([self["train_user"], self["train_item"]]),
            {modality: self[modality] for modality in self.modalities},
            num_users=len(self["init_theta"]),
        )


def recorded_tensors(model: LIRDRec, of: Callable[[Tensor], Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield ``of(parameter)`` for each parameter, by the name that the recordings use."""
    for index, branch in enumerate(model.branches):
        encoder, fusion = model.encoders[index], model.fusion
        yield f"user_{branch}", of(model.user)[:, index]
        yield f"{branch}_w1", of(encoder.lin1.weight)
        yield f"{branch}_b1", of(encoder.lin1.bias)
        yield f"{branch}_w2", of(encoder.lin2.weight)
        for layer, fc in (("fc1", fusion.fc1[index]), ("fc2", fusion.fc2[index])):
            yield f"fusion_{branch}_{layer}_weight", of(fc.weight)
            yield f"fusion_{branch}_{layer}_bias", of(fc.bias)
    yield "theta", of(model.fusion.theta)


def dense_interactions(data: HeteroData) -> Tensor:
    """Return the normalized adjacency of users and items, users first."""
    store, num_users = data[INTERACTS], data["user"].num_nodes
    matrix = torch.zeros(data.num_nodes, data.num_nodes)
    user, item = store.edge_index[0], store.edge_index[1] + num_users
    matrix[user, item] = matrix[item, user] = store.edge_weight
    return matrix


def dense_item_graph(data: HeteroData) -> Tensor:
    """Return the item graph with one row per item and one column per neighbor."""
    neighbor, item = data[SIMILAR].edge_index
    matrix = torch.zeros(data["item"].num_nodes, data["item"].num_nodes)
    matrix[item, neighbor] = data[SIMILAR].edge_weight
    return matrix


class Deviations(dict[str, float]):
    """Largest absolute deviation of each quantity."""

    def note(self, name: str, ours: Tensor, theirs: Tensor) -> None:
        gap = (ours.detach().double() - theirs.double()).abs().max().item()
        # NaN is neither larger nor smaller than any number, so it would pass as agreement.
        self[name] = max(self.get(name, 0.0), float("inf") if math.isnan(gap) else gap)


def replay(recording: Recording) -> tuple[Deviations, Deviations]:
    """Return the deviations of one pass, and of the whole trajectory."""
    one_pass, trajectory = Deviations(), Deviations()
    model_config = recording.model_config()
    data = LIRDRec.graph_transform(model_config)(recording.graph())
    data = LIRDRec.input_transform(model_config)(data)
    one_pass.note("dct_features", data["item"].dct, recording["dct_features"])
    one_pass.note("user_item_norm_adj", dense_interactions(data), recording["user_item_norm_adj"])
    one_pass.note("item_adj", dense_item_graph(data), recording["item_adj"])

    model = LIRDRec.from_config(model_config, data).train()
    with torch.no_grad():
        for name, parameter in recorded_tensors(model, lambda p: p):
            parameter.copy_(recording[f"init_{name}"])
    optimizer = make_optimizer(model, recording.training_config())
    representations: list[Tensor] = []
    model.register_forward_hook(lambda _module, _inputs, output: representations.__setitem__(slice(None), output))

    batches, losses = recording["batches"], recording["losses"]
    for epoch, steps in enumerate(batches):
        model.start_epoch()
        key = f"theta_start_epoch{epoch + 1}"
        trajectory.note("theta_start", model.fusion.theta, recording[key])
        trajectory.note("network_weight", model.fusion.network_weight, recording["network_weight_per_epoch"][epoch])
        for step, triples in enumerate(steps):
            loss = training_step(model, data, triples, optimizer)
            trajectory.note("losses", loss, losses[epoch, step])
            if epoch == step == 0:
                one_pass.note("loss_step1", loss, losses[0, 0])
                one_pass.note("user_rep_step1", representations[0], recording["user_rep_step1"])
                one_pass.note("item_rep_step1", representations[1], recording["item_rep_step1"])
                one_pass.note("attention_step1", model.fusion.last_attention, recording["attention_step1"])
                for name, gradient in recorded_tensors(model, gradient_of):
                    one_pass.note(f"grad_{name}", gradient, recording[f"grad_{name}"])
    for name, parameter in recorded_tensors(model, lambda p: p):
        trajectory.note(f"final_{name}", parameter, recording[f"final_{name}"])
    trajectory.note("user_rep_last_forward", representations[0], recording["user_rep_last_forward"])
    trajectory.note("item_rep_last_forward", representations[1], recording["item_rep_last_forward"])
    return one_pass, trajectory


def gradient_of(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(files: tuple[Path, ...]) -> None:
    """Replay of trajectories FILES recorded from the authors' program; exits with 0 only if all agree."""
    torch.manual_seed(0)
    report, agree = {}, True
    for path in files:
        one_pass, trajectory = replay(Recording(path))
        passed = max(one_pass.values()) <= ONE_PASS and max(trajectory.values()) <= TRAJECTORY
        agree &= passed
        report[str(path)] = {
            "passed": passed,
            "one_pass": {"tolerance": ONE_PASS, "largest": max(one_pass.values()), **one_pass},
            "trajectory": {"tolerance": TRAJECTORY, "largest": max(trajectory.values()), **trajectory},
        }
    click.echo(json.dumps(report, indent=2))
    sys.exit(0 if agree else 1)


if __name__ == "__main__":
    main()
