from pathlib import Path
from typing import Any

import click

from lirdrec_pyg.cli.options import config_options, device_option, run_argument, take
from lirdrec_pyg.service import ServiceConfig
from lirdrec_pyg.service import serve as serve_run


@click.command()
@run_argument
@config_options(ServiceConfig)
@device_option
def serve(run: Path, device: str, **values: Any) -> None:
    """Answer requests over HTTP by the trained model in RUN, until the process is stopped.

    RUN may be a symbolic link. When it is pointed to another run, or the run is written again, the service loads it
    and answers all later requests from it, without dropping any. A broken run is reported, and the earlier one stays.

    A page at the address of the service shows what the model recommends: images and titles, reasons, similar items,
    and a list that follows clicks on items.

    Needs the extra 'serve': pip install 'lirdrec-pyg[serve]'.

    \b
    Start the service, and ask it:
      lirdrec-pyg serve runs/current
      curl http://127.0.0.1:8000/recommend --json '{"users": ["u1"], "k": 5}'
    Open http://127.0.0.1:8000 in a browser, and see the lists of two runs side by side:
      lirdrec-pyg serve runs/current --compare runs/candidate
    Require a token, and use four processes:
      LIRDREC_TOKEN=... lirdrec-pyg serve runs/current --workers 4
    """
    serve_run(run, device, take(ServiceConfig, values))
