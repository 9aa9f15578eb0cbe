"""Rules for ending a training, all applied to the same long trainings.

    python benchmarks/stopping.py --data tiktok/ --data shop=prepared/clicks.csv --out stopping/

Each training lasts for --epochs epochs. The weights and their average over the steps are both validated after every
epoch. A rule consists of one of these two and a patience: it ends the training when the validation Recall@20 has not
improved for that many epochs, and keeps the best epoch until then. Since no rule changes the training, the table shows
what each would have done, and by how much the test Recall@20 differs from that of the best epoch of the whole training.
The test split is used for showing only.

Each training is a file in the folder --out, so the same command resumes, and other data sets can be added.
"""

import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from compare import named
from harness import Row, device_option, json_option, report
from tqdm import tqdm

from lirdrec_pyg import Dataset
from lirdrec_pyg.callback import Callback
from lirdrec_pyg.devices import Device, resolve_device
from lirdrec_pyg.evaluation import RankingTask
from lirdrec_pyg.files import whole_file
from lirdrec_pyg.recommender.train import prepared
from lirdrec_pyg.training import MONITOR, PRESETS, EpochResult, Trainer, make_fabric, preset
from lirdrec_pyg.training.config import Preset

WEIGHTS = ("weights", "average")


class Curves(Callback):
    """Validates the weights and their average after each epoch, and tests what is better than before."""

    def __init__(self, test: RankingTask, epochs: int) -> None:
        self._test = test
        self._bar = tqdm(total=epochs, unit="epoch", disable=None)
        self.valid: dict[str, list[float]] = {name: [] for name in WEIGHTS}
        self.test: dict[str, dict[int, float]] = {name: {} for name in WEIGHTS}

    def on_fit_start(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def on_epoch_end(self, result: EpochResult) -> None:
        assert self._trainer.task is not None
        self._note("weights", self._trainer.evaluate(self._trainer.task)[MONITOR], result.epoch)
        with self._trainer.averaged():
            self._note("average", result.valid[MONITOR], result.epoch)
        self._bar.update()

    def _note(self, name: str, valid: float, epoch: int) -> None:
        if valid > max(self.valid[name], default=-1):
            self.test[name][epoch] = self._trainer.evaluate(self._test)[MONITOR]
        self.valid[name].append(valid)


def train(dataset: Dataset, name: Preset, seed: int, epochs: int, device: Device) -> dict[str, Any]:
    """Return the curves of one long training."""
    changes = {"ema": PRESETS["best"]["ema"], "race": False, "seed": seed, "device": device}
    model_config, config = preset(name, **changes, epochs=epochs, patience=epochs)
    trainer, _, tasks = prepared(dataset, model_config, config, make_fabric(config))
    curves = Curves(tasks["test"], epochs)
    trainer.fit(curves)
    return {"valid": curves.valid, "test": curves.test}


def ended(valid: Sequence[float], patience: int) -> tuple[int, int]:
    """Return the epoch that a rule keeps, and its last one, both counted from 1."""
    best = 0
    for epoch, value in enumerate(valid):
        if value > valid[best]:
            best = epoch
        if epoch - best >= patience:
            break
    return best + 1, epoch + 1


def rows(data: str, trainings: Sequence[dict[str, Any]], patiences: Sequence[int]) -> Iterator[Row]:
    """Yield a row per rule, as means over the trainings."""
    for name in WEIGHTS:
        longest = len(trainings[0]["valid"][name])
        whole = [result for result, _, _ in _ended_all(trainings, name, longest)]
        for patience in dict.fromkeys((*patiences, longest)):
            tests, kept, last = zip(*_ended_all(trainings, name, patience), strict=True)
            yield {
                "data": data,
                "validated": name,
                "patience": patience,
                "best epoch": statistics.fmean(kept),
                "epochs": statistics.fmean(last),
                "test Recall@20": statistics.fmean(tests),
                "standard deviation": statistics.stdev(tests) if len(tests) > 1 else None,
                "change in %": 100 * (statistics.fmean(tests) / statistics.fmean(whole) - 1),
            }


def _ended_all(trainings: Sequence[dict[str, Any]], name: str, patience: int) -> Iterator[tuple[float, int, int]]:
    """Yield the test Recall@20 of the epoch that a rule keeps, this epoch, and the last one, per training."""
    for training in trainings:
        kept, last = ended(training["valid"][name], patience)
        yield training["test"][name][str(kept)], kept, last


@click.command()
@click.option("--data", multiple=True, default=["synthetic"], show_default=True, help="As for `compare.py`.")
@click.option("--preset", "preset_name", default="best", show_default=True, type=click.Choice(list(PRESETS)))
@click.option("--seeds", default=5, show_default=True, type=click.IntRange(1), help="Number of seeds, starting at 1.")
@click.option("--epochs", default=300, show_default=True, type=click.IntRange(1), help="Length of each training.")
@click.option("--patience", "patiences", multiple=True, default=[15, 20, 60], show_default=True, type=click.IntRange(1))
@click.option(
    "--split-seed", default=999, show_default=True, help="Seed of a random split, the same for all trainings."
)
@click.option("--out", default="stopping", show_default=True, type=click.Path(file_okay=False, path_type=Path))
@device_option
@json_option
def main(
    data: tuple[str, ...],
    preset_name: Preset,
    seeds: int,
    epochs: int,
    patiences: tuple[int, ...],
    split_seed: int,
    out: Path,
    device: Device,
    json_file: Path | None,
) -> None:
    """Compare rules for ending a training, on the same long trainings."""
    device = resolve_device(device)
    out.mkdir(parents=True, exist_ok=True)
    table: list[Row] = []
    for name, place in named(data).items():
        trainings, dataset = [], None
        for seed in range(1, seeds + 1):
            path = out / f"{name}-split{split_seed}-{preset_name}-{epochs}-{seed}.json"
            if not path.is_file():
                dataset = dataset or Dataset.from_path(place, seed=split_seed)
                with whole_file(path) as unfinished:
                    unfinished.write_text(json.dumps(train(dataset, preset_name, seed, epochs, device)))
            trainings.append(json.loads(path.read_text()))
        table += rows(name, trainings, patiences)
    report("stopping", table, json_file)


if __name__ == "__main__":
    main()
