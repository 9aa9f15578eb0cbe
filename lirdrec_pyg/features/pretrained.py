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

from lirdrec_pyg.errors import ConfigError, LIRDRecError, first_line
from lirdrec_pyg.files import checksum

# A model folder may also hold documents, and copies of the model for other runtimes.
_MODEL_SUFFIXES = (".safetensors", ".bin", ".pt", ".json", ".txt", ".model", ".jinja")
_OTHER_RUNTIMES = ("onnx", "openvino")
_HUB_TIMEOUT = 10
_MODULES = {"pillow": "PIL", "sentence-transformers": "sentence_transformers"}


def check_installed(*packages: str) -> None:
    """Raise :class:`ConfigError` if a library of the extra ``features`` is missing."""
    for package in packages:
        if not find_spec(_MODULES.get(package, package)):
            raise ConfigError(
                f"Features need {package}, which is not installed. Run pip install 'lirdrec-pyg[features]'."
            )


@dataclass(frozen=True)
class Pretrained:
    """Location of a pretrained model.

    Attributes:
        name: local folder, or name on the Hugging Face Hub.
        commit: commit on the hub; ``None`` for a folder, or if the hub cannot be reached.
        local: whether to read only local files, such as those that were downloaded earlier.
    """

    name: str
    commit: str | None
    local: bool

    @classmethod
    def find(cls, name: str, packages: Iterable[str] = ()) -> "Pretrained":
        """Locate a model that needs ``packages``, without loading it.

        Raises:
            ConfigError: if the folder does not exist, the hub has no such model, or a library is missing.
        """
        check_installed(*packages, "transformers")
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError

        if os.path.isdir(name):
            return cls(name, None, local=True)
        if name.startswith((".", "/", "~", "\\")):
            raise ConfigError(f"The model folder {name} does not exist. Pass another folder, or a model of the hub.")
        try:
            return cls(name, HfApi().model_info(name, timeout=_HUB_TIMEOUT).sha, local=False)
        except HfHubHTTPError as error:
            if error.response.status_code in (401, 403, 404):
                raise ConfigError(
                    f"The hub has no model {name!r} that you may read ({first_line(error)}). Pass another one, or a "
                    "local folder."
                ) from error
        except ValueError as error:  # not a valid model name
            raise ConfigError(f"{name!r} is not a model. Pass a local folder, or a model of the hub.") from error
        except Exception:  # hub out of reach; the error depends on the HTTP client
            pass
        return cls(name, None, local=True)

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of ``from_pretrained`` besides the name."""
        return {"local_files_only": self.local, "revision": self.commit, "trust_remote_code": False}

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Silence the libraries while the model is loaded, and raise :class:`ConfigError` if that fails."""
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
        except Exception as error:  # a folder may hold anything, and the libraries raise many types
            if self.local and not os.path.isdir(self.name):
                reason = "(the hub cannot be reached, and it was not downloaded before). Pass a local folder"
            else:
                reason = f"({first_line(error)}). Pass a local folder or a model of the hub that is of the right kind"
            raise ConfigError(f"Cannot load the model {self.name} {reason}.") from error
        finally:
            logging.set_verbosity(verbosity)
            if bars:
                logging.enable_progress_bar()

    def load(self, kind: Any, dtype: torch.dtype) -> tuple[Any, set[str]]:
        """Load a model by a class such as ``AutoModel``; return it, and the names of weights that are missing."""
        model, report = kind.from_pretrained(self.name, dtype=dtype, output_loading_info=True, **self.arguments)
        return model, set(report["missing_keys"])

    def check_complete(self, missing: Iterable[str]) -> None:
        """Raise :class:`ConfigError` if weights are missing, which would be initialized at random."""
        if missing := sorted(missing):
            raise ConfigError(
                f"The model {self.name} has no weights for this use, such as {missing[0]}. Pass a model that has them."
            )

    def revision(self, config: Any) -> str | None:
        """Return the commit on the hub, or the checksum of a local folder.

        The ``config`` of the loaded model knows the commit of an earlier download.
        """
        if not os.path.isdir(self.name):
            return self.commit or getattr(config, "_commit_hash", None)
        digest = hashlib.sha256()
        for path in sorted(Path(self.name).rglob("*")):
            parts = path.relative_to(self.name).parts
            ignored = any(part.startswith(".") or part in _OTHER_RUNTIMES for part in parts)
            if path.suffix in _MODEL_SUFFIXES and path.is_file() and not ignored:
                digest.update(f"{checksum(path)}  {'/'.join(parts)}\n".encode())
        return f"sha256:{digest.hexdigest()}"
