"""Training by several processes, each with the whole graph and its share of every batch."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

import torch
from lightning_fabric import Fabric
from torch import Tensor

from lirdrec_pyg.config import Device, TrainingConfig
from lirdrec_pyg.data.tables import first_line
from lirdrec_pyg.environment import num_processes
from lirdrec_pyg.errors import ConfigError, LIRDRecError


def resolve_device(device: str) -> str:
    """``cuda`` or ``cpu`` for ``auto``, whichever there is.

    Raises:
        LIRDRecError: if CUDA is asked for and not there.
    """
    if device not in (known := get_args(Device)):
        raise ConfigError(f"--device is {device!r}: choose one of {', '.join(known)}.")
    if device == "cuda" and not torch.cuda.is_available():
        raise LIRDRecError("--device cuda: this machine has no CUDA device that torch can use; take --device cpu.")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def make_fabric(config: TrainingConfig) -> Fabric:
    """What the training runs on: one device, or those of all processes that ``torchrun`` or ``fabric run``
    started, which talk by ``torch.distributed``.

    Raises:
        LIRDRecError: if there is no such device.
    """
    place = resolve_device(config.device)
    processes, here = num_processes(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if place == "cuda" and torch.cuda.device_count() < here:
        raise LIRDRecError(
            f"{here} processes were started on a machine with {torch.cuda.device_count()} CUDA devices: "
            "start one for each."
        )
    try:
        fabric = Fabric(
            accelerator=place,
            devices=here,
            num_nodes=processes // here,
            strategy="ddp" if processes > 1 else "auto",
            precision=config.precision,
        )
    except ValueError as error:
        raise ConfigError(
            f"fabric run was started with other settings ({first_line(error)}): give both the same "
            "--precision, and as --accelerator what is --device here."
        ) from error
    # Under fabric run, this has happened on the way.
    if processes > 1 and os.environ.get("LT_CLI_USED", "0") == "0":
        fabric.launch()
    return fabric


class ProcessLostError(LIRDRecError):
    """Another of several processes has ended, so that this one can't go on."""

    exit_code = 1

    def __init__(self) -> None:
        super().__init__(
            "Another of the processes has ended; what the launcher prints says how. Once that is mended, --resume goes "
            "on from where the training stood."
        )


# Of gloo, whose errors have no class of their own; under NCCL the launcher ends who waits.
_LOST = ("closed by peer", "reset by peer", "Broken pipe", "Connection refused")


@contextmanager
def noticing_lost_processes() -> Iterator[None]:
    """Has the loss of another process end this one by a sentence.

    Raises:
        ProcessLostError: in place of what ``torch.distributed`` raises then.
    """
    try:
        yield
    except RuntimeError as error:
        if num_processes() > 1 and any(sign in str(error) for sign in _LOST):
            raise ProcessLostError from error
        raise


def leave(fabric: Fabric) -> None:
    """Ends the talk of several processes. One that ends without may be aborted by its waiting threads.

    Whoever calls this keeps no trainer: with the last part of it the process group would end, under
    Python's lock, and wait for threads that wait for that lock.
    """
    if fabric.world_size > 1 and torch.distributed.is_initialized():
        gc.collect()
        torch.distributed.destroy_process_group()


def share_of(triples: Tensor, rank: int, processes: int) -> tuple[Tensor, float]:
    """Part of a batch for one of several processes, and the weight of its mean.

    The mean over the processes of the weighted means of the parts is the mean over the batch.

    Args:
        triples: a batch, shape ``(3, N)`` or with further rows of negatives.
        rank: number of the process, from 0.
        processes: how many there are.

    Returns:
        At least one of the triples, and the weight of these, 0 if the batch has none for this process.
    """
    part = triples.tensor_split(processes, dim=1)[rank]
    if part.size(1) == 0:
        return triples[:, :1], 0.0
    return part, processes * part.size(1) / triples.size(1)
