"""Pretrained models, from a local folder or the Hugging Face Hub."""

import hashlib
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from lirdrec_pyg.config import EncoderDtype
from lirdrec_pyg.data.checksums import checksum
from lirdrec_pyg.data.tables import first_line
from lirdrec_pyg.errors import ConfigError, LIRDRecError

# What makes a model, beside pictures and papers that may lie in its folder; no second copy for another runtime.
_MODEL_SUFFIXES = (".safetensors", ".bin", ".pt", ".json", ".txt", ".model", ".jinja")
_OTHER_RUNTIMES = ("onnx", "openvino")
# For the first answer of the hub.
_SECONDS = 10


def check_installed(*modules: str) -> None:
    """Raises :class:`ConfigError` if one of the libraries of the extra ``features`` is missing."""
    for module in modules:
        if not find_spec(module):
            raise ConfigError(
                f"Features are made with {module.replace('_', '-')}, which is not installed: "
                "pip install 'lirdrec-pyg[features]'."
            )


@dataclass(frozen=True)
class Pretrained:
    """Where a pretrained model is.

    Attributes:
        name: a local folder, or a name on the hub.
        option: what named it, for messages.
        commit: its state on the hub; ``None`` for a folder, and where the hub can't be reached.
        local: whether only files of this machine are read, such as those that were downloaded before.
    """

    name: str
    option: str
    commit: str | None
    local: bool

    @classmethod
    def find(cls, name: str, option: str) -> "Pretrained":
        """The model that ``option`` names.

        Raises:
            ConfigError: if there is no such folder, or the hub knows no such model.
        """
        check_installed("transformers")
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError

        if os.path.isdir(name):
            return cls(name, option, None, local=True)
        if name.startswith((".", "/", "~", "\\")):
            raise ConfigError(f"{option} is {name}, and there is no such folder: name one, or a model on the hub.")
        try:
            return cls(name, option, HfApi().model_info(name, timeout=_SECONDS).sha, local=False)
        except HfHubHTTPError as error:
            if error.response.status_code in (401, 403, 404):
                raise ConfigError(
                    f"{option} {name} is not on the hub for you to read ({first_line(error)}): name a local folder of "
                    "the model, or one of the hub's models."
                ) from error
        except ValueError as error:  # no name that a model could have
            raise ConfigError(f"{option} is {name!r}: name a local folder, or a model on the hub.") from error
        except Exception:  # no way to the hub, by whatever client it uses
            pass
        return cls(name, option, None, local=True)

    @property
    def arguments(self) -> dict[str, Any]:
        """What ``from_pretrained`` takes beside the name."""
        return {"local_files_only": self.local, "revision": self.commit, "trust_remote_code": False}

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Loads the model without the talk of its libraries; what goes wrong becomes one sentence.

        Raises:
            ConfigError: if the model can't be loaded.
        """
        from transformers.utils import logging

        verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        except LIRDRecError:
            raise
        except Exception as error:  # a folder may hold anything, and libraries raise many kinds
            raise ConfigError(f"{self.option} {self.name} can't be loaded {self._reason(error)}.") from error
        finally:
            logging.set_verbosity(verbosity)
            if bars:
                logging.enable_progress_bar()

    def _reason(self, error: Exception) -> str:
        if self.local and not os.path.isdir(self.name):
            return "(the hub can't be reached, and it was not downloaded before): name a local folder of the model"
        return f"({first_line(error)}): name a folder that a model of this kind was saved to, or another on the hub"

    def check_complete(self, missing: Iterable[str]) -> None:
        """Raises :class:`ConfigError` if weights are ``missing``, which would be drawn at random."""
        if missing := sorted(missing):
            raise ConfigError(
                f"{self.option} {self.name} lacks weights for this use, such as {missing[0]}: name a model that has "
                "them."
            )

    def revision(self, config: Any) -> str | None:
        """What tells one state of the model from another: the commit on the hub, or the checksum of a folder.

        Args:
            config: of the model as it was loaded.
        """
        if not os.path.isdir(self.name):
            return self.commit or getattr(config, "_commit_hash", None)
        digest = hashlib.sha256()
        for path in sorted(Path(self.name).rglob("*")):
            parts = path.relative_to(self.name).parts
            left_out = any(part.startswith(".") or part in _OTHER_RUNTIMES for part in parts)
            if path.suffix in _MODEL_SUFFIXES and path.is_file() and not left_out:
                digest.update(f"{checksum(path)}  {'/'.join(parts)}\n".encode())
        return f"sha256:{digest.hexdigest()}"


def described_tokenizer(tokenizer: Any) -> dict[str, Any]:
    """What becomes of a text before the model, as far as it can be told; the rest is in the model's revision."""
    return {"tokenizer": type(tokenizer).__name__, "cut_at": getattr(tokenizer, "truncation_side", None)}


def torch_dtype(dtype: EncoderDtype) -> torch.dtype:
    """The type that ``--dtype`` names."""
    return getattr(torch, dtype)
