import gc
import json
import logging
import os
import socket
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lirdrec_pyg.errors import ConfigError, check_extra
from lirdrec_pyg.recommender.images import ItemImages
from lirdrec_pyg.service.app import create_app
from lirdrec_pyg.service.config import ServiceConfig
from lirdrec_pyg.service.guard import Guard
from lirdrec_pyg.service.live import LiveRun
from lirdrec_pyg.threads import usable_cpus

_log = logging.getLogger(__name__)

TOKEN = "LIRDREC_TOKEN"
# Environment variable with the settings of the worker processes.
_SETTINGS = "LIRDREC_SERVICE"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_MAX_CONNECTIONS = 1000
_SECONDS_TO_FINISH = 30
# While a process imports torch from a slow disk, it does not respond. It would be replaced again and again.
_SECONDS_TO_START = 60


def serve(run: Path, device: str, config: ServiceConfig) -> None:
    """Serve a run until the process is told to end.

    Args:
        run: run folder, or a symbolic link to one, which may be pointed elsewhere at any time.
        device: where to rank.
        config: address, token and limits.

    Raises:
        ConfigError: if a package is missing, the port is taken, the token is invalid, or there is no folder of images.
        RunError: if a run is unfinished or damaged.
    """
    check_extra("serve", "fastapi", "uvicorn", "prometheus_client", "PIL", purpose="Serving")
    import uvicorn

    token = read_token(config)
    if token is None and config.host not in _LOOPBACK:
        _log.warning("Anyone who reaches %s can use this service. Set a token, for example as %s.", config.host, TOKEN)
    _check_port(config.host, config.port)
    lives = _lives(run, device, config)
    ItemImages(lives[0].current.recommender, config.image_root)  # raises the error of a missing folder
    name = " and ".join(live.current.name for live in lives)
    _log.info("Serving %s at http://%s:%s. The API is described at /docs", name, config.host, config.port)
    options: dict[str, Any] = {
        "host": config.host,
        "port": config.port,
        "access_log": False,
        "log_config": None,
        "server_header": False,
        "limit_concurrency": _MAX_CONNECTIONS,
        "timeout_graceful_shutdown": _SECONDS_TO_FINISH,
        "timeout_worker_healthcheck": _SECONDS_TO_START,
    }
    if config.workers == 1:
        uvicorn.run(_app(lives, config, token), **options)
        return
    del lives  # loaded only to report errors once
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        os.environ[_SETTINGS] = json.dumps({"run": str(run), "device": device, "config": asdict(config)})
        uvicorn.run(f"{__name__}:worker_app", factory=True, workers=config.workers, **options)


def worker_app() -> Guard:
    """Return the application of one of several processes."""
    import torch

    settings = json.loads(os.environ[_SETTINGS])
    config = ServiceConfig(**settings["config"])
    logging.basicConfig(format="%(message)s")
    logging.getLogger("lirdrec_pyg").setLevel(logging.INFO)
    torch.set_num_threads(max(1, usable_cpus() // config.workers))
    return _app(_lives(Path(settings["run"]), settings["device"], config), config, read_token(config))


def _lives(run: Path, device: str, config: ServiceConfig) -> list[LiveRun]:
    """Load the run, and the one to compare it with if there is one."""
    return [LiveRun(path, device) for path in (run, *([Path(config.compare)] if config.compare else []))]


def _app(lives: list[LiveRun], config: ServiceConfig, token: str | None) -> Guard:
    app = create_app(lives[0], config, token, *lives[1:])
    # Otherwise all requests wait for half a second now and then, while Python looks for garbage in its libraries.
    gc.collect()
    gc.freeze()
    return app


def read_token(config: ServiceConfig) -> str | None:
    """Return the token that requests must send, ``None`` if there is none.

    Raises:
        ConfigError: if it cannot be read or sent in a header.
    """
    source, token = TOKEN, os.environ.get(TOKEN)
    if config.token_file is not None:
        source = config.token_file
        try:
            token = Path(source).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"Cannot read `token_file` ({error}).") from error
    if token is not None and not (token.isascii() and token.isprintable() and token.strip()):
        raise ConfigError(f"The token in {source} is empty or has other characters than those of ASCII.")
    return token


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise ConfigError(f"Cannot listen on {host}, port {port} ({error}). Pass another `port` or `host`.") from error
