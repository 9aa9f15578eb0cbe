"""Training: settings, the step, the loop, checkpoints."""

from lirdrec_pyg.training.checkpoint import Checkpoint, EpochResult
from lirdrec_pyg.training.config import DEFAULT_BATCH, MAX_STEPS, PRESETS, TrainingConfig, check_settings, preset
from lirdrec_pyg.training.distributed import ProcessLostError, make_fabric
from lirdrec_pyg.training.journal import Journal
from lirdrec_pyg.training.loaders import input_transform
from lirdrec_pyg.training.loggers import LoggerKind, MLflowLogger, TrainingLog, training_log
from lirdrec_pyg.training.step import Trainable, make_optimizer, training_step
from lirdrec_pyg.training.trainer import MONITOR, FitResult, Trainer, TrainingDivergedError, make_trainer

__all__ = [
    "DEFAULT_BATCH",
    "MAX_STEPS",
    "MONITOR",
    "PRESETS",
    "Checkpoint",
    "EpochResult",
    "FitResult",
    "Journal",
    "LoggerKind",
    "MLflowLogger",
    "ProcessLostError",
    "Trainable",
    "Trainer",
    "TrainingConfig",
    "TrainingDivergedError",
    "TrainingLog",
    "check_settings",
    "input_transform",
    "make_fabric",
    "make_optimizer",
    "make_trainer",
    "preset",
    "training_log",
    "training_step",
]
