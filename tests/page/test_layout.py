"""Width of a phone, keyboard, screen readers, themes, and long conversations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rsr_testing.chat_page import ChatPage, conversation_file
from rsr_testing.servers import Running

PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
RICH = """# Title

Text with a [link](https://example.com) and `code`, and averylongword""" + (
    "x" * 300
    + """

```python
value = "a long line of code that is wider than a telephone, and wider than a column of text" * 3
```

| a column | another column | a third column | a fourth column | a fifth column | a sixth |
|-|-|-|-|-|-|
| somewhat long text | somewhat long text | somewhat long text | somewhat long text | x | y |

1. one
   - two
"""
)
CONVERSATION = conversation_file(
    [
        {"role": "user", "content": "A question " + "y" * 200},
        {"role": "assistant", "content": RICH, "reasoning": "z" * 300, "reasoningMs": 2000},
        {"role": "user", "content": "Another question"},
        {"role": "assistant", "content": "", "finish": "error", "error": "The server is busy."},
    ],
    title="A title that is longer than the list of conversations is wide",
)


@pytest.fixture(params=["light", "dark"])
def theme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _shown(page: ChatPage) -> ChatPage:
    page.open({"temperature": 0.7}).import_file(CONVERSATION)
    page.page.evaluate("document.querySelector('.entry-open').click()")
    page.wait(".message .error")
    return page


def _overflow(page: Any) -> Any:
    return page.evaluate(
        """() => ['html', 'body', '#scroller', '#sidebar', 'dialog[open]'].map((name) => {
          const element = document.querySelector(name);
          return element ? element.scrollWidth - element.clientWidth : 0;
        })"""
    )


def test_nothing_is_wider_than_a_phone(running: Running, new_page: Callable[..., ChatPage]) -> None:
    chat = _shown(new_page(running.url, **PHONE))
    page = chat.page
    page.click(".reasoning summary")
    assert _overflow(page) == [0] * 5
    outside = page.evaluate(
        """() => [...document.querySelectorAll('.message *, header *, form *')].filter((element) =>
             !element.closest('.code, .table, svg, .only-read') && element.checkVisibility()
             && element.getBoundingClientRect().right > innerWidth).map((e) => e.outerHTML)"""
    )
    assert outside == []
    page.click("#show-settings")
    assert _overflow(page) == [0] * 5
    page.keyboard.press("Escape")
    chat.press("Show the list of conversations")
    assert page.evaluate("document.activeElement.id") == "close-sidebar"
    assert page.evaluate("document.querySelector('main').inert")
    chat.press("Rename " + "A title that is longer than the list of conversations is wide")
    assert _overflow(page) == [0] * 5
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    page.wait_for_selector("#sidebar", state="hidden")
    page.fill("#prompt", "a\nb")
    page.keyboard.press("Enter")  # a new line, as there is no Shift+Enter
    assert page.input_value("#prompt") == "a\nb\n"
    page.fill("#prompt", "Hello")
    page.tap("#send")
    chat.wait(".message.live, .message:last-child .figures")
    chat.page.keyboard.press("Escape")


def _views(chat: ChatPage, is_narrow: bool) -> Iterator[str]:
    """Show what the page can show, one view after another."""
    page = chat.page
    yield "conversation"
    page.click(".reasoning summary")
    page.click(".message .error", force=True)
    yield "reasoning"
    page.get_by_role("button", name="Edit", exact=True).first.click(force=True)
    yield "editor"
    page.keyboard.press("Escape")
    page.keyboard.press("Control+Comma")
    page.fill("#setting-schema", "[]")
    yield "settings"
    page.keyboard.press("Escape")
    page.keyboard.press("Control+/")
    yield "shortcuts"
    page.keyboard.press("Escape")
    if is_narrow:
        chat.press("Show the list of conversations")
        yield "sidebar"
    page.fill("#search", "question")
    chat.wait(".entry mark")
    yield "search"
    page.get_by_role("button", name="Delete A title", exact=False).click(force=True)
    yield "question"
    page.keyboard.press("Escape")
    chat.import_file(b"{")
    yield "notice"
    page.keyboard.press("Control+Shift+O")
    yield "empty"


