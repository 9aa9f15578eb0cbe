"""Parts of the package that earlier commits have elsewhere, so that ``compare`` can measure those commits too."""

from typing import Any

from torch_geometric.data import HeteroData

from lirdrec_pyg.training import FitResult, Trainer

try:
    from lirdrec_pyg.callback import Callback
    from lirdrec_pyg.data import Dataset
    from lirdrec_pyg.devices import Device, resolve_device
    from lirdrec_pyg.models import LIRDRecConfig
    from lirdrec_pyg.training import PRESETS, TrainingConfig, input_transform
    from lirdrec_pyg.training.config import Precision

    def load_graph(data: str) -> HeteroData:
        """Return the graph of ``data``, as ``fit --data`` takes it."""
        return Dataset.from_path(data, seed=1).graph

    def train(trainer: Trainer, callback: Callback) -> FitResult:
        """Train to the end, followed by ``callback``."""
        return trainer.fit(callback)

except ImportError:
    from lirdrec_pyg.training.passes import input_transform

    from lirdrec_pyg.config import PRESETS, DataConfig, Device, LIRDRecConfig, Precision, TrainingConfig
    from lirdrec_pyg.datasets import load_data
    from lirdrec_pyg.training import resolve_device

    class Callback:
        def on_step_end(self, epoch: int, step: int) -> None: ...
        def on_epoch_end(self, result: Any) -> None: ...
        def should_stop(self) -> bool:
            return False

    def load_graph(data: str) -> HeteroData:
        return load_data(DataConfig(data=data), 1).graph

    def train(trainer: Trainer, callback: Callback) -> FitResult:
        return trainer.fit(callback.on_step_end, callback.on_epoch_end, callback.should_stop)


__all__ = [
    "PRESETS",
    "Callback",
    "Device",
    "LIRDRecConfig",
    "Precision",
    "TrainingConfig",
    "input_transform",
    "load_graph",
    "resolve_device",
    "train",
]
