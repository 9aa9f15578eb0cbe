"""The state of a training, as a file from which it can be resumed."""

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

from lirdrec_pyg.errors import RunError, first_line
from lirdrec_pyg.files import read_tensors, save_tensors

_FORMAT, _CHECKSUM = "lirdrec-pyg checkpoint 1", "sha256"

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class EpochResult:
    """Result of an epoch.

    Attributes:
        epoch: epoch, counted from 1.
        loss: mean loss over the steps.
        valid: validation metrics, ``{"recall@20": ...}``; empty without a validation split.
        improved: whether these are the best weights so far.
        train_seconds: time of sampling and training.
        eval_seconds: time of the validation.
    """

    epoch: int
    loss: float
    valid: dict[str, float]
    improved: bool
    train_seconds: float
    eval_seconds: float

    @property
    def seconds(self) -> float:
        """Time of both."""
        return self.train_seconds + self.eval_seconds


@dataclass(frozen=True)
class Checkpoint:
    """State of a training between two steps, from which it resumes as if it had never stopped.

    Attributes:
        model: ``state_dict`` of the model, with the schedule and the memory of the fusion.
        optimizer: state of each parameter, by number of the parameter and name of the state.
        best: ``state_dict`` at the end of the best epoch, empty if no epoch was finished.
        best_epoch: epoch of ``best``, 0 if no epoch was finished.
        history: finished epochs.
        losses: losses of the finished steps of the current epoch, shape ``(num_steps,)``.
        seconds: time of these steps.
        generator: state of the trainer's generator before that epoch, uint8.
        random: state of torch's global generator, uint8.
        precision: state of the loss scale of ``16-mixed``, empty for other precisions.
        average: parameters averaged over the steps; empty without ``ema``.
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
    average: State = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write a ``.safetensors`` file."""
        tensors, metadata = self.content()
        tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        save_tensors(tensors, path, {**metadata, _CHECKSUM: _checksum(tensors, metadata)})

    def content(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Return what is written: tensors and metadata."""
        tensors = {
            **{f"model/{name}": value for name, value in self.model.items()},
            **{f"best/{name}": value for name, value in self.best.items()},
            **{f"average/{name}": value for name, value in self.average.items()},
            **{f"optimizer/{n}/{name}": value for n, state in self.optimizer.items() for name, value in state.items()},
            "losses": self.losses,
            "generator": self.generator,
            "random": self.random,
        }
        metadata = {
            "format": _FORMAT,
            "best_epoch": str(self.best_epoch),
            "seconds": repr(self.seconds),
            "history": json.dumps([asdict(result) for result in self.history]),
            "precision": json.dumps(self.precision),
        }
        return tensors, metadata

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Read what :meth:`save` wrote.

        Raises:
            RunError: if the file is missing, damaged or of another format.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != _FORMAT:
                    raise RunError(f"Cannot resume from {path}: its format is {metadata.get('format')!r}.")
                tensors = read_tensors(file)
            # Files of earlier versions, and of sharded trainings, have none.
            checksum = metadata.pop(_CHECKSUM, None)
            if checksum is not None and checksum != _checksum(tensors, metadata):
                raise ValueError("its checksum does not match")
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
                average=_part(tensors, "average/"),
            )
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            if isinstance(error, RunError):
                raise
            raise RunError(f"Cannot read {path} ({first_line(error)}). It may be damaged or cut short.") from error


def _checksum(tensors: State, metadata: Mapping[str, str]) -> str:
    """Return a checksum that detects a flipped bit, which weights would not show."""
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
    """Return the part of the optimizers' ``state_dict`` that training changes, by number of the parameter."""
    number = {id(parameter): n for n, parameter in enumerate(parameters)}
    return {
        number[id(parameter)]: {name: torch.as_tensor(value) for name, value in state.items()}
        for optimizer in optimizers
        for parameter, state in optimizer.state.items()
    }


def restore_optimizers(
    optimizers: Iterable[Optimizer], parameters: Iterable[Tensor], state: Mapping[int, State]
) -> None:
    """Restore what :func:`optimizer_state` returned; settings such as the learning rate stay as they are."""
    number = {id(parameter): n for n, parameter in enumerate(parameters)}
    for optimizer in optimizers:
        own = [number[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
        found = {
            # SparseAdam counts its steps by a number, not by a tensor.
            place: {name: x if x.is_floating_point() else x.item() for name, x in state[n].items()}
            for place, n in enumerate(own)
            if n in state
        }
        optimizer.load_state_dict({"state": found, "param_groups": optimizer.state_dict()["param_groups"]})
