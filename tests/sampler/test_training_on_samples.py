import torch
from torch import Tensor
from trainers import make_trainer, needs_torch_sparse, small_graph

from lirdrec_pyg.callback import Callback

pytestmark = needs_torch_sparse


def test_the_fusion_stores_the_attention_of_the_users_of_the_batches() -> None:
    trainer = make_trainer(small_graph(), sampling="neighbors", epochs=1)
    fusion = trainer.model.module.fusion
    seen: list[Tensor] = []

    class Check(Callback):
        def on_step_end(self, epoch: int, step: int) -> None:
            seen.append(trainer._batches[step - 1][0].unique())
            known = (~fusion.last_attention.isnan().any(dim=1)).nonzero().view(-1)
            assert torch.equal(known, torch.cat(seen).unique())

    trainer.fit(Check())
    assert seen
    torch.testing.assert_close(fusion.last_attention.sum(dim=1), torch.ones(fusion.num_users))


def test_sparse_gradients_update_the_users_of_a_step_only() -> None:
    trainer = make_trainer(small_graph(), sampling="neighbors", fanout="2,2", user_gradients="sparse", batch_size=4)
    before = trainer.model.module.user.detach().clone()
    stop = iter([False, True])

    class StopAfterOneStep(Callback):
        def should_stop(self) -> bool:
            return next(stop)

    trainer.fit(StopAfterOneStep())
    moved = (trainer.model.module.user.detach() != before).any(dim=2).any(dim=1)
    assert moved[trainer._batches[0][0]].all()
    assert not moved.all()
