"""Training, and the folder it leaves behind."""

from lirdrec_pyg.training.evaluate import evaluate_run
from lirdrec_pyg.training.fit import Hooks, check_before, fit
from lirdrec_pyg.training.run import Run
from lirdrec_pyg.training.step import Recommender, make_optimizer, training_step
from lirdrec_pyg.training.trainer import MONITOR, EpochResult, FitResult, Trainer, TrainingDivergedError

__all__ = [
    "MONITOR",
    "EpochResult",
    "FitResult",
    "Hooks",
    "Recommender",
    "Run",
    "Trainer",
    "TrainingDivergedError",
    "check_before",
    "evaluate_run",
    "fit",
    "make_optimizer",
    "training_step",
]
