from collections.abc import Mapping
from pathlib import Path

from lirdrec_pyg.data.graph import Split
from lirdrec_pyg.evaluation import RankingTask, evaluate_model
from lirdrec_pyg.models import LIRDRec
from lirdrec_pyg.training.run import Run
from lirdrec_pyg.training.trainer import resolve_device


def evaluate_run(
    run: Run | str | Path, splits: Mapping[str, Split], device: str = "auto"
) -> dict[str, dict[str, float]]:
    """Metrics of the best model of a run, from what the run folder holds.

    Args:
        run: a run, or its folder.
        splits: for each name in the result, the split to evaluate on.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
    """
    if not isinstance(run, Run):
        run = Run.open(run)
    place = resolve_device(device)
    graph = run.graph().to(place)
    model = run.model(graph).to(place)
    prepared = LIRDRec.input_transform(run.model_config(), run.training_config().sparse_backend)(graph)
    return {
        name: evaluate_model(model, prepared, RankingTask.from_graph(prepared, split)) for name, split in splits.items()
    }