@pytest.mark.parametrize("is_narrow", [False, True], ids=["wide", "narrow"])
def test_axe_finds_nothing(
    theme: str, is_narrow: bool, running: Running, new_page: Callable[..., ChatPage]
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    viewport = PHONE["viewport"] if is_narrow else {"width": 1280, "height": 800}
    options = {"viewport": viewport, "color_scheme": theme, "reduced_motion": "reduce"}
    chat = _shown(new_page(running.url, **options))
    found = []
    for view in _views(chat, is_narrow):
        for one in axe.run(chat.page).response["violations"]:
            found.append((view, one["id"], [node["html"] for node in one["nodes"]]))
    assert found == []


def test_theme_switch(running: Running, new_page: Callable[..., ChatPage]) -> None:
    chat = new_page(running.url, color_scheme="dark").open()
    page = chat.page

    def color() -> Any:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    dark = color()
    page.get_by_role("button", name="Theme: system").click()
    light = color()
    assert light != dark
    page.reload()
    assert color() == light
    page.get_by_role("button", name="Theme: light").click()
    assert color() == dark
    page.emulate_media(color_scheme="light")
    assert color() == dark
    page.get_by_role("button", name="Theme: dark").click()
    assert color() == light


def test_keyboard_alone(chat: ChatPage) -> None:
    page = chat.page

    def focused() -> str:
        return str(
            page.evaluate("document.activeElement.getAttribute('aria-label') "
                          "|| document.activeElement.textContent.trim()")
        )  # fmt: skip

    def tab_to(name: str, key: str = "Tab") -> None:
        for _ in range(40):
            page.keyboard.press(key)
            if focused() == name:
                return
        raise AssertionError(f"Tab does not come to {name}")

    page.keyboard.type("First line")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("second line")
    page.keyboard.press("Enter")
    chat.wait_for_answer()
    assert chat.texts("user") == ["First line\nsecond line"]
    assert focused() == "Message"

    tab_to("Regenerate", "Shift+Tab")
    page.keyboard.press("Enter")
    chat.wait_for_answer()
    page.focus("#prompt")
    tab_to("Previous version", "Shift+Tab")
    page.keyboard.press("Enter")
    assert page.inner_text(".assistant .branch") == "1 / 2"
    assert focused() == "Next version"  # there is no previous one any more

    page.focus("#prompt")
    page.keyboard.press("ArrowUp")
    assert focused() == "Edit message"
    page.keyboard.press("Control+a")
    page.keyboard.type("Edited")
    page.keyboard.press("Enter")
    chat.wait_for_answer()
    assert chat.texts("user") == ["Edited"]

    page.keyboard.press("Control+Comma")
    assert page.is_visible("#settings")
    page.keyboard.press("Escape")
    assert page.is_hidden("#settings")
    page.keyboard.press("Control+/")
    assert page.is_visible("#shortcuts")
    page.keyboard.press("Enter")
    assert page.is_hidden("#shortcuts")
    page.keyboard.press("Control+Shift+O")
    assert chat.texts("user") == []
    page.keyboard.press("Control+k")
    assert focused() == "Search conversations"
    tab_to("First line second line")
    page.keyboard.press("Enter")
    chat.wait(".message")
    assert focused() == "Message"


def test_a_screen_reader_hears_little(chat: ChatPage) -> None:
    chat.page.evaluate(
        """() => {
          window.said = [];
          new MutationObserver(() => said.push(document.getElementById('status').textContent))
            .observe(document.getElementById('status'), { childList: true });
        }"""
    )
    chat.send("Hello")
    said = chat.page.evaluate("said")
    assert said[0] == "Waiting for the answer"
    assert said[1].startswith("Answer: ")
    assert len(said) == 2
    assert chat.page.locator("[aria-live]:not(.wrong)").count() == 0  # no other region speaks


def _work(page: Any) -> Callable[[], float]:
    """Return a function for the seconds of scripts, style and layout since its last call."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    before = 0.0

    def since() -> float:
        nonlocal before
        metrics = {m["name"]: m["value"] for m in session.send("Performance.getMetrics")["metrics"]}
        total = sum(metrics[f"{name}Duration"] for name in ("Script", "RecalcStyle", "Layout"))
        spent, before = total - before, total
        return float(spent)

    since()
    return since


def test_500_messages_are_smooth(running: Running, new_page: Callable[..., ChatPage]) -> None:
    """An answer costs what it costs in a new conversation, and opening is quick."""
    settings = {"max_tokens": 1500}
    chat = new_page(running.url).open(settings)
    work = _work(chat.page)
    chat.send("Go on")
    alone = work()

    text = RICH.replace("x" * 300, "")
    turns = [
        {"role": role, "content": f"{i}: {text}"}
        for i in range(250)
        for role in ("user", "assistant")
    ]
    long = new_page(running.url, viewport={"width": 1280, "height": 800}).open(settings)
    long.import_file(conversation_file(turns))
    work = _work(long.page)
    long.page.click(".entry-open")
    long.wait(".message:nth-child(500) table")
    opening = work()
    assert long.page.locator(".message").count() == 500
    shown = long.page.locator(".message.assistant .text:not(.raw)").count()
    assert shown < 50  # the others are plain text until they are near
    end = "el => Math.abs(el.scrollHeight - el.clientHeight - el.scrollTop) < 2"
    long.until(lambda: bool(long.page.eval_on_selector("#scroller", end)))

    long.page.evaluate("document.getElementById('scroller').scrollTop = 0")
    long.wait(".message:nth-child(2) table")
    scrolling = work()

    # 500 messages are far beyond the context: the answer of a branch at the start.
    long.page.locator(".message.user").first.get_by_role("button", name="Edit").click(force=True)
    long.page.get_by_label("Edit message").fill("Go on")
    work()
    long.page.keyboard.press("Enter")
    long.wait_for_answer()
    answering = work()
    print(f"{alone=:.3f} {opening=:.3f} {scrolling=:.3f} {answering=:.3f} s")
    assert opening < 0.5
    assert scrolling < 0.5
    assert answering < 3 * alone + 0.2
