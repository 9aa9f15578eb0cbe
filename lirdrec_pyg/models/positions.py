from collections.abc import Sequence

import torch
from torch import Tensor

from lirdrec_pyg.errors import DataError


def user_positions(users: Tensor | Sequence[int], num_users: int) -> Tensor:
    """``users`` as int64 positions, shape ``(N,)``.

    Raises:
        DataError: if they are no list of integers, or one lies outside of ``0`` to ``num_users - 1``.
    """
    try:
        index = torch.as_tensor(users)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"user_index can't be made a tensor of positions ({error}).") from error
    if index.dim() == 1 and not len(index):
        # An empty list has no type of its own.
        return index.long()
    integer = not (index.is_floating_point() or index.is_complex() or index.dtype == torch.bool)
    if index.dim() != 1 or not integer:
        raise DataError(
            f"user_index has to be positions of users, integers of shape (N,), "
            f"got {index.dtype} of shape {tuple(index.shape)}."
        )
    index = index.long()
    low, high = int(index.min()), int(index.max())
    if low < 0 or high >= num_users:
        wrong = low if low < 0 else high
        raise DataError(f"user_index holds {wrong}, but the positions of users go from 0 to {num_users - 1}.")
    return index
