import csv
import math
import time
from pathlib import Path

from lirdrec_pyg.callback import Callback
from lirdrec_pyg.files import save_state, write_file
from lirdrec_pyg.launcher import is_first_process
from lirdrec_pyg.training.checkpoint import EpochResult
from lirdrec_pyg.training.sharded_files import save_sharded
from lirdrec_pyg.training.trainer import Trainer, TrainingDivergedError

HISTORY, WEIGHTS, CHECKPOINT, DIVERGED = "history.csv", "model", "checkpoint.safetensors", "diverged"


class Journal(Callback):
    """Writes what a training produces into its run folder as it goes.

    =======================  ============================================================
    ``history.csv``          one line per epoch
    ``model.*``              weights of the best epoch
    ``checkpoint.*``         the state from which the training can be resumed
    ``diverged.*``           the batch with an infinite or NaN loss, if there was one
    =======================  ============================================================

    A checkpoint is written at the end of an epoch, unless the last one is so recent that checkpoints would take more
    than a twentieth of the time, and every ``checkpoint_minutes`` within a long epoch.

    If the users are sharded, each process has a journal of the same folder, and writes its part of the files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._last, self._cost = -math.inf, 0.0

    def on_fit_start(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self.save_checkpoint()
        if trainer.result.history:
            self._save_history()
            self._save_weights()

    def on_step_end(self, epoch: int, step: int) -> None:
        if self._is_due(60 * self._trainer.config.checkpoint_minutes):
            self.save_checkpoint()

    def _is_due(self, seconds: float) -> bool:
        """Return whether the last checkpoint is ``seconds`` old."""
        return self._trainer.agreed(time.monotonic() - self._last >= seconds)

    def on_epoch_end(self, result: EpochResult) -> None:
        self._save_history()
        if result.improved:
            self._save_weights()
        if self._is_due(20 * self._cost):
            self.save_checkpoint()

    def save_checkpoint(self) -> None:
        """Write the current state of the training."""
        start = time.monotonic()
        checkpoint = self._trainer.checkpoint()
        if self._trainer.shards is None:
            write_file(self.folder, CHECKPOINT, checkpoint.save)
        else:
            save_sharded(self.folder, Path(CHECKPOINT).stem, *checkpoint.content())
        self._last = time.monotonic()
        self._cost = self._last - start

    def _save_weights(self) -> None:
        if self._trainer.shards is None:
            save_state(self.folder, WEIGHTS, self._trainer.result.best_state)
        else:
            save_sharded(self.folder, WEIGHTS, self._trainer.distributed(self._trainer.result.best_state))

    def close(self) -> None:
        """Write the final state of the training; the weights are written with the run."""
        self.save_checkpoint()
        self._save_history()

    def save_diverged(self, error: TrainingDivergedError) -> None:
        """Write the batch of ``error``, and name the file in its message."""
        if is_first_process():
            save_state(self.folder, DIVERGED, {"triples": error.triples})
        lr = self._trainer.config.lr / 3
        error.args = (
            f"{error} The batch is in {self.folder / DIVERGED}.safetensors, and earlier progress is kept: "
            f"`resume={str(self.folder)!r}` with `lr={lr:.1g}` continues from there.",
        )

    def _save_history(self) -> None:
        if not is_first_process():
            return
        rows = [
            {
                "epoch": result.epoch,
                "loss": result.loss,
                **{f"valid_{name}": value for name, value in result.valid.items()},
                "improved": int(result.improved),
                "train_seconds": round(result.train_seconds, 4),
                "eval_seconds": round(result.eval_seconds, 4),
            }
            for result in self._trainer.result.history
        ]

        def write(path: Path) -> None:
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, rows[0] if rows else ())
                writer.writeheader()
                writer.writerows(rows)

        write_file(self.folder, HISTORY, write)
