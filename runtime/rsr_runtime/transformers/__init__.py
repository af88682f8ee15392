"""Models of transformers whose linear layers are in a `.rsr` file; needs the extra `transformers`.

Importing this package is enough for `from_pretrained` to load what `rsrc export-transformers`
wrote.

Example:
    import rsr_runtime.transformers
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained("DIRECTORY")
"""

try:
    import transformers  # noqa: F401
except ImportError as error:
    raise ImportError(
        "rsr_runtime.transformers needs the package transformers: "
        "pip install 'rsr-ternary[transformers]'",
        name="transformers",
    ) from error

from .config import RsrConfig
from .quantizer import RsrQuantizer

__all__ = ["RsrConfig", "RsrQuantizer"]
