"""The folder of a run: what it consists of, and how it is read and written."""

import json
import os
import platform
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields
from functools import lru_cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import yaml
from torch import Tensor
from torch_geometric.data import HeteroData

from lirdrec_pyg import files
from lirdrec_pyg._version import __version__
from lirdrec_pyg.data import (
    NEW_ITEM,
    DataConfig,
    Dataset,
    ItemCatalog,
    Vocabulary,
    load_graph,
    save_graph,
    without_new_items,
)
from lirdrec_pyg.errors import ConfigError, RunError, first_line, shown
from lirdrec_pyg.files import CHECKSUMS, load_state, save_state, write_file
from lirdrec_pyg.html import table_of
from lirdrec_pyg.models import MODEL_CONFIGS, ItemRegression, ModelConfig, Vectors, model_class
from lirdrec_pyg.training import Checkpoint, TrainingConfig
from lirdrec_pyg.training.journal import CHECKPOINT, DIVERGED, HISTORY, WEIGHTS
from lirdrec_pyg.training.loggers import LOGS

if TYPE_CHECKING:
    from lirdrec_pyg.recommender.recommender import Recommender

RUN_FORMAT = 2

Config = TypeVar("Config", DataConfig, ModelConfig, TrainingConfig)

VECTORS, REGRESSION = "vectors", "regression"
_VECTORS, _REGRESSION = f"{VECTORS}.safetensors", f"{REGRESSION}.safetensors"
_MODEL = f"{WEIGHTS}.safetensors"
# All that a trained model needs. The first file identifies a folder as a run: it is written first and removed last.
_NEEDED = ("versions.json", "config.yaml", "graph.safetensors", "users.parquet", "items.parquet", _MODEL)
# What earlier versions attached new items by.
_EARLIER = ("neighborhood.safetensors", "neighbourhood.safetensors")
_OPTIONAL = (
    *(_VECTORS, _REGRESSION, *_EARLIER),
    "new_items.safetensors",
    "new_items.parquet",
    "new_vectors.safetensors",
    "catalog.parquet",
)
_DIVERGED = f"{DIVERGED}.safetensors"
# What several processes derive from the interactions, while they start.
DERIVED = "derived"
_SELECTION, _SELECTION_HISTORY = "selection.json", "selection.csv"
# All that a run folder ever holds: nothing else is replaced or removed.
_FILES = (
    *(*_NEEDED, *_OPTIONAL, CHECKPOINT, _DIVERGED, HISTORY),
    *(_SELECTION, _SELECTION_HISTORY, "metrics.json", CHECKSUMS, f"{DERIVED}.safetensors"),
)
# Files of a finished training, which do not fit weights that are trained further.
_OF_THE_END = (
    "metrics.json",
    CHECKSUMS,
    _DIVERGED,
    _VECTORS,
    "new_vectors.safetensors",
    *(_REGRESSION, *_EARLIER),
)
# What format 1 called otherwise.
_RENAMED_SETTINGS = {"num_neighbours": "num_neighbors"}
_RENAMED_TENSORS = {"neighbour": "neighbor"}
# Settings of runs from before there was a choice, if the default is another.
_EARLIER_SETTINGS = {"unclicked_items": "trained"}

_HEADLINES = (("valid", "recall@20"), ("test", "recall@20"), ("test", "ndcg@20"))

_PACKAGES = (
    "torch",
    "torch-geometric",
    "numpy",
    "scikit-learn",
    "polars",
    "safetensors",
    "lightning-fabric",
    "torch-sparse",
    "faiss-cpu",
)


