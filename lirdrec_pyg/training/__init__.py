"""Training, and the folder it leaves behind."""

from lirdrec_pyg.training.checkpoint import Checkpoint, EpochResult
from lirdrec_pyg.training.evaluate import RunEvaluator
from lirdrec_pyg.training.fit import Hooks, check_before, check_settings, fit, resume
from lirdrec_pyg.training.processes import ProcessLostError, make_fabric, resolve_device
from lirdrec_pyg.training.run import Run
from lirdrec_pyg.training.step import Trainable, make_optimizer, training_step
from lirdrec_pyg.training.trainer import MONITOR, FitResult, Trainer, TrainingDivergedError

__all__ = [
    "MONITOR",
    "Checkpoint",
    "EpochResult",
    "FitResult",
    "Hooks",
    "ProcessLostError",
    "Run",
    "RunEvaluator",
    "Trainable",
    "Trainer",
    "TrainingDivergedError",
    "check_before",
    "check_settings",
    "fit",
    "make_fabric",
    "make_optimizer",
    "resolve_device",
    "resume",
    "training_step",
]
