"""The process in which chat templates run; `template.py` starts it as a script.

It imports the standard library and Jinja only. Requests and answers are JSON, one per line. The
first request has the import path, the limits and the template, and its answer says that the process
is ready; each later request has the variables of one rendering.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jinja2


class Refusal(Exception):  # noqa: N818 (not an error of the template)
    """The template called `raise_exception`: it rejects the messages."""


def main() -> None:
    """Serve requests until the end of standard input."""
    settings = json.loads(sys.stdin.buffer.readline())
    sys.path[:] = settings["path"]
    cpu = _Limits(settings["memory"], settings["seconds"])
    environment = make_environment(settings["characters"])
    _answer({"ready": True})
    template = None
    for line in iter(sys.stdin.buffer.readline, b""):
        variables = json.loads(line)
        cpu.start()
        try:
            if template is None:
                template = environment.from_string(settings["source"])
            text = _render(template, variables, settings["characters"])
            answer = {"text": text}
        except Refusal as error:
            answer = {"refusal": str(error)}
        except MemoryError:
            answer = {"error": f"it takes more than {settings['memory'] >> 20} MiB of memory"}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        cpu.stop()
        _answer(answer)


def _answer(value: dict[str, Any]) -> None:
    sys.stdout.buffer.write(json.dumps(value).encode() + b"\n")
    sys.stdout.buffer.flush()


class _Limits:
    """Limits memory for good and processor time for each rendering, if the system can."""

    def __init__(self, memory: int, seconds: float) -> None:
        self._seconds = seconds
        datetime.now().strftime("%c")  # loads time zone and locale before memory is limited
        try:
            import resource
            import signal
        except ImportError:  # Windows: only the parent limits the time
            self._signal = None
            return
        self._signal = signal
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
        signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process even within a C function
        for what, limit in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CORE, 0)):
            hard = resource.getrlimit(what)[1]
            if hard == resource.RLIM_INFINITY or limit <= hard:
                # macOS refuses a limit of memory below what it has mapped for any process.
                with suppress(ValueError, OSError):
                    resource.setrlimit(what, (limit, limit))

    def start(self) -> None:
        self._set(self._seconds)

    def stop(self) -> None:
        self._set(0)

    def _set(self, seconds: float) -> None:
        if self._signal is not None:
            self._signal.setitimer(self._signal.ITIMER_PROF, seconds)


def _render(template: jinja2.Template, variables: dict[str, Any], limit: int) -> str:
    """Render a text, but stop as soon as it is too long."""
    parts, length = [], 0
    for part in template.generate(variables):
        parts.append(part)
        length += len(part)
        if length > limit:
            raise ValueError(f"its text has more than {limit:,} characters")
    return "".join(parts)


def make_environment(limit: int) -> jinja2.Environment:
    """Return the environment that ``transformers`` gives chat templates, with limits.

    Args:
        limit: items or digits that one operation may make. It gives a better message than the
            limit of memory, and replaces it on systems that lack that.
    """
    import jinja2.ext
    import jinja2.sandbox
    import jinja2.utils

    class Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(["*", "**"])

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if _size(operator, left, right) > limit:
                raise ValueError(
                    f"the result of {operator} has more than {limit:,} items or digits"
                )
            return super().call_binop(context, operator, left, right)

    class Namespace(jinja2.utils.Namespace):
        """Rejects names that begin with an underscore."""

        def __init__(*args: Any, **kwargs: Any) -> None:  # "self" may be a key
            self, *rest = args
            values = dict(*rest, **kwargs)
            for name in values:
                _check_name(name)
            jinja2.utils.Namespace.__init__(self, values)

        def __setitem__(self, name: str, value: Any) -> None:
            _check_name(name)
            super().__setitem__(name, value)

    class Generation(jinja2.ext.Extension):
        """{% generation %} marks assistant text for training; here it is plain text."""

        tags = {"generation"}  # noqa: RUF012 (as Jinja declares it)

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            # A call block opens a scope, as in transformers.
            return jinja2.nodes.CallBlock(self.call_method("_text"), [], [], body).set_lineno(line)

        def _text(self, caller: Any) -> Any:
            return caller()

    def to_json(
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        # Jinja's own filter escapes HTML.
        return json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )

    def make_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
        # The type itself would expose attributes that lead to all of Python.
        return dict(*args, **kwargs)

    def refuse(message: object) -> None:
        raise Refusal(str(message))

    environment = Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals |= {
        "raise_exception": refuse,
        "strftime_now": lambda form: datetime.now().strftime(form),
        "dict": make_dict,
        "namespace": Namespace,
    }
    return environment


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise ValueError(f"a namespace cannot have the attribute {name!r}")


def _size(operator: str, left: Any, right: Any) -> int:
    """Return about how many items or digits a result has; 0 if it cannot be large."""
    for one, other in ((left, right), (right, left)):
        if isinstance(one, (str, list, tuple)) and isinstance(other, int):
            return len(one) * other
    if not (isinstance(left, int) and isinstance(right, int)):
        return 0
    digits = left.bit_length() * 3 // 10
    return digits * abs(right) if operator == "**" else digits + right.bit_length() * 3 // 10


if __name__ == "__main__":
    main()
