"""Training with several processes, each with the whole graph and its share of every batch."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning_fabric import Fabric
from torch import Tensor

from lirdrec_pyg.devices import resolve_device
from lirdrec_pyg.errors import ConfigError, LIRDRecError, first_line
from lirdrec_pyg.launcher import num_processes
from lirdrec_pyg.training.config import TrainingConfig


def make_fabric(config: TrainingConfig) -> Fabric:
    """Set up one device, or those of all processes that ``torchrun`` or ``fabric run`` started.

    Raises:
        LIRDRecError: if there is no such device.
    """
    place = resolve_device(config.device)
    processes, here = num_processes(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if place == "cuda" and torch.cuda.device_count() < here:
        raise LIRDRecError(
            f"{here} processes were started on a machine with {torch.cuda.device_count()} CUDA devices. Start one per "
            "device."
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
            f"fabric run was started with other settings ({first_line(error)}). Pass the same `precision` to both, and "
            "the value of `device` as its accelerator."
        ) from error
    # Under fabric run, this has happened already.
    if processes > 1 and os.environ.get("LT_CLI_USED", "0") == "0":
        fabric.launch()
    return fabric


class ProcessLostError(LIRDRecError):
    """Another of several processes has ended, so this one cannot continue."""

    exit_code = 1

    def __init__(self) -> None:
        super().__init__(
            "Another of the processes has ended; see the output of the launcher for the reason. Once that is fixed, "
            "`resume` continues the training."
        )


# Messages of gloo, whose errors have no class of their own; under NCCL the launcher ends waiting processes.
_LOST = ("closed by peer", "reset by peer", "Broken pipe", "Connection refused")


@contextmanager
def noticing_lost_processes() -> Iterator[None]:
    """Turn the loss of another process into one clear error.

    Raises:
        ProcessLostError: instead of the error of ``torch.distributed``.
    """
    try:
        yield
    except RuntimeError as error:
        if num_processes() > 1 and any(sign in str(error) for sign in _LOST):
            raise ProcessLostError from error
        raise


def leave(fabric: Fabric) -> None:
    """Destroy the process group; a process that ends without may be aborted by its waiting threads.

    The caller must not hold a trainer: freeing it would destroy the group under Python's lock, and wait for threads
    that wait for that lock.
    """
    if fabric.world_size > 1 and torch.distributed.is_initialized():
        gc.collect()
        torch.distributed.destroy_process_group()


def share_of(triples: Tensor, rank: int, processes: int) -> tuple[Tensor, float]:
    """Return the part of a batch for one of several processes, and the weight of its mean.

    The mean over processes of the weighted means of the parts is the mean over the batch. A process for which the batch
    has no triple gets one with weight 0.
    """
    part = triples.tensor_split(processes, dim=1)[rank]
    if part.size(1) == 0:
        return triples[:, :1], 0.0
    return part, processes * part.size(1) / triples.size(1)
