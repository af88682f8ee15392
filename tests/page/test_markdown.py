"""Markdown: what it becomes, and that a growing text is cheap."""

from __future__ import annotations

from typing import Any

import pytest

from rsr_testing.chat_page import ChatPage, conversation_file

TEXT = """A *first* paragraph with `code`.

## Heading

1. one
2. two
   - nested

| left | right |
|:-----|------:|
| 1    | 2     |

```python
def double(x):
    return 2 * x
```

> A quotation with a [link](https://example.com/).

- [x] done

![dot](data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==)
"""


@pytest.fixture
def shown(chat: ChatPage) -> Any:
    answer = {"role": "assistant", "content": TEXT, "reasoning": "Because."}
    chat.import_file(conversation_file([{"role": "user", "content": "*Raw* <b>"}, answer]))
    chat.page.click(".entry-open")
    chat.wait(".assistant table")
    return chat.page


def test_elements(shown: Any) -> None:
    text = shown.locator(".assistant .text")
    assert text.locator("h4").inner_text() == "Heading"
    assert text.locator("ol > li > ul > li").inner_text() == "nested"
    assert text.locator("td").all_inner_texts() == ["1", "2"]
    assert text.locator("td[align=right]").inner_text() == "2"
    assert text.locator("blockquote a").get_attribute("href") == "https://example.com/"
    assert text.locator("pre .hljs-keyword").all_inner_texts() == ["def", "return"]
    assert text.locator(".code-top span").inner_text() == "Python"
    assert text.locator("img").evaluate("image => image.naturalWidth") == 1
    assert shown.inner_text(".user .text") == "*Raw* <b>"  # as it was written


def test_reasoning_is_collapsed(shown: Any) -> None:
    assert shown.is_hidden(".reasoning-text")
    shown.click(".reasoning summary")
    assert shown.inner_text(".reasoning-text") == "Because."


@pytest.mark.parametrize("has_clipboard", [True, False])
def test_copy(has_clipboard: bool, chat: ChatPage, shown: Any) -> None:
    shown.context.grant_permissions(["clipboard-read", "clipboard-write"])
    if not has_clipboard:  # as over plain HTTP from another machine
        shown.evaluate(
            "() => { navigator.clipboard.writeText = () => Promise.reject(new Error()); }"
        )
    shown.get_by_role("button", name="Copy code").click()
    chat.until(lambda: shown.locator("#status").text_content() == "Copied")
    code = "def double(x):\n    return 2 * x"
    assert shown.evaluate("navigator.clipboard.readText()") == code
    shown.get_by_role("button", name="Copy", exact=True).last.click()
    chat.until(lambda: shown.evaluate("navigator.clipboard.readText()") == TEXT)


def test_only_the_last_block_is_made_anew(chat: ChatPage) -> None:
    """However long the text is; in the end it looks like one that was shown at once."""
    made, equal = chat.page.evaluate(
        """async (text) => {
          const { showMarkdown } = await import('/js/markdown.js');
          const grown = document.createElement('div');
          const seen = new Set();
          for (let n = 1; n <= text.length; n += 1) {
            showMarkdown(grown, text.slice(0, n), true);
            for (const node of [...grown.children].slice(0, -1)) seen.add(node);
          }
          const made = seen.size;
          showMarkdown(grown, text);
          const whole = document.createElement('div');
          showMarkdown(whole, text);
          return [made, grown.innerHTML === whole.innerHTML && grown.children.length];
        }""",
        "\n".join(f"Paragraph {i} with some words.\n" for i in range(50)),
    )
    assert equal == 50
    assert made == 49
