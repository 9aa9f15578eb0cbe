import torch
from torch import Tensor

from lirdrec_pyg.edge_index import plain
from lirdrec_pyg.errors import DataError


class UserSampler:
    """Sampler of the interactions of an epoch in random order of the users, for losses without sampled negatives.

    All interactions of a user follow each other, so that the pairs of a batch share few users.

    Args:
        edge_index: training interactions (user, item), shape ``(2, num_edges)``.
        num_users: number of users.
        generator: random number generator on the device of ``edge_index``; by default torch's global one.

    Raises:
        DataError: if there are no interactions.
    """

    def __init__(self, edge_index: Tensor, num_users: int, generator: torch.Generator | None = None) -> None:
        if edge_index.size(1) == 0:
            raise DataError("There are no training interactions. Provide at least one pair of user and item.")
        self.positives = plain(edge_index)
        self.num_users = num_users
        self.generator = generator

    def __len__(self) -> int:
        """Return the number of pairs per epoch."""
        return self.positives.size(1)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} pairs)"

    def sample_epoch(self) -> Tensor:
        """Return the pairs (user, item) of one epoch, int64, shape ``(2, len(self))``."""
        place = torch.randperm(self.num_users, generator=self.generator, device=self.positives.device)
        return self.positives[:, place[self.positives[0]].argsort(stable=True)]
