"""The folder of a run: everything that was learned and what is needed to use and repeat it."""

import csv
import json
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch_geometric.data import HeteroData

from lirdrec_pyg._version import __version__
from lirdrec_pyg.config import DataConfig, LIRDRecConfig, TrainingConfig
from lirdrec_pyg.data import RecommendationData, Vocabulary, load_graph, save_graph
from lirdrec_pyg.data.tables import first_line
from lirdrec_pyg.errors import ConfigError, RunError
from lirdrec_pyg.models import LIRDRec
from lirdrec_pyg.training.trainer import EpochResult

RUN_FORMAT = 1

Config = TypeVar("Config", LIRDRecConfig, TrainingConfig)

# All that a run folder ever holds: nothing else is replaced or removed.
_FILES = (
    "config.yaml",
    "versions.json",
    "graph.safetensors",
    "users.parquet",
    "items.parquet",
    "model.safetensors",
    "last.safetensors",
    "history.csv",
    "metrics.json",
)
_EARLIER = ".earlier"


def _partial(name: str) -> str:
    """Name under which a file is written before it is moved to its place."""
    return f".{name}.partial"


# A run that was killed may have left one of these.
_OURS = {*_FILES, *map(_partial, _FILES)}

_PACKAGES = ("torch", "torch_geometric", "numpy", "sklearn", "polars", "safetensors", "lightning_fabric")


