"""Training with the users divided among several processes, see :class:`~lirdrec_pyg.nn.RowShards`."""

import gc
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from lightning_fabric import Fabric
from torch_geometric.data import HeteroData

from lirdrec_pyg.callback import Callback
from lirdrec_pyg.data import INTERACTS, Dataset, Split, has_new_items
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.files import load_state, save_state
from lirdrec_pyg.models import ItemRegression, ModelConfig, attach_unclicked
from lirdrec_pyg.recommender.recommender import Recommender
from lirdrec_pyg.recommender.run import DERIVED, REGRESSION, VECTORS, Run
from lirdrec_pyg.recommender.train import (
    account,
    fitted,
    ranking_tasks,
    restored_trainer,
    transformed_graph,
    with_item_graphs,
)
from lirdrec_pyg.sampler import known_pairs, sorted_by_item
from lirdrec_pyg.training import Checkpoint, Journal, TrainingConfig, make_fabric
from lirdrec_pyg.training.distributed import noticing_lost_processes
from lirdrec_pyg.training.journal import WEIGHTS
from lirdrec_pyg.training.sharded_files import save_sharded


def fit_sharded(
    read: Callable[[], Dataset],
    model_config: ModelConfig,
    training_config: TrainingConfig,
    out: Path | None,
    overwrite: bool,
    callback: Callback,
) -> tuple[Fabric, Recommender]:
    """Train as :func:`~lirdrec_pyg.fit` does.

    Only the first process reads the data. It writes the run folder up to the training, and all of them map the graph
    from there, so that those of a machine share its memory.
    """
    if out is None:
        raise ConfigError("`user_table='sharded'` needs a run folder. Pass `out`.")
    fabric = make_fabric(training_config)
    started: AbstractContextManager[Run] = nullcontext(Run(out))
    if fabric.is_global_zero:
        dataset = read()
        if has_new_items(dataset.graph):
            raise ConfigError(
                "`user_table='sharded'` cannot be combined with `split='cold-items'`. Pass another `split`."
            )
        ranking_tasks(dataset.graph)
        dataset = with_item_graphs(dataset, transformed_graph(dataset, model_config, training_config, fabric))
        started = Run.created(out, dataset, model_config, training_config, overwrite)
        del dataset
    with started as run:
        gc.collect()
        return fabric, train_sharded(run, fabric, model_config, training_config, callback)


def share_interactions(data: HeteroData, folder: Path, fabric: Fabric) -> None:
    """Add what the first process derives from the interactions and all of them map, by a file without a name."""
    if fabric.is_global_zero:
        pairs = known_pairs(data[INTERACTS].edge_index, data["item"].num_nodes)
        save_state(folder, DERIVED, {"by_item": sorted_by_item(data), "known_pairs": pairs})
    fabric.barrier()
    path = folder / f"{DERIVED}.safetensors"
    data[INTERACTS].update(load_state(path))
    fabric.barrier()
    if fabric.is_global_zero:
        path.unlink()


@noticing_lost_processes()
def train_sharded(
    run: Run,
    fabric: Fabric,
    model_config: ModelConfig,
    training_config: TrainingConfig,
    callback: Callback,
    checkpoint: Checkpoint | None = None,
) -> Recommender:
    """Train on the graph in the run folder, from scratch or from ``checkpoint``, and write the result into it."""
    fabric.barrier()  # until the first process has written the folder
    dataset = run.dataset()
    share_interactions(dataset.graph, run.path, fabric)
    trainer = restored_trainer(dataset, model_config, training_config, fabric, checkpoint)
    tasks = {Split.VALID: trainer.task, Split.TEST: trainer.ranking_task(Split.TEST)}
    fitted(trainer, Journal(run.path), callback)
    model = trainer.model.module
    metrics = {split.value: trainer.evaluate(task) for split, task in tasks.items() if task is not None}
    vectors = trainer.loader.vectors(model)
    shards = trainer.shards
    assert shards is not None
    regression = None
    if model_config.supports_new_items:
        regression = ItemRegression.of(model, trainer.data, vectors)
        if model_config.attaches_unclicked_items:
            vectors = attach_unclicked(model, trainer.data, vectors, regression)
    save_sharded(run.path, WEIGHTS, trainer.distributed(model.state_dict()))
    tables = {name: shards.distributed(getattr(vectors, name)) for name in ("user", "user_weight")}
    save_sharded(run.path, VECTORS, {**vars(vectors), **tables})
    if fabric.is_global_zero:
        if regression is not None:
            save_state(run.path, REGRESSION, vars(regression))
        run.seal(account(trainer, dataset, metrics))
    fabric.barrier()
    return Recommender.load(run.path, verify=False)
