"""The recommender as a service over HTTP, which reloads its run when it is replaced."""

from lirdrec_pyg.service.config import ServiceConfig
from lirdrec_pyg.service.live import LiveRun
from lirdrec_pyg.service.server import serve

__all__ = ["LiveRun", "ServiceConfig", "serve"]
