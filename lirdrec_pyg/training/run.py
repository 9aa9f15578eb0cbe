"""The folder of a run: everything that was learned and what is needed to use and repeat it."""

import csv
import json
import os
import platform
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch_geometric.data import HeteroData

from lirdrec_pyg._version import __version__
from lirdrec_pyg.config import MODEL_CONFIGS, DataConfig, LIRDRecConfig, ModelConfig, TrainingConfig
from lirdrec_pyg.data import NEW_ITEM, RecommendationData, Vocabulary, load_graph, save_graph, without_new_items
from lirdrec_pyg.data.checksums import checksum
from lirdrec_pyg.data.files import whole_file
from lirdrec_pyg.data.tables import first_line, shown
from lirdrec_pyg.data.tensors import save_tensors
from lirdrec_pyg.errors import ConfigError, RunError
from lirdrec_pyg.models import Neighbourhood, Vectors, model_class
from lirdrec_pyg.training.checkpoint import Checkpoint, EpochResult
from lirdrec_pyg.training.checksums import CHECKSUMS, format_checksums, read_checksums, verify_checksums

RUN_FORMAT = 1

Config = TypeVar("Config", DataConfig, ModelConfig, TrainingConfig)
Configs = tuple[DataConfig, ModelConfig, TrainingConfig]

# What the trained model is used by.
_NEEDED = (
    "versions.json",
    "config.yaml",
    "graph.safetensors",
    "users.parquet",
    "items.parquet",
    "model.safetensors",
    "vectors.safetensors",
)
# A model that ranks otherwise has none.
_VECTORS = "vectors.safetensors"
_NEW_ITEM_FILES = ("new_items.safetensors", "new_items.parquet", "new_vectors.safetensors")
# A model that can't take new items has no neighbourhood.
_OPTIONAL = ("neighbourhood.safetensors", *_NEW_ITEM_FILES)
# All that a run folder ever holds: nothing else is replaced or removed. By the first a folder is known as a
# run: it comes first and goes last.
_CHECKPOINT, _DIVERGED = "checkpoint.safetensors", "diverged.safetensors"
_FILES = (*_NEEDED, *_OPTIONAL, _CHECKPOINT, _DIVERGED, "history.csv", "metrics.json", CHECKSUMS)
_EARLIER, _LOCK = ".earlier", ".lock"
# What tells of a training's end, or was computed from its weights: it would not fit the weights that follow.
_OF_THE_END = (
    "metrics.json",
    CHECKSUMS,
    _DIVERGED,
    "vectors.safetensors",
    "new_vectors.safetensors",
    "neighbourhood.safetensors",
)
# Where files are written before they are moved to their place; libraries may write others beside them.
_UNFINISHED = ".unfinished"
# A run that was killed may have left the last three.
_OURS = {*_FILES, _UNFINISHED, _EARLIER, _LOCK}

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


