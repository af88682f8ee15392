"""Text of a model, or of a file, that tries to be more than text."""

from __future__ import annotations

from rsr_testing.chat_page import ChatPage, conversation_file

HOSTILE = r"""
<script>alert(1)</script>

<img src=x onerror="alert(2)"> <svg onload=alert(3)><p>

<iframe src="https://elsewhere.example/frame"></iframe>
<object data="https://elsewhere.example/o"></object><embed src="https://elsewhere.example/e">
<style>body { background: url(https://elsewhere.example/style) }</style>
<link rel=stylesheet href="https://elsewhere.example/css"><base href="https://elsewhere.example/">
<form action="https://elsewhere.example/"><input name=title autofocus onfocus=alert(4)></form>
<div style="position:fixed;inset:0" onclick=alert(5) id=prompt>over all</div>
<math><mtext></form><form><mglyph><style></math><img src onerror=alert(6)>

[one](javascript:alert(7)) [two](JaVaScRiPt&colon;alert(8)) [three](<java
script:alert(9)>) [four](data:text/html,<script>alert(10)</script>) [five](vbscript:x)
<javascript:alert(11)> [six]( javascript:alert(12)) [ref] ![pixel](https://elsewhere.example/p?q=secret)
![data](data:image/svg+xml,<svg/onload=alert(13)>) ![x](x"onerror="alert(14)) https://elsewhere.example/auto

[ref]: javascript:alert(15) "title\" onmouseover=alert(16)"

| a | b |
|:-|-:|
| <img src=x onerror=alert(17)> | `<script>alert(18)</script>` |

```html"onmouseover="alert(19)
</code></pre><script>alert(20)</script><img src=x onerror=alert(21)>
```

```js
const x = "</span><img src=x onerror=alert(22)>";
```

# <a name=title onclick=alert(23)>heading</a>
&lt;script&gt;alert(24)&lt;/script&gt; &#x3C;img src=x onerror=alert(25)&#x3E;
\<script>alert(26)\</script>
"""

# What of the page is not made of plain text and harmless elements.
_LIVE_PARTS = """() => {
  const found = [];
  const active = /^(script|iframe|object|embed|style|link|base|form|input|math|svg)$/i;
  for (const element of document.querySelectorAll('.message *')) {
    if (element.closest('.tools')) continue;
    if (active.test(element.localName) && !element.closest('.code-top'))
      found.push(element.outerHTML);
    for (const { name, value } of element.attributes) {
      if (/^on|^style$|^srcdoc$|^name$|^id$/i.test(name)) found.push(`${name}=${value}`);
      if (name === 'href' && !element.closest('.code-top') && !/^(https?|mailto):/.test(value))
        found.push(`href=${value}`);
      if (name === 'src' && !/^data:image\\/(png|jpeg|gif|webp);/.test(value))
        found.push(`src=${value}`);
    }
  }
  return found;
}"""


def test_nothing_runs_or_loads(chat: ChatPage) -> None:
    chat.import_file(
        conversation_file(
            [
                {"role": "user", "content": HOSTILE},
                {"role": "assistant", "content": HOSTILE, "reasoning": HOSTILE},
            ],
            title="<img src=x onerror=alert(27)>",
        )
    )
    chat.page.click(".entry-open")
    chat.wait(".message.assistant table")
    chat.page.click(".reasoning summary")
    assert chat.page.evaluate(_LIVE_PARTS) == []
    assert chat.page.locator(".message.assistant img").count() == 0
    text = chat.texts("assistant")[0]
    for shown in ("<script>alert(1)</script>", "<iframe src=", "</code></pre><script>alert(20)"):
        assert shown in text  # nothing is lost
    for button in chat.page.query_selector_all(".message button[aria-label^='Copy']"):
        button.click(force=True)
    chat.page.fill("#search", "onerror")
    chat.wait(".entry mark")
    links = chat.page.eval_on_selector_all(
        ".message a[href]", "all => all.map(a => [a.target, a.rel])"
    )
    assert links
    assert all(link == ["_blank", "noopener noreferrer nofollow"] for link in links)
    # In the end the fixture asserts that no dialog, request or violation of the policy happened.


def test_nothing_runs_while_it_grows(chat: ChatPage) -> None:
    chat.page.evaluate(
        """async (text) => {
          const { showMarkdown } = await import('/js/markdown.js');
          const message = document.createElement('div');
          message.className = 'message';
          const element = document.createElement('div');
          message.append(element);
          document.getElementById('messages').append(message);
          for (let n = 1; n <= text.length; n += 1) showMarkdown(element, text.slice(0, n), true);
        }""",
        HOSTILE,
    )
    chat.page.wait_for_timeout(100)
    assert chat.page.evaluate(_LIVE_PARTS) == []


def test_the_policy_stops_what_gets_through(chat: ChatPage) -> None:
    """Should all else fail; and `faults` would tell."""
    chat.page.evaluate(
        """() => {
          const frame = document.createElement('div');
          document.body.append(frame);
          frame.innerHTML = '<img src=x onerror="window.ran = 1"><p style="color: red">x</p>'
            + '<img src="https://elsewhere.example/p"><iframe src="https://elsewhere.example/">';
        }"""
    )
    chat.until(lambda: len({fault.split()[0] for fault in chat.faults}) >= 4)
    assert chat.page.evaluate("window.ran") is None
    blocked = {fault.split()[0] for fault in chat.faults} - {"request:"}  # began, and was blocked
    assert blocked == {"script-src-attr", "style-src-attr", "img-src", "frame-src"}
    chat.faults.clear()
