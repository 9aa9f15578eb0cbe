"""Tables with one row per user, of which each of several processes holds a part."""

from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed._functional_collectives import all_to_all_single_autograd
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from lirdrec_pyg.nn.sparse import gather_rows

_BLOCK_ROWS = 2**16


class RowShards:
    """Division of the rows of tables among processes, as by ``Shard(0)`` of :class:`torch.distributed.tensor.DTensor`.

    Each process holds a block of consecutive rows. Processes exchange the rows that they ask each other for, and the
    gradients of these rows, by ``all_to_all``. All methods that exchange are called by all processes together.

    Args:
        num_rows: number of rows in all processes.
        device: type of the device of the tables.

    Attributes:
        start: first row of this process.
        stop: row after its last one.
    """

    def __init__(self, num_rows: int, device: str = "cpu") -> None:
        self.num_rows, self._device = num_rows, device
        self.count = dist.get_world_size()
        self._size = -(-num_rows // self.count)
        self.start = min(num_rows, self._size * dist.get_rank())
        self.stop = min(num_rows, self.start + self._size)

    @cached_property
    def _group(self) -> Any:
        # Its own, since DDP reduces gradients in between, in another order in each process.
        return dist.new_group()

    @property
    def rows(self) -> slice:
        """Rows of this process."""
        return slice(self.start, self.stop)

    @property
    def num_own(self) -> int:
        """Number of rows of this process."""
        return self.stop - self.start

    def lookup(self, table: Tensor, index: Tensor, sparse: bool = False) -> Tensor:
        """Return rows of the whole table.

        Each process gets the gradients of its own rows from all processes, divided by their number, as DDP does.

        Args:
            table: rows of this process, shape ``(stop - start, *)``.
            index: distinct rows, different ones in each process, int64, shape ``(N,)``.
            sparse: whether the gradient of ``table`` is sparse.

        Returns:
            Shape ``(N, *)``.
        """
        order, sent, received, asked = self._request(index)
        rows, row = asked.unique(return_inverse=True)
        own = gather_rows(table, rows).flatten(1) if sparse else F.embedding(rows, table.flatten(1))
        found = all_to_all_single_autograd(F.embedding(row, own), sent, received, self._group)
        if found.requires_grad:
            found.register_hook(lambda grad: grad / self.count)
        return F.embedding(order.argsort(), found).unflatten(1, table.shape[1:])

    @torch.no_grad()
    def write(self, table: Tensor, index: Tensor, value: Tensor) -> None:
        """Write rows of the whole table; a row that several processes write gets the mean.

        Args:
            table: rows of this process, shape ``(stop - start, F)``.
            index: distinct rows, different ones in each process, int64, shape ``(N,)``.
            value: their new values, shape ``(N, F)``.
        """
        order, sent, received, asked = self._request(index)
        written = value.new_empty(len(asked), value.size(1))
        dist.all_to_all_single(written, value[order].contiguous(), received, sent, group=self._group)
        rows, row = asked.unique(return_inverse=True)
        total = written.new_zeros(len(rows), value.size(1)).index_add_(0, row, written)
        table[rows] = (total / row.bincount(minlength=len(rows)).unsqueeze(1)).to(table.dtype)

    def _request(self, index: Tensor) -> tuple[Tensor, list[int], list[int], Tensor]:
        """Ask the owner of each row for it.

        Returns:
            Permutation of ``index`` that puts the rows of each owner together; number of rows asked of each process;
            number of rows that each process asks for; these rows, in the table of this process.
        """
        owner = index // self._size
        order = owner.argsort(stable=True)
        sent = owner.bincount(minlength=self.count)
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=self._group)
        sent_sizes, received_sizes = sent.tolist(), received.tolist()
        asked = index.new_empty(sum(received_sizes))
        dist.all_to_all_single(asked, index[order], received_sizes, sent_sizes, group=self._group)
        return order, sent_sizes, received_sizes, asked - self.start

    def distributed(self, table: Tensor) -> DTensor:
        """Return the whole table as a :class:`~torch.distributed.tensor.DTensor`, to save it."""
        mesh = DeviceMesh.from_group(self._group, self._device)
        shape = torch.Size([self.num_rows, *table.shape[1:]])
        stride = torch.empty(shape, device="meta").stride()
        return DTensor.from_local(table, mesh, [Shard(0)], shape=shape, stride=stride, run_check=False)


def xavier_normal_rows_(table: Tensor, shards: RowShards | None) -> None:
    """Fill ``table``, shape ``(N, F)``, as :func:`torch.nn.init.xavier_normal_` fills the whole table.

    All processes draw all rows, in blocks, so that the weights do not depend on their number.
    """
    if shards is None:
        torch.nn.init.xavier_normal_(table)
        return
    std = (2 / (shards.num_rows + table.size(1))) ** 0.5
    for start in range(0, max(1, shards.num_rows - _BLOCK_ROWS + 1), _BLOCK_ROWS):
        # The last block is the larger one: fewer than 16 numbers are drawn in another way.
        size = _BLOCK_ROWS if start + 2 * _BLOCK_ROWS <= shards.num_rows else shards.num_rows - start
        # Of the same strides, which decide how numbers are drawn.
        block = (
            table.new_empty(size * table.stride(0)).as_strided((size, table.size(1)), table.stride()).normal_(0, std)
        )
        first, last = max(start, shards.start), min(start + size, shards.stop)
        if first < last:
            with torch.no_grad():
                table[first - shards.start : last - shards.start] = block[first - start : last - start]