class Run:
    """A run folder.

    ======================  ================================================================
    ``config.yaml``         every option, enough to repeat the run (``fit --config``)
    ``versions.json``       format of the folder, versions of what was used
    ``graph.safetensors``   features, interactions, splits, item graph
    ``users.parquet``       user IDs by position
    ``items.parquet``       item IDs by position
    ``model.safetensors``   weights of the best epoch
    ``checkpoint.*``        where the training stands, to go on from; not of a model that is computed at once
    ``diverged.*``          the batch whose loss was no number, if there was one
    ``vectors.safetensors`` representations of users and items by the best epoch; not of a model that ranks otherwise
    ``neighbourhood.*``     what new items are attached by, if the model can take any
    ``new_items.*``         features and IDs of the items that the training has not met
    ``new_vectors.*``       their representations
    ``history.csv``         a line an epoch
    ``metrics.json``        validation and test figures of the best epoch, time and memory
    ``SHA256SUMS``          checksums of all that the model is used by, once the run is finished
    ======================  ================================================================

    Every file is written beside its place and then moved there, so none is ever half-written, and a
    file that two runs share by a hard link is never changed in one through the other.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._checksums: dict[str, str] | None = None

    @classmethod
    def check_free(cls, path: Path, overwrite: bool) -> None:
        """Raises :class:`RunError` if a run can't be written to ``path``; changes nothing."""
        existing = next(p for p in (path, *path.absolute().parents) if p.exists())
        if not existing.is_dir():
            raise RunError(f"{path} can't be made, since {existing} is a file: name a folder with --out.")
        present = {p.name for p in path.iterdir()} - {_LOCK} if path.is_dir() else set()
        if present:
            if not overwrite:
                raise RunError(
                    f"{path} is not empty: name another folder with --out, or pass --overwrite, or --resume to go on "
                    "with a training."
                )
            others = sorted(present - _OURS)
            # A program that was killed at its very start may have left nothing but names that begin with a dot.
            if others or not ("versions.json" in present or all(name.startswith(".") for name in present)):
                raise RunError(
                    f"{path} holds other things than a run ({', '.join(others[:3]) or 'no versions.json'}), "
                    "so --overwrite leaves it alone: name another folder with --out."
                )
        if not os.access(existing, os.W_OK):
            raise RunError(f"{path} can't be written: {existing} is read-only.")

    def check_other(self, path: Path) -> None:
        """Raises :class:`RunError` if ``path`` is the folder of this run."""
        if path.exists() and path.samefile(self.path):
            raise RunError(f"{path} is the run that the items are added to: name another folder with --out.")

    @classmethod
    def create(
        cls,
        path: Path,
        data: RecommendationData,
        configs: Configs,
        overwrite: bool = False,
    ) -> "Run":
        """Makes the folder and writes what is known before the training.

        Raises:
            RunError: if the folder is in use or can't be written.
        """
        cls.check_free(path, overwrite)
        run = cls(path)
        with _emptied(path):
            run._write_start(data, configs)
        return run

    def derive(
        self, path: Path, graph: HeteroData, new_items: Vocabulary, vectors: Vectors, overwrite: bool = False
    ) -> "Run":
        """Makes the folder of a run with this model and other new items.

        What stays the same is not copied but linked, where the file system can do so.

        Args:
            path: folder to make, not this one.
            graph: with all new items.
            new_items: their IDs.
            vectors: of the users and of all items, the new ones last.
            overwrite: replaces an earlier run in ``path``.

        Raises:
            RunError: if the folder is in use or can't be written.
        """
        self.check_other(path)
        self.check_free(path, overwrite)
        self._check_unchanged()
        run = Run(path)
        num_trained = len(vectors.item) - len(new_items)
        with self.locked(path), _emptied(path):
            linked = [n for n in (*_NEEDED, "neighbourhood.safetensors") if (self.path / n).is_file()]
            for name in (*linked, "metrics.json"):
                if (self.path / name).is_file():
                    run._write(name, partial(_link, self.path / name))
            if "vectors.safetensors" in linked:
                run._save_new_vectors(vectors.items_from(num_trained))
            else:
                run.save_vectors(vectors, num_trained)
            run._write_new_items(graph, new_items)
            run.seal({n: self._checksums[n] for n in linked if n in self._checksums} if self._checksums else {})
        return run

    def _write_start(self, data: RecommendationData, configs: Configs) -> None:
        self._write_json("versions.json", {"format": RUN_FORMAT, **versions(), "data": data.facts})
        self._write_config(configs)
        self._write("graph.safetensors", lambda file: save_graph(without_new_items(data.graph), file))
        self._write("users.parquet", data.users.save)
        self._write("items.parquet", data.items.save)
        if data.new_items is not None:
            self._write_new_items(data.graph, data.new_items)

    def _write_config(self, configs: Configs) -> None:
        settings = {"model": configs[1].model}
        settings |= {key: value for config in configs for key, value in asdict(config).items()}
        self._write("config.yaml", lambda file: file.write_text(yaml.safe_dump(settings, sort_keys=False), "utf-8"))

    def _write_new_items(self, graph: HeteroData, new_items: Vocabulary) -> None:
        self._write("new_items.safetensors", lambda file: save_graph(_new_items_only(graph), file))
        self._write("new_items.parquet", new_items.save)

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
        if not isinstance(form, int) or form < 1:
            raise RunError(f"{path / 'versions.json'} names no format of the run: it is damaged.")
        if form > RUN_FORMAT:
            raise RunError(
                f"{path} is a run of format {form}, and this lirdrec-pyg reads format {RUN_FORMAT}: update it."
            )
        return run

    def save_weights(self, name: str, state: Mapping[str, Tensor]) -> None:
        """Writes a ``state_dict`` as ``<name>.safetensors``."""
        tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
        self._write(
            f"{name}.safetensors", lambda file: save_tensors(tensors, file, {"format": f"lirdrec-pyg {RUN_FORMAT}"})
        )

    def save_vectors(self, vectors: Vectors, num_items: int) -> None:
        """Writes ``vectors.safetensors``, and ``new_vectors.safetensors`` for the items from ``num_items`` on."""
        known, new = vectors.items_until(num_items), vectors.items_from(num_items)
        if len(new.item):  # first, since vectors() takes the other file for the last
            self._save_new_vectors(new)
        self.save_weights("vectors", vars(known))

    def _save_new_vectors(self, new: Vectors) -> None:
        self.save_weights("new_vectors", {"item": new.item, "item_layers": new.item_layers})

    def save_neighbourhood(self, neighbourhood: Neighbourhood) -> None:
        """Writes ``neighbourhood.safetensors``."""
        self.save_weights("neighbourhood", vars(neighbourhood))

    def seal(self, known: Mapping[str, str] | None = None) -> None:
        """Writes the checksums, by which a finished run is known to be as it was written.

        Args:
            known: checksums that need not be computed.

        Raises:
            RunError: if a file is lacking that the model is used by.
        """
        lacking = [name for name in _NEEDED if not (self.path / name).is_file()]
        if lacking and (lacking != [_VECTORS] or not self.model_config().closed_form):
            raise RunError(f"{self.path} lacks {lacking[0]}, so it can't be finished.")
        present = [name for name in (*_NEEDED, *_OPTIONAL) if (self.path / name).is_file()]
        found = {name: (known or {}).get(name) or checksum(self.path / name) for name in present}
        self._write(CHECKSUMS, lambda file: file.write_text(format_checksums(found), "utf-8"))

    def save_history(self, history: Sequence[EpochResult]) -> None:
        """Writes ``history.csv``, a line an epoch."""
        rows = [
            {
                "epoch": result.epoch,
                "loss": result.loss,
                **{f"valid_{name}": value for name, value in result.valid.items()},
                "improved": int(result.improved),
                "train_seconds": round(result.train_seconds, 4),
                "eval_seconds": round(result.eval_seconds, 4),
            }
            for result in history
        ]

        def write(path: Path) -> None:
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, rows[0] if rows else ())
                writer.writeheader()
                writer.writerows(rows)

        self._write("history.csv", write)

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Writes ``checkpoint.safetensors``."""
        self._write(_CHECKPOINT, checkpoint.save)

    def checkpoint(self) -> Checkpoint:
        """Where the training of this run stood last.

        Raises:
            RunError: if it never began, or the file is damaged.
        """
        if not (self.path / _CHECKPOINT).is_file():
            if self.model_config().closed_form:
                raise RunError(
                    f"{self.path} is of a model that is computed at once: there is no training to go on with."
                )
            way_out = (
                "if add-items made it, go on with the run that the items were added to"
                if self.is_sealed
                else "start its training anew, with --out and --overwrite"
            )
            raise RunError(f"{self.path} has no {_CHECKPOINT} to go on from: {way_out}.")
        return Checkpoint.load(self.path / _CHECKPOINT)

    def save_diverged(self, triples: Tensor) -> Path:
        """Writes the batch whose loss was no number, and says where."""
        self.save_weights(_DIVERGED.removesuffix(".safetensors"), {"triples": triples})
        return self.path / _DIVERGED

    def reopen(self, configs: Configs) -> None:
        """Makes a run of which the training goes on, by settings that may have changed, an unfinished one."""
        try:
            for name in _OF_THE_END:
                (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise RunError(f"{self.path} can't be written ({error}).") from error
        self._write_config(configs)

    @staticmethod
    @contextmanager
    def locked(path: Path) -> Iterator[None]:
        """Keeps other programs from writing into the folder ``path``, which is made if there is none, and
        clears away what one has left that was killed.

        Raises:
            RunError: if another program does so, or the folder can't be written.
        """
        existed = path.exists()
        lock = FileLock(path / _LOCK, timeout=0)
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            shutil.rmtree(path / _UNFINISHED, ignore_errors=True)
            _put_back(path)
        except Timeout:
            raise RunError(f"{path} is in use by another training: wait for its end, or name another folder.") from None
        except OSError as error:
            lock.release()
            raise RunError(f"{path} can't be written ({error}).") from error
        try:
            yield
        finally:
            with suppress(OSError):
                (path / _LOCK).unlink(missing_ok=True)
                if not existed and not any(path.iterdir()):
                    path.rmdir()
            lock.release()

    def save_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Writes ``metrics.json``."""
        self._write_json("metrics.json", metrics)

    def metrics(self) -> dict[str, Any] | None:
        """What :meth:`save_metrics` wrote, ``None`` if the run was cut off before that."""
        return self._read_json("metrics.json") if (self.path / "metrics.json").is_file() else None

    def facts(self) -> dict[str, Any]:
        """What is known of the data."""
        facts = self._read_json("versions.json").get("data", {})
        return facts if isinstance(facts, dict) else {}

    def settings(self) -> dict[str, Any]:
        """What ``config.yaml`` says."""
        path = self.path / "config.yaml"
        try:
            settings = yaml.safe_load(path.read_text("utf-8"))
        except (
            OSError,
            yaml.YAMLError,
            ValueError,
            RecursionError,
        ) as error:  # a date or number that is none, a deep list
            raise RunError(f"{path} can't be read ({first_line(error)}).") from error
        if not isinstance(settings, dict):
            raise RunError(f"{path} holds no settings.")
        return settings

    def model_config(self) -> ModelConfig:
        """The model's part of ``config.yaml``, of the class that belongs to the model."""
        # Runs from before there were other models don't name it.
        name = self.settings().get("model", LIRDRecConfig.model)
        if not isinstance(name, str) or name not in MODEL_CONFIGS:
            raise RunError(f"{self.path / 'config.yaml'} names an unknown model, {shown(name)}: update lirdrec-pyg.")
        return self._config(MODEL_CONFIGS[name])

    def lirdrec_config(self) -> LIRDRecConfig:
        """As :meth:`model_config`.

        Raises:
            RunError: if the run is of another model.
        """
        config = self.model_config()
        if not isinstance(config, LIRDRecConfig):
            raise RunError(
                f"{self.path} is a run of --model {config.model}: only those of --model lirdrec have branches to "
                "explain a score by, and take in new users and new items."
            )
        return config

    def data_config(self) -> DataConfig:
        """The part of ``config.yaml`` that says where the data came from."""
        return self._config(DataConfig)

    def training_config(self) -> TrainingConfig:
        """The training's part of ``config.yaml``."""
        return self._config(TrainingConfig)

    def _config(self, kind: type[Config]) -> Config:
        settings = self.settings()
        try:
            # An entry that is lacking came with a later release; its default is what there was before.
            return kind(**{field.name: settings[field.name] for field in fields(kind) if field.name in settings})
        except ConfigError as error:
            raise RunError(f"{self.path / 'config.yaml'} has a wrong entry: {error}") from error

    @property
    def is_sealed(self) -> bool:
        """Whether the run has been finished, and nothing has gone on with it since."""
        return (self.path / CHECKSUMS).is_file()

    def verify(self) -> bool:
        """Reads all that the model is used by, and compares it with its checksums.

        Returns:
            ``False`` if there are none, since the run was cut off before it was finished.

        Raises:
            RunError: naming the file that is missing or not as it was written, or if there is no model.
        """
        if not self.is_sealed:
            if not (self.path / "model.safetensors").is_file():
                raise RunError(
                    f"{self.path} has no model: its training was cut off before the first epoch was finished."
                )
            if (self.path / "metrics.json").is_file():
                raise RunError(f"{self.path} lacks {CHECKSUMS}: copy the run folder as a whole.")
            return False
        # A list that names the vectors has them needed.
        needed = {*_NEEDED} - {_VECTORS}
        present = [name for name in (*_NEEDED, *_OPTIONAL) if name in needed or (self.path / name).exists()]
        self._checksums = verify_checksums(self.path, present)
        return True

    def check(self) -> None:
        """As :meth:`verify`, with a warning if the run was cut off."""
        if not self.verify():
            warnings.warn(
                f"{self.path} was cut off before its training was finished: its best epoch is used.", stacklevel=3
            )

    def _check_unchanged(self) -> None:
        """Raises :class:`RunError` if another run has taken the place of the one that was verified."""
        if self._checksums is not None and read_checksums(self.path) != self._checksums:
            raise RunError(f"{self.path} was replaced since it was loaded: load it again.")

    def graph(self) -> HeteroData:
        """The graph of the run, with the new items if there are any."""
        graph = load_graph(self.path / "graph.safetensors")
        if (self.path / "new_items.safetensors").is_file():
            new = load_graph(self.path / "new_items.safetensors")
            graph[NEW_ITEM].update(new[NEW_ITEM])
        return graph

    def vectors(self) -> Vectors | None:
        """Representations by the best epoch, the new items last; ``None`` if the run was cut off before these."""
        if not (self.path / "vectors.safetensors").is_file():
            return None
        vectors = Vectors(**self._tensors("vectors", ("user", "user_weight", "item", "item_layers")))
        if not (self.path / "new_items.safetensors").is_file():
            return vectors
        return vectors.append_items(**self._tensors("new_vectors", ("item", "item_layers")))

    def neighbourhood(self) -> Neighbourhood | None:
        """What new items are attached by; ``None`` if the run was cut off before, or its model can't take any."""
        if not (self.path / "neighbourhood.safetensors").is_file():
            return None
        return Neighbourhood(**self._tensors("neighbourhood", ("center", "whitening", "key")))

    def _tensors(self, name: str, keys: tuple[str, ...]) -> dict[str, Tensor]:
        path = self.path / f"{name}.safetensors"
        try:
            with safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in keys}
        except (OSError, SafetensorError) as error:
            raise RunError(f"{path} can't be read ({first_line(error)}).") from error

    def users(self) -> Vocabulary:
        """User IDs by position: ``run.users().ids[position]`` and ``run.users().positions(ids)``."""
        return Vocabulary.load(self.path / "users.parquet", "user")

    def items(self) -> Vocabulary:
        """Item IDs by position, as :meth:`users`."""
        return Vocabulary.load(self.path / "items.parquet", "item")

    def new_items(self) -> Vocabulary | None:
        """IDs of the new items, ``None`` if there are none."""
        path = self.path / "new_items.parquet"
        return Vocabulary.load(path, "item") if path.is_file() else None

    def model(self, data: HeteroData) -> Any:
        """The model with the weights of the best epoch, for the graph of the run, in eval mode."""
        self._check_unchanged()
        config = self.model_config()
        path = self.path / "model.safetensors"
        try:
            with torch.device("meta"):  # without start weights, which would take from the draws of the caller
                model = model_class(config).from_config(config, data)
            with safe_open(path, framework="pt") as file:
                # Clones are aligned in memory as trained weights are, so that sums round alike.
                state = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
            # Taken over, not copied: a wrong width in config.yaml is refused before it takes memory.
            model.load_state_dict(state, assign=True)
        except (OSError, SafetensorError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise RunError(f"{path} does not hold the weights of this run's model ({reason}).") from error
        return model.eval()

    def _write(self, name: str, write: Callable[[Path], Any]) -> None:
        folder = self.path / _UNFINISHED
        try:
            with whole_file(self.path / name, folder / name) as unfinished:
                folder.mkdir(exist_ok=True)
                write(unfinished)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _write_json(self, name: str, content: Mapping[str, Any]) -> None:
        self._write(name, lambda file: file.write_text(json.dumps(content, indent=2) + "\n"))

    def _read_json(self, name: str) -> dict[str, Any]:
        try:
            content = json.loads((self.path / name).read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(f"{self.path / name} can't be read ({error}).") from error
        if not isinstance(content, dict):
            raise RunError(f"{self.path / name} holds no settings.")
        return content


def _link(source: Path, target: Path) -> None:
    try:
        # What a symbolic link leads to: a link to the link might lead nowhere from there.
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def _new_items_only(graph: HeteroData) -> HeteroData:
    new = HeteroData()
    new[NEW_ITEM].update(graph[NEW_ITEM])
    return new


@contextmanager
def _emptied(path: Path) -> Iterator[None]:
    """Makes the folder, or puts an earlier run in it aside, and back if what follows fails.

    If the program is killed meanwhile, :func:`_put_back` does so later: an earlier run is aside as a whole
    as soon as, and as long as, its ``versions.json`` is.
    """
    earlier = path / _EARLIER
    try:
        path.mkdir(parents=True, exist_ok=True)
        _put_back(path)
        earlier.mkdir()
        _move_files(path, earlier, reversed(_FILES))
    except BaseException as error:
        with suppress(OSError):
            _put_back(path)
        if isinstance(error, OSError):
            raise RunError(f"{path} can't be written ({error}).") from error
        raise
    try:
        yield
    except BaseException:
        _remove_files(path)
        _put_back(path)
        if not any(path.iterdir()):
            path.rmdir()
        raise
    # In one move, so that what is left of it is never put back.
    shutil.rmtree(path / _UNFINISHED, ignore_errors=True)
    os.replace(earlier, path / _UNFINISHED)
    shutil.rmtree(path / _UNFINISHED, ignore_errors=True)


def _put_back(path: Path) -> None:
    """Undoes what a program that was killed did to replace the run in ``path``."""
    earlier = path / _EARLIER
    if not earlier.is_dir():
        return
    if (earlier / _FILES[0]).exists():
        _remove_files(path)
    _move_files(earlier, path, _FILES)
    earlier.rmdir()


def _move_files(source: Path, target: Path, names: Iterable[str]) -> None:
    for name in names:
        if (source / name).exists():
            os.replace(source / name, target / name)


def _remove_files(folder: Path) -> None:
    for name in reversed(_FILES):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / _UNFINISHED, ignore_errors=True)


def versions() -> dict[str, str]:
    """Versions of this package, Python and the libraries it computes with."""
    found = {}
    for package in _PACKAGES:
        # By its metadata: to import scikit-learn for this takes 40 MiB.
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return {
        "lirdrec_pyg": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **found,
        "threads": str(torch.get_num_threads()),
    }
