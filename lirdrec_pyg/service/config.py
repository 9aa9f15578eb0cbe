from dataclasses import dataclass

from lirdrec_pyg.config import Config, field


@dataclass(frozen=True)
class ServiceConfig(Config):
    """Where a service listens, who may use it, and what a request may ask for."""

    host: str = field("127.0.0.1", "Address to listen on; 0.0.0.0 for all addresses of the machine.")
    port: int = field(8000, "Port to listen on.", min=1, max=65_535)
    workers: int = field(
        1, "Processes. Each holds the model in memory; items can be added by requests only if there is one.", min=1
    )
    token_file: str | None = field(
        None,
        "File with the token that every request must send. Without it, the token is in the environment variable "
        "LIRDREC_TOKEN, or there is none.",
    )
    max_k: int = field(500, "Items per user that a request may ask for.", min=1)
    max_users: int = field(256, "Users, or new items, per request.", min=1)
    max_body: int = field(1024, "Size of the body of a request, in KiB.", min=1)
    poll_seconds: float = field(1.0, "How often to check whether RUN was replaced.", min=0, min_open=True)
    image_root: str | None = field(
        None, "Folder of the item images that the page at / shows; by default that of the training."
    )
    compare: str | None = field(None, "A second run, whose lists the page at / shows beside those of RUN.")
