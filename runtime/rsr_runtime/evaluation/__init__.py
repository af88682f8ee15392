"""Run lm-evaluation-harness with a `.rsr` file; needs the extra `eval` (lm-eval).

Example:
    from rsr_runtime import llm
    from rsr_runtime.evaluation import evaluate
    with llm.load("model.rsr") as model:
        print(evaluate(model, ["arc_easy"], num_fewshot=5, limit=100)["results"])

`import rsr_runtime.evaluation` also registers the model "rsr" for `lm_eval.simple_evaluate`.
"""

from ..llm import DependencyError

try:
    import lm_eval  # noqa: F401
except ImportError as error:
    raise DependencyError("lm-eval", "an evaluation", extra="eval") from error

from .errors import TaskError
from .lm import RsrLM
from .run import evaluate

__all__ = ["RsrLM", "TaskError", "evaluate"]
