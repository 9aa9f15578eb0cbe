"""Where a training stands, as a file that it can go on from."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.optim import Optimizer

from lirdrec_pyg.data.tables import first_line
from lirdrec_pyg.data.tensors import save_tensors
from lirdrec_pyg.errors import RunError

_FORMAT, _CHECKSUM = "lirdrec-pyg checkpoint 1", "sha256"

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class EpochResult:
    """What an epoch brought.

    Attributes:
        epoch: counted from 1.
        loss: mean over the steps.
        valid: validation metrics, ``{"recall@20": ...}``.
        improved: whether the validation Recall@20 is the best so far.
        train_seconds: time of sampling and training.
        eval_seconds: time of the validation.
    """

    epoch: int
    loss: float
    valid: dict[str, float]
    improved: bool
    train_seconds: float
    eval_seconds: float


@dataclass(frozen=True)
class Checkpoint:
    """Where a training stands between two steps: from here it goes on as if it had never stopped.

    Attributes:
        model: ``state_dict`` of the model, with the schedule and the memory of the fusion.
        optimizer: state of each parameter, by the parameter's number and the state's name.
        best: ``state_dict`` at the end of the best epoch, empty if none was finished.
        best_epoch: the epoch with the best validation Recall@20, 0 if none was finished.
        history: the finished epochs.
        losses: of the steps that are done of the epoch under way, shape ``(num_steps,)``.
        seconds: that these have taken.
        generator: state of the draws before that epoch, uint8.
        random: state of torch's own draws, uint8.
        precision: state of the loss scale of ``16-mixed``, empty for the other precisions.
    """

    model: State
    optimizer: Mapping[int, State]
    best: State
    best_epoch: int
    history: list[EpochResult]
    losses: Tensor
    seconds: float
    generator: Tensor
    random: Tensor
    precision: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Writes a ``.safetensors`` file."""
        tensors = {
            **{f"model/{name}": value for name, value in self.model.items()},
            **{f"best/{name}": value for name, value in self.best.items()},
            **{f"optimizer/{n}/{name}": value for n, state in self.optimizer.items() for name, value in state.items()},
            "losses": self.losses,
            "generator": self.generator,
            "random": self.random,
        }
        tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        metadata = {
            "format": _FORMAT,
            "best_epoch": str(self.best_epoch),
            "seconds": repr(self.seconds),
            "history": json.dumps([asdict(result) for result in self.history]),
            "precision": json.dumps(self.precision),
        }
        save_tensors(tensors, path, {**metadata, _CHECKSUM: _checksum(tensors, metadata)})

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Reads what :meth:`save` wrote.

        Raises:
            RunError: if the file is missing, damaged or of another format.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != _FORMAT:
                    raise RunError(f"{path} is of the format {metadata.get('format')!r}, which can't be gone on from.")
                # Clones are aligned in memory as trained weights are, so that sums round alike.
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            # Those of earlier versions have none.
            if metadata.pop(_CHECKSUM, None) not in (None, _checksum(tensors, metadata)):
                raise ValueError("it is not as it was written")
            return cls(
                model=_part(tensors, "model/"),
                optimizer=_numbered(_part(tensors, "optimizer/")),
                best=_part(tensors, "best/"),
                best_epoch=int(metadata["best_epoch"]),
                history=[EpochResult(**result) for result in json.loads(metadata["history"])],
                losses=tensors["losses"],
                seconds=float(metadata["seconds"]),
                generator=tensors["generator"],
                random=tensors["random"],
                precision=json.loads(metadata.get("precision", "{}")),
            )
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            if isinstance(error, RunError):
                raise
            raise RunError(f"{path} can't be read ({first_line(error)}): it may be damaged or cut short.") from error


def _checksum(tensors: State, metadata: Mapping[str, str]) -> str:
    """By which a flipped bit is noticed: weights would show nothing of it."""
    found = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        found.update(f"{name} {value.dtype} {[*value.shape]}".encode())
        found.update(value.flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def _part(tensors: State, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _numbered(tensors: State) -> dict[int, dict[str, Tensor]]:
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split("/", 1)
        states.setdefault(int(number), {})[name] = value
    return states


def optimizer_state(optimizers: Iterable[Optimizer], parameters: Iterable[Tensor]) -> dict[int, dict[str, Tensor]]:
    """The part of the optimizers' ``state_dict`` that training changes, by the number of the parameter."""
    number = {id(parameter): n for n, parameter in enumerate(parameters)}
    return {
        number[id(parameter)]: {name: torch.as_tensor(value) for name, value in state.items()}
        for optimizer in optimizers
        for parameter, state in optimizer.state.items()
    }


def restore_optimizers(
    optimizers: Iterable[Optimizer], parameters: Iterable[Tensor], state: Mapping[int, State]
) -> None:
    """Puts back what :func:`optimizer_state` gave; settings such as the learning rate stay as they are."""
    number = {id(parameter): n for n, parameter in enumerate(parameters)}
    for optimizer in optimizers:
        own = [number[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
        found = {place: _unboxed(state[n]) for place, n in enumerate(own) if n in state}
        optimizer.load_state_dict({"state": found, "param_groups": optimizer.state_dict()["param_groups"]})


def _unboxed(state: State) -> dict[str, Any]:
    """SparseAdam counts its steps by a number, not by a tensor."""
    return {name: value if value.is_floating_point() else value.item() for name, value in state.items()}
