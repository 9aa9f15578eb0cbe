"""Choosing among variants of a model by short trainings, of which the better ones are trained further."""

import logging
import math
import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch_geometric.data import HeteroData
from tqdm import tqdm

from lirdrec_pyg.callback import Callback
from lirdrec_pyg.data import INTERACTS, Dataset, modalities
from lirdrec_pyg.models import ModelConfig
from lirdrec_pyg.recommender.train import new_trainer
from lirdrec_pyg.training import MONITOR, Trainer, TrainingConfig
from lirdrec_pyg.training.distributed import noticing_lost_processes

_log = logging.getLogger(__name__)

# Epochs after which the worse half is dropped, and the share of the time that all of them may take.
_ROUNDS = (8, 24)
_SHARE = 1 / 3
# By how much a variant must be better than what was given, relatively: single validations are noisy.
_MARGIN = 0.01
GIVEN = "as given"


@dataclass
class Contender:
    """A variant in a race, with the data and its item graphs.

    The contenders take turns to use torch's global generator on the CPU, of which each has its own state, ``random``.
    """

    model_config: ModelConfig
    graph: HeteroData
    trainer: Trainer
    random: Tensor

    def train(self, epochs: int, callback: Callback) -> bool:
        """Train until so many epochs are done, on the CPU as if nothing else had happened meanwhile.

        Returns:
            ``False`` if ``callback`` stopped the training before that.
        """
        torch.set_rng_state(self.random)
        result = self.trainer.fit(_Pause(epochs, callback))
        self.random = torch.get_rng_state()
        return len(result.history) == epochs or result.stopped != "interrupted"


@noticing_lost_processes()
def race(
    dataset: Dataset, model_config: ModelConfig, training_config: TrainingConfig, fabric: Fabric, callback: Callback
) -> tuple[Contender, list[dict[str, Any]]]:
    """Find the best of the variants of a model by validation Recall@20.

    This is successive halving: all variants are trained for 8 epochs in turns, and the better half for 24, beside the
    settings that were given, which need not be the fastest learners to be the best in the end. They win unless a
    variant is better by 1 %. The race ends after a third of ``minutes``, and takes one epoch of each variant at least.

    Returns:
        The best one, to be trained further for what is left of the time, and what each variant reached in each round.
    """
    variants = {GIVEN: model_config, **_variants(dataset, model_config)}
    minutes = training_config.minutes or _default_minutes(dataset)
    training_config = replace(training_config, race=False, minutes=minutes)
    contenders = {
        name: Contender(config, *new_trainer(dataset, config, training_config, fabric), torch.get_rng_state())
        for name, config in variants.items()
    }
    _log.info("race, in at most a third of %g minutes: %s", minutes, ", ".join(map(_in_words, variants)))
    start, done = time.monotonic(), 0
    deadline = start + 60 * _SHARE * minutes
    found: dict[str, float] = {}
    record: list[dict[str, Any]] = []
    for epochs in _ROUNDS:
        first, last = done, min(epochs, training_config.epochs)
        with tqdm(total=last - done, desc=f"race of {len(contenders)}", unit="epoch", disable=None) as bar:
            while done < last and not _ends(deadline if done else math.inf, fabric, callback):
                if not all(contender.train(done + 1, callback) for contender in contenders.values()):
                    break
                done += 1
                bar.update()
        if done == first:
            break
        found = {name: _best(contender.trainer, done) for name, contender in contenders.items()}
        record += [{"variant": name, "epochs": done, MONITOR: value} for name, value in found.items()]
        values = ", ".join(f"{_in_words(name)} {value:.4f}" for name, value in found.items())
        _log.info("race: validation %s after %s epochs: %s", MONITOR, done, values)
        order = sorted(found, key=lambda name: found[name], reverse=True)
        kept = [*order[: max(1, len(order) // 2)], GIVEN]
        contenders = {name: contenders[name] for name in dict.fromkeys(kept)}
        if done < epochs or len(contenders) == 1:
            break
    winner = max(contenders, key=lambda name: found.get(name, 0) * (1 if name == GIVEN else 1 - _MARGIN))
    left = fabric.broadcast(minutes - (time.monotonic() - start) / 60)
    _log.info("race: the model is trained further %s, for at most %.3g minutes", _in_words(winner), left)
    best = contenders[winner]
    best.trainer.allow_minutes(max(0.01, left))
    torch.set_rng_state(best.random)
    return best, record


def _default_minutes(dataset: Dataset) -> float:
    """Return how many minutes a training may take by default: 3, or 1 per 8,000 interactions."""
    return float(max(3, round(dataset.graph[INTERACTS].edge_index.size(1) / 8000)))


def _variants(dataset: Dataset, config: ModelConfig) -> dict[str, ModelConfig]:
    return {
        ", ".join(f"{name}={value!r}" for name, value in settings.items()): replace(config, **settings)
        for settings in config.variants(modalities(dataset.graph))
    }


def _in_words(name: str) -> str:
    return name if name == GIVEN else f"with `{name}`"


def _ends(deadline: float, fabric: Fabric, callback: Callback) -> bool:
    """Return whether the race is over, by the clock and the callback of the first process."""
    return fabric.broadcast(time.monotonic() >= deadline or callback.should_stop())


def _best(trainer: Trainer, epochs: int) -> float:
    return max(result.valid[MONITOR] for result in trainer.result.history[:epochs])


class _Pause(Callback):
    """Pauses a training after some epochs; what follows the training may stop it, too."""

    def __init__(self, epochs: int, callback: Callback) -> None:
        self._epochs, self._callback = epochs, callback

    def on_fit_start(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def should_stop(self) -> bool:
        return len(self._trainer.result.history) >= self._epochs or self._callback.should_stop()
