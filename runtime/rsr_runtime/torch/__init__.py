"""PyTorch modules and operators on top of a `.rsr` file; needs the extra `torch`.

Example:
    from rsr_runtime.torch import accelerate
    print(accelerate(model, "model.rsr"))  # any loaded model: its linear layers, in place
"""

try:
    import torch  # noqa: F401
except ImportError as error:
    raise ImportError(
        "rsr_runtime.torch needs the package torch: pip install 'rsr-ternary[torch]'", name="torch"
    ) from error

from .accelerate import Acceleration, accelerate
from .embedding import RsrEmbedding
from .errors import AccelerateError, DeviceError
from .linear import NormalizedRsrLinear, RsrLinear, linear_all

__all__ = [
    "AccelerateError",
    "Acceleration",
    "DeviceError",
    "NormalizedRsrLinear",
    "RsrEmbedding",
    "RsrLinear",
    "accelerate",
    "linear_all",
]
