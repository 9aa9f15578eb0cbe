"""Files that several processes write together, each its rows of large tensors.

The writers of :mod:`torch.distributed.checkpoint` do not serve: the metadata of one are a pickle, and the other cannot
join integers into one safetensors file, which a single process could read.
"""

import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from lirdrec_pyg.errors import RunError
from lirdrec_pyg.files import UNFINISHED
from lirdrec_pyg.launcher import is_first_process
from lirdrec_pyg.nn import RowShards

_DTYPES = {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def save_sharded(
    folder: Path, name: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write ``<name>.safetensors``, completely or not at all.

    All processes call it together, and see the same folder.

    Args:
        folder: folder of the file.
        name: name of the file without its suffix.
        tensors: a :class:`~torch.distributed.tensor.DTensor` where each process has some rows, and tensors that are the
            same in all processes.
        metadata: text for the header.

    Raises:
        RunError: if the file cannot be written.
    """
    path, first = folder / UNFINISHED / f"{name}.safetensors", is_first_process()
    # The widest types first, so that all are aligned.
    order = sorted(tensors, key=lambda key: (-tensors[key].element_size(), key))
    header: dict[str, object] = {"__metadata__": {"format": "lirdrec-pyg 1", **(metadata or {})}}
    start, stop = {}, 0
    for key in order:
        x = tensors[key]
        start[key], stop = stop, stop + x.numel() * x.element_size()
        header[key] = {"dtype": _DTYPES[x.dtype], "shape": [*x.shape], "data_offsets": [start[key], stop]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    try:
        if first:
            path.parent.mkdir(exist_ok=True)
            with path.open("wb") as file:
                file.write(len(text).to_bytes(8, "little") + text)
                file.truncate(8 + len(text) + stop)
        dist.barrier()
        with path.open("r+b") as file:
            # That of the first process: times in the metadata differ.
            data = 8 + int.from_bytes(file.read(8), "little")
            for key in order:
                x, row = tensors[key].detach(), 0
                if isinstance(x, DTensor):
                    x, row = x.to_local(), RowShards(len(x)).start
                elif not first:
                    continue
                x = x.cpu().contiguous()
                row_bytes = x.element_size() * math.prod(x.shape[1:])
                file.seek(data + start[key] + row * row_bytes)
                x.reshape(-1).view(torch.uint8).numpy().tofile(file)
            file.flush()
            os.fsync(file.fileno())
        dist.barrier()
        if first:
            os.replace(path, folder / path.name)
            shutil.rmtree(path.parent, ignore_errors=True)
    except OSError as error:
        raise RunError(f"Cannot write {folder / path.name} ({error}).") from error
    dist.barrier()
