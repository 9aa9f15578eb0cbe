"""Choosing among variants of a model by short trainings, of which the better ones go on."""

import logging
import math
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from lightning_fabric import Fabric
from tqdm import tqdm

from lirdrec_pyg.callback import Callback
from lirdrec_pyg.data import INTERACTS, Dataset, modalities
from lirdrec_pyg.models import ModelConfig
from lirdrec_pyg.recommender.train import make_trainer, transformed_graph
from lirdrec_pyg.training import MONITOR, Trainer, TrainingConfig

_log = logging.getLogger(__name__)

# Epochs after which the worse half is dropped, and the share of the time that all of them may take.
_ROUNDS = (8, 24)
_SHARE = 1 / 3


def race(
    dataset: Dataset, model_config: ModelConfig, training_config: TrainingConfig, fabric: Fabric, callback: Callback
) -> tuple[ModelConfig, list[dict[str, Any]]]:
    """Return the best of the variants of a model by validation Recall@20, and what all of them reached.

    This is successive halving: all variants are trained for 8 epochs, and the better half for 24. If ``minutes`` are
    limited, a third of them ends the race, which then is decided by the last epoch that all of the rest have finished.
    """
    variants = {"as given": model_config, **_variants(dataset, model_config)}
    deadline = time.monotonic() + 60 * _SHARE * (training_config.minutes or math.inf)
    record: list[dict[str, Any]] = []
    contenders = {name: _trainer(dataset, config, training_config, fabric) for name, config in variants.items()}
    for epochs in _ROUNDS:
        pause = _Pause(epochs, deadline, callback)
        for trainer in tqdm(contenders.values(), desc=f"race, {epochs} epochs", unit="variant", disable=None):
            trainer.fit(pause)
        reached = min(len(trainer.result.history) for trainer in contenders.values())
        found = {name: _best(trainer, reached) for name, trainer in contenders.items()}
        record += [{"variant": name, "epochs": reached, MONITOR: value} for name, value in found.items()]
        _log.info(
            "race after %s epochs: %s", reached, ", ".join(f"{name} {value:.4f}" for name, value in found.items())
        )
        order = sorted(contenders, key=lambda name: found[name], reverse=True)
        contenders = {name: contenders[name] for name in order[: max(1, len(order) // 2)]}
        if reached < epochs:
            break
    winner = next(iter(contenders))
    _log.info("race: %s is trained to the end", winner)
    return variants[winner], record


def default_minutes(dataset: Dataset) -> float:
    """Return how many minutes a training may take by default: 3, or 1 for 8,000 interactions."""
    return float(max(3, round(dataset.graph[INTERACTS].edge_index.size(1) / 8000)))


def _variants(dataset: Dataset, config: ModelConfig) -> dict[str, ModelConfig]:
    found = {}
    for settings in config.variants(modalities(dataset.graph)):
        if (other := replace(config, **settings)) != config:
            found[", ".join(f"{name} {value}" for name, value in settings.items())] = other
    return found


def _trainer(dataset: Dataset, model_config: ModelConfig, training_config: TrainingConfig, fabric: Fabric) -> Trainer:
    graph = transformed_graph(dataset, model_config, training_config, fabric)
    return make_trainer(graph, model_config, training_config, fabric)


def _best(trainer: Trainer, epochs: int) -> float:
    return max((result.valid[MONITOR] for result in trainer.result.history[:epochs]), default=0.0)


class _Pause(Callback):
    """Pauses each training after some epochs, or when the time is up; what follows the training may stop it, too."""

    def __init__(self, epochs: int, deadline: float, callback: Callback) -> None:
        self._epochs, self._deadline, self._callback = epochs, deadline, callback
        self._history: Iterable[Any] = ()

    def on_fit_start(self, trainer: Trainer) -> None:
        self._history = trainer.result.history

    def should_stop(self) -> bool:
        done = len(self._history)  # type: ignore[arg-type]
        return done >= self._epochs or (done and time.monotonic() > self._deadline) or self._callback.should_stop()