def metric_facts(metrics: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the metrics that a reader looks at first."""
    found = {f"{split} {name}": (metrics or {}).get(split, {}).get(name) for split, name in _HEADLINES}
    return {name: f"{value:.4f}" for name, value in found.items() if value is not None}


class Run:
    """The folder of a run.

    ======================  ================================================================
    ``config.yaml``         all settings, enough to repeat the run (``fit --config``)
    ``versions.json``       format of the folder, versions of all packages, facts about the data
    ``graph.safetensors``   features, interactions, splits, item graph
    ``users.parquet``       user IDs by position
    ``items.parquet``       item IDs by position
    ``catalog.parquet``     titles, images and other columns of the items, if known
    ``model.safetensors``   weights of the best epoch
    ``checkpoint.*``        state from which the training can be resumed
    ``diverged.*``          batch with an infinite or NaN loss, if there was one
    ``vectors.*``           representations of users and items, if scores are their dot products
    ``regression.*``        what predicts the vectors of new items, if the model supports them
    ``new_items.*``         features and IDs of the items that were not part of the training
    ``new_vectors.*``       their representations
    ``history.csv``         one line per epoch
    ``selection.*``         metrics and history of the training that found the number of epochs of a refit
    ``metrics.json``        validation and test metrics of the best epoch, time and memory
    ``SHA256SUMS``          checksums of all that the model needs, once the run is finished
    ======================  ================================================================

    Every file is written under a temporary name and then moved, so none is ever half-written, and a file that two runs
    share by a hard link is never changed in one through the other.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    def _repr_html_(self) -> str:
        state = "finished" if self.is_sealed else "unfinished"
        return table_of(
            repr(self), {"model": self.model_config().model, "state": state, **metric_facts(self.metrics())}
        )

    @staticmethod
    def check_free(path: Path, overwrite: bool, source: Path | None = None) -> None:
        """Raise :class:`RunError` if a run, made from that in ``source``, cannot be written to ``path``."""
        if source is not None and source.exists() and path.exists() and path.samefile(source):
            raise RunError(f"{path} is the folder of the run itself. Pass another folder as `out`.")
        is_training = source is None and (path / CHECKPOINT).exists()
        hint = " To continue the training in it, use `resume`." if is_training else ""
        files.check_output_folder(path, (*_FILES, LOGS), _FILES[0], overwrite, hint)

    @staticmethod
    def locked(path: Path) -> Any:
        """Keep other programs from writing into ``path``, see :func:`lirdrec_pyg.files.locked`."""
        return files.locked(path, _FILES)

    @classmethod
    @contextmanager
    def created(
        cls,
        path: Path,
        dataset: Dataset,
        model_config: ModelConfig,
        training_config: TrainingConfig,
        overwrite: bool = False,
    ) -> Iterator["Run"]:
        """Yield the folder of a new run with all that is known before the training.

        Raises:
            RunError: if the folder is in use, not free or cannot be written.
        """
        run = cls(path)
        with run._reserved(overwrite):
            with files.replaced(path, _FILES):
                run._write_start(dataset, model_config, training_config)
            yield run

    @contextmanager
    def _reserved(self, overwrite: bool, source: Path | None = None) -> Iterator[None]:
        """Keep other programs from writing into this folder, if it is free; see :meth:`check_free`."""
        self.check_free(self.path, overwrite, source)  # first, since a lock changes the folder
        with self.locked(self.path):
            self.check_free(self.path, overwrite, source)  # another program may have finished there meanwhile
            yield

    def _write_start(
        self, dataset: Dataset, model_config: ModelConfig, training_config: TrainingConfig, skip: Mapping[str, str] = {}
    ) -> None:
        write: dict[str, Callable[[Path], object]] = {
            "versions.json": lambda path: _dump_json({"format": RUN_FORMAT, **versions(), "data": dataset.facts}, path),
            "config.yaml": lambda path: _dump_settings(path, dataset.config, model_config, training_config),
            "graph.safetensors": partial(save_graph, without_new_items(dataset.graph)),
            "users.parquet": dataset.users.save,
            "items.parquet": dataset.items.save,
        }
        if dataset.catalog is not None:
            write["catalog.parquet"] = dataset.catalog.save
        if dataset.new_items is not None:
            new = HeteroData()
            new[NEW_ITEM].update(dataset.graph[NEW_ITEM])
            write["new_items.safetensors"] = partial(save_graph, new)
            write["new_items.parquet"] = dataset.new_items.save
        for name, writer in write.items():
            if name not in skip:
                write_file(self.path, name, writer)

    def save(self, recommender: "Recommender", overwrite: bool = False) -> None:
        """Write ``recommender`` into this folder. Files of its own folder that are unchanged are linked, not copied.

        Raises:
            RunError: if the folder is in use or cannot be written.
        """
        linked = _unchanged_files(recommender)
        with self._reserved(overwrite, recommender.path), files.replaced(self.path, _FILES):
            for name in linked:
                assert recommender.path is not None
                write_file(self.path, name, partial(_link, recommender.path / name))
            self._write_start(recommender.dataset, recommender.model_config, recommender.training_config, skip=linked)
            self.finish(recommender, linked)

    def finish(self, recommender: "Recommender", linked: Mapping[str, str] = {}) -> None:
        """Write the model and its vectors, and seal the run; ``linked`` holds checksums of files that exist already."""
        if _MODEL not in linked:
            save_state(self.path, WEIGHTS, recommender.model.state_dict())
        vectors, num_items = recommender.vectors, recommender.num_trained_items
        if recommender.model_config.has_vectors:
            if len(vectors.item) > num_items:  # first, since vectors() expects it where the other file is
                new = vars(vectors.items_from(num_items))
                save_state(self.path, "new_vectors", {name: new[name] for name in ("item", "item_layers", "linear")})
            if _VECTORS not in linked:
                save_state(self.path, VECTORS, vars(vectors.items_until(num_items)))
        if recommender.regression is not None and _REGRESSION not in linked:
            save_state(self.path, REGRESSION, vars(recommender.regression))
        self.seal(recommender.metrics, linked)

    def seal(self, metrics: Mapping[str, Any] | None, linked: Mapping[str, str] = {}) -> None:
        """Write checksums of all that the model needs, and the metrics; see :meth:`finish`."""
        present = [name for name in (*_NEEDED, *_OPTIONAL) if (self.path / name).is_file()]
        sums = {name: linked.get(name) or files.checksum(self.path / name) for name in present}
        write_file(self.path, CHECKSUMS, lambda path: path.write_text(files.format_checksums(sums), "utf-8"))
        if metrics is not None:
            write_file(self.path, "metrics.json", partial(_dump_json, metrics))

    @classmethod
    def open(cls, path: str | Path) -> "Run":
        """Open an existing run.

        Raises:
            RunError: if ``path`` is not a run, or of a newer format.
        """
        path = Path(path)
        if not (path / "versions.json").is_file():
            raise RunError(f"{path} is not a run folder: it has no versions.json.")
        run = cls(path)
        form = run._read_json("versions.json").get("format")
        if not isinstance(form, int) or form < 1:
            raise RunError(f"{path / 'versions.json'} names no format of the run. It is damaged.")
        if form > RUN_FORMAT:
            raise RunError(
                f"{path} is a run of format {form}, and this lirdrec-pyg reads formats up to {RUN_FORMAT}. Update it."
            )
        return run

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is a state of the training."""
        return (self.path / CHECKPOINT).is_file()

    def checkpoint(self) -> Checkpoint:
        """Return the last state of the training.

        Raises:
            RunError: if there is none, or the file is damaged.
        """
        if not self.has_checkpoint:
            if self.model_config().is_closed_form:
                raise RunError(f"{self.path} holds a model in closed form: there is no training to resume.")
            fix = (
                "If it was made by adding items, resume the run that the items were added to."
                if self.is_sealed
                else "Train again with `overwrite=True`."
            )
            raise RunError(f"{self.path} has no {CHECKPOINT}, so it cannot be resumed. {fix}")
        return Checkpoint.load(self.path / CHECKPOINT)

    def reopen(self, data_config: DataConfig | None, model_config: ModelConfig, config: TrainingConfig) -> None:
        """Turn the run into an unfinished one, whose settings may have changed, before its training is resumed."""
        self._remove(_OF_THE_END)
        write_file(self.path, "config.yaml", lambda path: _dump_settings(path, data_config, model_config, config))

    def keep_selection(self, metrics: Mapping[str, Any]) -> None:
        """Keep metrics and history of the training that found the number of epochs, before the refit."""
        write_file(self.path, _SELECTION_HISTORY, partial(shutil.copyfile, self.path / HISTORY))
        write_file(self.path, _SELECTION, partial(_dump_json, metrics))

    def selection(self) -> dict[str, Any] | None:
        """Return these metrics; ``None`` if there is no refit, or it has not started."""
        return self._read_json(_SELECTION) if (self.path / _SELECTION).is_file() else None

    def start_refit(self, graph: HeteroData) -> None:
        """Remove the state of the first training, and replace the graph by that of the refit.

        In this order: a checkpoint beside a graph without held-out interactions belongs to the refit.
        """
        self._remove((CHECKPOINT, _MODEL, HISTORY))
        write_file(self.path, "graph.safetensors", partial(save_graph, graph))

    def _remove(self, names: Iterable[str]) -> None:
        try:
            for name in names:
                (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise RunError(f"Cannot write {self.path} ({error}).") from error

    def metrics(self) -> dict[str, Any] | None:
        """Return ``metrics.json``, or ``None`` if the run is unfinished."""
        return self._read_json("metrics.json") if (self.path / "metrics.json").is_file() else None

    def settings(self) -> dict[str, Any]:
        """Return the settings in ``config.yaml``."""
        path = self.path / "config.yaml"
        try:
            settings = _parse_yaml(path.read_text("utf-8"))
        except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:  # also invalid dates and deep nesting
            raise RunError(f"Cannot read {path} ({first_line(error)}).") from error
        if not isinstance(settings, dict):
            raise RunError(f"{path} holds no settings.")
        return {_RENAMED_SETTINGS.get(str(key), str(key)): value for key, value in settings.items()}

    def model_config(self) -> ModelConfig:
        """Return the hyperparameters of the model, of its own class."""
        # Runs from before there were other models do not name it.
        name = self.settings().get("model", "lirdrec")
        if not isinstance(name, str) or name not in MODEL_CONFIGS:
            raise RunError(f"{self.path / 'config.yaml'} names an unknown model, {shown(name)}. Update lirdrec-pyg.")
        return self._config(MODEL_CONFIGS[name])

    def data_config(self) -> DataConfig | None:
        """Return where the data came from, and their columns; ``None`` for a graph."""
        return self._config(DataConfig) if "data" in self.settings() else None

    def training_config(self) -> TrainingConfig:
        """Return the settings of the training."""
        return self._config(TrainingConfig)

    def _config(self, kind: type[Config]) -> Config:
        settings = _EARLIER_SETTINGS | self.settings()
        try:
            # A missing entry came with a later release; its default is what there was before.
            return kind(**{field.name: settings[field.name] for field in fields(kind) if field.name in settings})
        except ConfigError as error:
            raise RunError(f"{self.path / 'config.yaml'} has an invalid entry: {error}") from error

    @property
    def is_sealed(self) -> bool:
        """Whether the run is finished."""
        return (self.path / CHECKSUMS).is_file()

    def verify(self) -> dict[str, str] | None:
        """Read all that the model needs, and compare it with its checksums.

        Returns:
            The checksums by file name, ``None`` for an unfinished run.

        Raises:
            RunError: naming the file that is missing or changed, or if there is no model.
        """
        if not self.is_sealed:
            if not (self.path / _MODEL).is_file():
                raise RunError(f"{self.path} has no model: its training stopped before the first epoch was finished.")
            if (self.path / "metrics.json").is_file():
                raise RunError(f"{self.path} has no {CHECKSUMS}. Copy the run folder as a whole.")
            return None
        present = [name for name in _OPTIONAL if (self.path / name).exists()]
        return files.verify_checksums(self.path, [*_NEEDED, *present])

    def check(self) -> dict[str, str] | None:
        """Verify the run, see :meth:`verify`, and warn if it is unfinished."""
        checksums = self.verify()
        if checksums is None:
            warnings.warn(f"The training of {self.path} is unfinished. Its best epoch is used.", stacklevel=3)
        refit = (self.metrics() or {}).get("refit", {})
        if refit.get("stopped") == "interrupted":
            warnings.warn(
                f"The refit of {self.path} was interrupted after {refit['epochs']} epochs. Resume it before use.",
                stacklevel=3,
            )
        return checksums

    def dataset(self) -> Dataset:
        """Return the data that the run was trained on, with the new items."""
        graph = load_graph(self.path / "graph.safetensors")
        new_items, catalog = None, None
        if (self.path / "new_items.safetensors").is_file():
            graph[NEW_ITEM].update(load_graph(self.path / "new_items.safetensors")[NEW_ITEM])
            new_items = Vocabulary.load(self.path / "new_items.parquet", "item")
        if (self.path / "catalog.parquet").is_file():
            catalog = ItemCatalog.load(self.path / "catalog.parquet")
        users = Vocabulary.load(self.path / "users.parquet", "user")
        items = Vocabulary.load(self.path / "items.parquet", "item")
        facts = self._read_json("versions.json").get("data", {})
        return Dataset(graph, users, items, new_items, catalog, self.data_config(), facts)

    def model(self, data: HeteroData) -> Any:
        """Return the model with the weights of the best epoch, for the graph of the run, in eval mode."""
        config, path = self.model_config(), self.path / _MODEL
        state = {_RENAMED_TENSORS.get(name, name): value for name, value in load_state(path).items()}
        try:
            with torch.device("meta"):  # without initial weights, which would advance the caller's random state
                model = model_class(config).from_config(config, data)
            # Assigned, not copied: a wrong width in config.yaml is refused before it takes memory.
            model.load_state_dict(state, assign=True)
        except RuntimeError as error:
            raise RunError(f"{path} does not hold the weights of this run's model ({first_line(error)}).") from error
        return model.eval()

    def vectors(self) -> Vectors | None:
        """Return the representations by the best epoch, the new items last; ``None`` if there are none."""
        if not (self.path / _VECTORS).is_file():
            return None
        vectors = Vectors(**_with_linear(load_state(self.path / _VECTORS)))
        if not (self.path / "new_items.safetensors").is_file():
            return vectors
        return vectors.append_items(**_with_linear(load_state(self.path / "new_vectors.safetensors")))

    def regression(self) -> ItemRegression | None:
        """Return what predicts the vectors of new items; ``None`` if an earlier version trained the model."""
        path = self.path / _REGRESSION
        return ItemRegression(**load_state(path)) if path.is_file() else None

    def _read_json(self, name: str) -> dict[str, Any]:
        try:
            content = json.loads((self.path / name).read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(f"Cannot read {self.path / name} ({error}).") from error
        if not isinstance(content, dict):
            raise RunError(f"{self.path / name} holds no settings.")
        return content


def _dump_json(content: Mapping[str, Any], path: Path) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


# Parsing takes milliseconds, and each configuration class needs the settings.
_parse_yaml = lru_cache(maxsize=4)(yaml.safe_load)


def _dump_settings(
    path: Path, data_config: DataConfig | None, model_config: ModelConfig, training_config: TrainingConfig
) -> None:
    configs = [config for config in (data_config, model_config, training_config) if config is not None]
    settings = {"model": model_config.model}
    settings |= {key: value for config in configs for key, value in asdict(config).items()}
    path.write_text(yaml.safe_dump(settings, sort_keys=False), "utf-8")


def _unchanged_files(recommender: "Recommender") -> dict[str, str]:
    """Return checksums of the files that another run of the same model can link."""
    if recommender.path is None or recommender.checksums is None:
        return {}
    with suppress(RunError):
        if files.read_checksums(recommender.path) == recommender.checksums:
            shared = (*_NEEDED, _VECTORS, _REGRESSION)  # the catalog may be another one
            return {name: value for name, value in recommender.checksums.items() if name in shared}
    return {}  # replaced since it was loaded


def _link(source: Path, target: Path) -> None:
    try:
        # The target of a symbolic link: a link to the link might lead nowhere from there.
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def versions() -> dict[str, str]:
    """Return the versions of this package, Python and the libraries it computes with."""
    found = {}
    for package in _PACKAGES:
        # From metadata: importing scikit-learn for this takes 40 MiB.
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return {
        "lirdrec_pyg": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **found,
        "threads": str(torch.get_num_threads()),
    }


def _with_linear(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return what belongs to the branches, also if an earlier version, which had no linear one, wrote it."""
    return {"linear": torch.empty(len(state["item"]), 0), **state}
