from typing import Literal

from lirdrec_pyg.config import check_choice
from lirdrec_pyg.errors import LIRDRecError

Device = Literal["auto", "cpu", "cuda"]


def resolve_device(device: str) -> str:
    """Return ``"cuda"`` or ``"cpu"``; ``"auto"`` is CUDA where torch can use it.

    Raises:
        LIRDRecError: if CUDA is requested and not available.
    """
    import torch  # here, so that the choices can be listed without loading it

    check_choice("device", device, Device)
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise LIRDRecError("`device='cuda'` is not available: torch finds no CUDA device. Pass `device='cpu'`.")
    if device == "auto":
        return "cuda" if available else "cpu"
    return device
