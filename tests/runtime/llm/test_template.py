"""Chat templates: their text, their errors, and limits for hostile ones."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest

from rsr_runtime.llm import template as module
from rsr_runtime.llm.errors import ModelError, PromptError, TemplateError
from rsr_runtime.llm.template import ChatTemplate
from rsr_testing.process import run_python

USER = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def render() -> Iterator[Callable[..., str]]:
    """Render a template's text with `USER`, and end its process."""
    made = []

    def run(source: str, messages: Any = USER, **variables: Any) -> str:
        made.append(ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"}))
        return made[-1].render(messages, **variables)

    yield run
    for template in made:
        template.close()


Render = Callable[..., str]


class TestText:
    @pytest.mark.parametrize(
        ("source", "expected"),
        [
            ("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}", "<s>Hi</s>"),
            ("{{ add_generation_prompt }} {{ tools }} {{ documents }}", "True None None"),
            ("{% if true %}\n  {% if true %}\na\n  {% endif %}\n{% endif %}\nb\n", "a\nb"),
            ("{% for i in [0, 1, 2] %}{% if i %}{% break %}{% endif %}{{ i }}{% endfor %}", "0"),
            ("{{ {'b': '<é>', 'a': [1]}|tojson }}", '{"b": "<é>", "a": [1]}'),
            ("{{ {'b': 1, 'a': 2}|tojson(indent=1, sort_keys=true) }}", '{\n "a": 2,\n "b": 1\n}'),
            ("{{ 'é'|tojson(ensure_ascii=true) }}{{ [1, 2]|tojson(separators=(',', ':')) }}",
             '"\\u00e9"[1,2]'),
            ("{% set ns = namespace(n=1) %}{% for i in [1, 2] %}{% set ns.n = ns.n + i %}"
             "{% endfor %}{{ ns.n }}", "4"),
            ("{{ dict(a=1).items()|list }}", "[('a', 1)]"),
            ("{% generation %}{{ 'a'|upper }}\n{% endgeneration %}!", "A\n!"),
            ("{{ '<' ~ 3 * 'ab' ~ 2 ** 10 ~ '%s' % 7 }}", "<ababab10247"),
            ("{{ undefined_name }}{{ messages[0].tool_calls is defined }}", "False"),
            ("{{ '\U0001f98a' }}", "\U0001f98a"),
            ("", ""),
        ],
    )  # fmt: skip
    def test_text(self, render: Render, source: str, expected: str) -> None:
        assert render(source) == expected

    def test_today(self, render: Render) -> None:
        before = datetime.now().strftime("%Y-%m-%d")
        found = render("{{ strftime_now('%Y-%m-%d') }}")
        assert before <= found <= datetime.now().strftime("%Y-%m-%d")

    def test_variables(self, render: Render) -> None:
        assert render("{{ enable_thinking }}{{ bos_token }}", enable_thinking=False) == "False<s>"
        assert render("{{ bos_token }}", bos_token="<x>") == "<x>"
        assert render("{{ add_generation_prompt }}", add_generation_prompt=False) == "False"

    def test_keys_of_a_message(self, render: Render) -> None:
        """Nulls are dropped; reasoning is given under each of its names."""
        message = {"role": "assistant", "content": None, "thinking": "hm", "list": [None]}
        found = render("{{ messages[0]|tojson(sort_keys=true) }}", [message])
        assert json.loads(found) == {
            "role": "assistant", "thinking": "hm", "reasoning_content": "hm", "list": [None],
        }  # fmt: skip
        assert message["content"] is None  # the caller's stays as it is

    def test_one_process_for_all(self) -> None:
        """Renderings leave nothing behind, and threads take turns."""
        template = ChatTemplate(
            "{% set n = (n or 0) + 1 %}{{ n }}{{ messages[0].content }}{% for i in range(300) %}"
            "{% endfor %}"
        )
        found: dict[int, list[str]] = {}

        def run(who: int) -> None:
            found[who] = [
                template.render([{"role": "user", "content": f"{who}.{i}"}]) for i in range(20)
            ]

        threads = [threading.Thread(target=run, args=(who,)) for who in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == {who: [f"1{who}.{i}" for i in range(20)] for who in range(4)}
        template.close()

    def test_a_process_that_was_ended_is_replaced(self) -> None:
        template = ChatTemplate("{{ messages[0].content }}")
        assert template.render(USER) == "Hi"
        process = template._worker._process  # type: ignore[union-attr]
        process.kill()
        process.wait()
        assert template.render(USER) == "Hi"
        template.close()
        assert template.render(USER) == "Hi"
        template.close()

    def test_the_process_ends_with_the_template(self) -> None:
        template = ChatTemplate("a")
        template.render(USER)
        process = template._worker._process  # type: ignore[union-attr]
        del template
        gc.collect()
        assert process.returncode is not None

    @pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
    def test_a_system_may_refuse_the_limit_of_memory(self) -> None:
        code = (
            "import resource\n"
            "def refuse(*limits): raise ValueError('current limit exceeds maximum limit')\n"
            "resource.setrlimit = refuse\n"
            "from rsr_runtime.llm.template_worker import main\n"
            "main()\n"
        )
        settings = {"path": sys.path, "source": "{{ a }}", "memory": 1 << 30, "seconds": 9}
        requests = [settings | {"characters": 9}, {"a": "text"}]
        done = subprocess.run(
            [sys.executable, "-c", code],
            input="".join(f"{json.dumps(request)}\n" for request in requests),
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(done.stdout.splitlines()[1]) == {"text": "text"}

    @pytest.mark.skipif(os.name != "posix", reason="signal 0 asks whether a process is there")
    def test_the_process_ends_with_the_program(self) -> None:
        code = (
            "from rsr_runtime.llm.template import ChatTemplate\n"
            "t = ChatTemplate('{{ messages[0].content }}')\n"
            "t.render([{'role': 'user', 'content': 'a'}])\n"
            "print(t._worker._process.pid)\n"
        )
        done = run_python(code)
        assert done.stderr == ""
        with pytest.raises(ProcessLookupError):
            os.kill(int(done.stdout), 0)


class TestFind:
    def test_none(self) -> None:
        assert ChatTemplate.find({}) is None
        assert ChatTemplate.find({"tokenizer_config.json": b"{}"}) is None
        assert ChatTemplate.find({"tokenizer_config.json": b'{"chat_template": null}'}) is None

    def test_order(self) -> None:
        files = {"chat_template.json": b'{"chat_template": "last"}'}
        assert found(files) == "last"
        files["tokenizer_config.json"] = b'{"chat_template": "second"}'
        assert found(files) == "second"
        files["chat_template.jinja"] = "first é".encode()
        assert found(files) == "first é"

    def test_named_ones(self) -> None:
        named = [{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}]
        assert (
            found({"tokenizer_config.json": json.dumps({"chat_template": named}).encode()}) == "b"
        )
        without = json.dumps({"chat_template": named[:1]}).encode()
        with pytest.raises(
            TemplateError, match='found chat templates tool_use, expected one named "default"'
        ):
            ChatTemplate.find({"tokenizer_config.json": without})

    def test_special_tokens(self) -> None:
        config = {"chat_template": "{{ bos_token }}{{ x_token }}", "bos_token": {"content": "<s>"}}
        template = ChatTemplate.find({"tokenizer_config.json": json.dumps(config).encode()})
        assert template is not None
        assert template.render(USER) == "<s>"
        template.close()

    @pytest.mark.parametrize(
        ("files", "error"),
        [
            ({"chat_template.jinja": b"\xff"}, TemplateError),
            ({"chat_template.jinja": bytes((1 << 20) + 1)}, TemplateError),
            ({"tokenizer_config.json": b'{"chat_template": 5}'}, TemplateError),
            ({"tokenizer_config.json": b'{"chat_template": [5]}'}, TemplateError),
            ({"tokenizer_config.json": b'{"chat_template": [{"name": []}]}'}, TemplateError),
            ({"chat_template.json": json.dumps({"chat_template": "a" * (2 << 20)}).encode()},
             TemplateError),
            ({"chat_template.json": b"["}, ModelError),
        ],
    )  # fmt: skip
    def test_refuses(self, files: dict[str, bytes], error: type[Exception]) -> None:
        with pytest.raises(error):
            ChatTemplate.find(files)


def found(files: dict[str, bytes]) -> str:
    template = ChatTemplate.find(files)
    assert template is not None
    return template.source


class TestRefusals:
    @pytest.mark.parametrize(
        "messages",
        [[], "Hi", None, {}, [None], ["Hi"], [{}], [{"content": "a"}], [{"role": 5}],
         [{"role": "user", "content": b"a"}], [{"role": "user", "content": {1j}}]],
    )  # fmt: skip
    def test_messages(self, render: Render, messages: Any) -> None:
        with pytest.raises(PromptError):
            render("a", messages)

    def test_a_template_may_refuse_the_messages(self, render: Render) -> None:
        with pytest.raises(PromptError, match=r"the messages: roles\\n\\x1b\[31mmust alternate$"):
            render("{{ raise_exception('roles\n\x1b[31mmust alternate') }}")

    @pytest.mark.parametrize(
        ("source", "what"),
        [
            ("{% if %}", "TemplateSyntaxError"),
            ("{{ messages[0].a.b }}", "UndefinedError"),
            ("{{ 1 / 0 }}", "ZeroDivisionError"),
            ("{{ 'a' + 1 }}", "TypeError"),
            ("{% include 'a' %}", "TypeError: no loader"),
            ("{% extends 'a' %}", "TypeError: no loader"),
            ("{% import '/etc/passwd' as p %}", "TypeError: no loader"),
            ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
            ("{{ (''|attr('__class__')).mro }}", "SecurityError"),
            ("{{ raise_exception.__globals__.x }}", "SecurityError"),
            ("{{ namespace.__init__.__globals__ }}", "SecurityError"),
            ("{{ '{0.__class__.__mro__}'.format(1) }}", "SecurityError"),
            ("{{ messages.append(1) }}", "SecurityError"),
            ("{{ messages[0].update(role='x') }}", "SecurityError"),
            ("{% set ns = namespace(__class__=1) %}", "ValueError"),
            ("{% set ns = namespace() %}{% set ns.__class__ = 1 %}", "ValueError"),
            ("{{ dict.mro() }}", "UndefinedError"),
            ("{{ cycler.__init__.__globals__.os }}", "SecurityError"),
        ],
    )  # fmt: skip
    def test_failures(self, render: Render, source: str, what: str) -> None:
        with pytest.raises(TemplateError, match=f"^the model's chat template fails: .*({what})"):
            render(source)

    def test_too_long(self) -> None:
        with pytest.raises(TemplateError, match="1,048,577 characters, expected at most 1,048,576"):
            ChatTemplate("a" * ((1 << 20) + 1))


DEEP = "{% set x = ['a'] %}" + "{% set x = [x, x] %}" * 40  # 2^40 references to one list

ENDLESS = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}"
    "{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
    "a filter over a filter": "{{ ([range(99999)] * 99999)|map('sum')|sum }}",
    "macros that branch": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}"
    "{% endmacro %}{{ m(60) }}",
    "a block within itself": "{% block b %}{% if messages|length < 9 %}"
    "{% for i in range(9) %}{{ self.b() }}{% endfor %}{% endif %}{% endblock %}",
    "a recursive loop": "{% for x in [[]] recursive %}{{ loop([x, x]) }}{% endfor %}",
    "a macro without end": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "a list within lists, compared": DEEP
    + DEEP.replace("set x", "set y").replace("[x, x]", "[y, y]")
    + "{{ x == y }}",
}