class Run:
    """A run folder.

    ======================  ================================================================
    ``config.yaml``         every option, enough to repeat the run (``fit --config``)
    ``versions.json``       format of the folder, versions of what was used
    ``graph.safetensors``   features, interactions, splits, item graph
    ``users.parquet``       user IDs by position
    ``items.parquet``       item IDs by position
    ``model.safetensors``   weights of the best epoch
    ``last.safetensors``    weights of the last epoch
    ``history.csv``         a line an epoch
    ``metrics.json``        validation and test figures of the best epoch, time and memory
    ======================  ================================================================

    Every file is written beside its place and then moved there, so none is ever half-written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def check_free(cls, path: Path, overwrite: bool) -> None:
        """Raises :class:`RunError` if a run can't be written to ``path``; changes nothing."""
        existing = next(p for p in (path, *path.absolute().parents) if p.exists())
        if not existing.is_dir():
            raise RunError(f"{path} can't be made, since {existing} is a file: name a folder with --out.")
        if path.is_dir() and any(path.iterdir()):
            if not overwrite:
                raise RunError(f"{path} is not empty: name another folder with --out, or pass --overwrite.")
            others = sorted(p.name for p in path.iterdir() if p.name not in _OURS)
            if others or not (path / "versions.json").is_file():
                raise RunError(
                    f"{path} holds other things than a run ({', '.join(others[:3]) or 'no versions.json'}), "
                    "so --overwrite leaves it alone: name another folder with --out."
                )
        if not os.access(existing, os.W_OK):
            raise RunError(f"{path} can't be written: {existing} is read-only.")

    @classmethod
    def create(
        cls,
        path: Path,
        data: RecommendationData,
        configs: tuple[DataConfig, LIRDRecConfig, TrainingConfig],
        overwrite: bool = False,
    ) -> "Run":
        """Makes the folder and writes what is known before the training.

        Raises:
            RunError: if the folder is in use or can't be written.
        """
        cls.check_free(path, overwrite)
        run, earlier = cls(path), path / _EARLIER
        try:
            path.mkdir(parents=True, exist_ok=True)
            earlier.mkdir()
            _move_files(path, earlier)
        except OSError as error:
            raise RunError(f"{path} can't be written ({error}).") from error
        try:
            run._write_start(data, configs)
        except BaseException:
            _remove_files(path)
            _move_files(earlier, path)
            earlier.rmdir()
            if not any(path.iterdir()):
                path.rmdir()
            raise
        _remove_files(earlier)
        earlier.rmdir()
        return run

    def _write_start(self, data: RecommendationData, configs: tuple[DataConfig, LIRDRecConfig, TrainingConfig]) -> None:
        settings = {key: value for config in configs for key, value in asdict(config).items()}
        self._write("config.yaml", lambda file: file.write_text(yaml.safe_dump(settings, sort_keys=False), "utf-8"))
        self._write_json("versions.json", {"format": RUN_FORMAT, **versions()})
        self._write("graph.safetensors", lambda file: save_graph(data.graph, file))
        self._write("users.parquet", data.users.save)
        self._write("items.parquet", data.items.save)

    @classmethod
    def open(cls, path: str | Path) -> "Run":
        """A finished run.

        Raises:
            RunError: if ``path`` is none, or of a newer format.
        """
        path = Path(path)
        if not (path / "versions.json").is_file():
            raise RunError(f"{path} is no run folder: it has no versions.json.")
        run = cls(path)
        form = run._read_json("versions.json").get("format")
        if form != RUN_FORMAT:
            raise RunError(f"{path} is a run of format {form}, and this version reads format {RUN_FORMAT}: update it.")
        return run

    def save_weights(self, name: str, state: Mapping[str, Tensor]) -> None:
        """Writes a ``state_dict`` as ``<name>.safetensors``."""
        tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
        self._write(
            f"{name}.safetensors", lambda file: save_file(tensors, file, {"format": f"lirdrec-pyg {RUN_FORMAT}"})
        )

    def append_history(self, result: EpochResult) -> None:
        """Adds the line of an epoch to ``history.csv``."""
        row = {
            "epoch": result.epoch,
            "loss": result.loss,
            **{f"valid_{name}": value for name, value in result.valid.items()},
            "improved": int(result.improved),
            "train_seconds": round(result.train_seconds, 4),
            "eval_seconds": round(result.eval_seconds, 4),
        }
        path = self.path / "history.csv"
        try:
            with path.open("a", newline="") as file:
                writer = csv.DictWriter(file, row)
                if result.epoch == 1:
                    writer.writeheader()
                writer.writerow(row)
        except OSError as error:
            raise RunError(f"{path} can't be written ({error}).") from error

    def save_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Writes ``metrics.json``."""
        self._write_json("metrics.json", metrics)

    def metrics(self) -> dict[str, Any] | None:
        """What :meth:`save_metrics` wrote, ``None`` if the run was cut off before that."""
        return self._read_json("metrics.json") if (self.path / "metrics.json").is_file() else None

    def settings(self) -> dict[str, Any]:
        """What ``config.yaml`` says."""
        path = self.path / "config.yaml"
        try:
            settings = yaml.safe_load(path.read_text("utf-8"))
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise RunError(f"{path} can't be read ({first_line(error)}).") from error
        if not isinstance(settings, dict):
            raise RunError(f"{path} holds no settings.")
        return settings

    def model_config(self) -> LIRDRecConfig:
        """The model's part of ``config.yaml``."""
        return self._config(LIRDRecConfig)

    def training_config(self) -> TrainingConfig:
        """The training's part of ``config.yaml``."""
        return self._config(TrainingConfig)

    def _config(self, kind: type[Config]) -> Config:
        settings = self.settings()
        try:
            return kind(**{field.name: settings[field.name] for field in fields(kind)})
        except KeyError as error:
            raise RunError(f"{self.path / 'config.yaml'} lacks the entry {error}.") from error
        except ConfigError as error:
            raise RunError(f"{self.path / 'config.yaml'} has a wrong entry: {error}") from error

    def graph(self) -> HeteroData:
        """The graph of the run."""
        return load_graph(self.path / "graph.safetensors")

    def users(self) -> Vocabulary:
        """User IDs by position: ``run.users().ids[position]`` and ``run.users().positions(ids)``."""
        return Vocabulary.load(self.path / "users.parquet", "user")

    def items(self) -> Vocabulary:
        """Item IDs by position, as :meth:`users`."""
        return Vocabulary.load(self.path / "items.parquet", "item")

    def model(self, data: HeteroData) -> LIRDRec:
        """The model with the weights of the best epoch, for the graph of the run, in eval mode."""
        model = LIRDRec.from_config(self.model_config(), data)
        path = self.path / "model.safetensors"
        try:
            with safe_open(path, framework="pt") as file:
                # Clones are aligned in memory as trained weights are, so that sums round alike.
                state = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
            model.load_state_dict(state)
        except (OSError, SafetensorError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise RunError(f"{path} does not hold the weights of this run's model ({reason}).") from error
        return model.eval()

    def _write(self, name: str, write: Callable[[Path], Any]) -> None:
        partial = self.path / _partial(name)
        try:
            try:
                write(partial)
                os.replace(partial, self.path / name)
            finally:
                partial.unlink(missing_ok=True)
        except (OSError, SafetensorError) as error:
            raise RunError(f"{self.path / name} can't be written ({error}).") from error

    def _write_json(self, name: str, content: Mapping[str, Any]) -> None:
        self._write(name, lambda file: file.write_text(json.dumps(content, indent=2) + "\n"))

    def _read_json(self, name: str) -> dict[str, Any]:
        try:
            content = json.loads((self.path / name).read_text())
        except (OSError, ValueError) as error:
            raise RunError(f"{self.path / name} can't be read ({error}).") from error
        if not isinstance(content, dict):
            raise RunError(f"{self.path / name} holds no settings.")
        return content


def _move_files(source: Path, target: Path) -> None:
    for name in _FILES:
        if (source / name).exists():
            os.replace(source / name, target / name)


def _remove_files(folder: Path) -> None:
    for name in _OURS:
        (folder / name).unlink(missing_ok=True)


def versions() -> dict[str, str]:
    """Versions of this package, Python and the libraries it computes with."""
    import importlib

    found = {package: str(importlib.import_module(package).__version__) for package in _PACKAGES}
    return {
        "lirdrec_pyg": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **found,
        "threads": str(torch.get_num_threads()),
    }