LARGE = {
    "multiplication": "{{ 'a' * 10 ** 10 }}",
    "multiplication of a list": "{{ ([1] * 10 ** 9)|length }}",
    "multiplication in steps": "{{ 'a' * 9999999 * 9999999 }}",
    "powers": "{{ 9 ** (9 ** 9) }}",
    "powers of powers": "{{ (7 ** 9999999) ** 99 }}",
    "doubling": "{% set ns = namespace(t='aaaaaaaa') %}{% for i in range(99) %}"
    "{% set ns.t = ns.t ~ ns.t %}{% endfor %}{{ ns.t|length }}",
    "doubling by addition": "{% set ns = namespace(t=[1]) %}{% for i in range(99) %}"
    "{% set ns.t = ns.t + ns.t %}{% endfor %}{{ ns.t|length }}",
    "center": "{{ 'a'|center(10 ** 10) }}",
    "a method": "{{ 'a'.ljust(10 ** 10)|length }}",
    "zfill": "{{ 'a'.zfill(9999999999)|length }}",
    "replace": "{{ (('a' * 999999)|replace('a', 'b' * 999999))|length }}",
    "join": "{{ (['b' * 999999] * 999999)|join|length }}",
    "indent": "{{ ('a\n' * 99999)|indent(9999999)|length }}",
    "format": "{{ '%9999999999d'|format(1) }}",
    "percent": "{{ '%*d' % (9999999999, 1) }}",
    "str.format": "{{ '{:9999999999}'.format(1)|length }}",
    "batch": "{{ [1]|batch(9999999999, 'x')|list|length }}",
    "lipsum": "{{ lipsum(n=99999999)|length }}",
    "bytes": "{{ (1).to_bytes(9999999999, 'big')|length }}",
    "round": "{{ 1|round(999999999, 'ceil') }}",
    "many variables": "".join(f"{{% set a{i} = 'x{i}' * 4000000 %}}" for i in range(4000)),
    "output without end": "{% for a in range(99999) %}{% for b in range(99999) %}aaaaaaaaaaaa"
    "{% endfor %}{% endfor %}",
    "a list within lists": DEEP + "{{ x }}",
    "a list within lists, as JSON": DEEP + "{{ x|tojson }}",
    "deep nesting": "{{ " + "[" * 100_000 + "]" * 100_000 + " }}",
    "deep parentheses": "{{ " + "(" * 300_000 + "1" + ")" * 300_000 + " }}",
    "deep blocks": "{% if a %}" * 30_000 + "{% endif %}" * 30_000,
    "many operators": "{{ 1" + "+1" * 300_000 + " }}",
}


# Only Linux limits the memory of a process; elsewhere these would fill it until the time is up.
linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux only")


class TestHostile:
    @pytest.mark.parametrize(
        "source",
        [*ENDLESS.values(), *(pytest.param(source, marks=linux) for source in LARGE.values())],
        ids=[*ENDLESS, *LARGE],
    )
    def test_ends(self, render: Render, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
        """A limit on time, memory, length or depth ends it, whichever is reached first."""
        monkeypatch.setattr(module, "MAX_CPU", 0.25)
        with pytest.raises(TemplateError, match=r"^the model's chat template (takes|fails|ends)"):
            render(source)

    def test_a_limit_is_named_and_the_next_rendering_works(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "MAX_CPU", 0.25)
        template = ChatTemplate(
            "{% if messages|length > 1 %}" + ENDLESS["nested loops"] + "{% endif %}{{ bos_token }}",
            {"bos_token": "<s>"},
        )
        assert template.render(USER) == "<s>"
        before = time.monotonic()
        with pytest.raises(TemplateError, match=r"than (0\.25 seconds of processor|10 seconds)"):
            template.render(USER * 2)
        assert time.monotonic() - before < 12
        assert template.render(USER) == "<s>"
        template.close()

    def test_the_clock_is_a_limit_too(
        self, render: Render, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """For systems without a limit on processor time."""
        monkeypatch.setattr(module, "MAX_WAIT", 0.25)
        with pytest.raises(TemplateError, match=r"takes more than 0\.25 seconds$"):
            render(ENDLESS["nested loops"])

    @linux
    def test_memory_stays_within_the_limit(self) -> None:
        """The largest process that was ended is measured, in a program of its own."""
        code = (
            "import json, resource, sys\n"
            "from rsr_runtime.llm.errors import TemplateError\n"
            "from rsr_runtime.llm.template import ChatTemplate\n"
            "for source in json.load(sys.stdin):\n"
            "    try: ChatTemplate(source).render([{'role': 'user'}])\n"
            "    except TemplateError: continue\n"
            "    print(source, 'was rendered')\n"
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
        )
        names = ["many variables", "a method", "indent"]
        done = run_python(code, stdin=json.dumps([LARGE[name] for name in names]))
        assert int(done.stdout) << 10 <= module.MAX_MEMORY, done.stderr
