"""The chat page in a browser, as a person uses it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Page

# Tells `violated` of what the Content-Security-Policy blocks, also while the page loads.
_WATCH = """
addEventListener('securitypolicyviolation', (event) =>
  violated(`${event.effectiveDirective} ${event.blockedURI} ${event.sample}`));
"""


class ChatPage:
    """The page of a server.

    Args:
        page: an empty page of the browser.
        url: of the server.

    Attributes:
        faults: violations of the Content-Security-Policy, requests to elsewhere, dialogs and errors
            of scripts.
    """

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.faults: list[str] = []
        self._url = url
        page.expose_function("violated", lambda text: self.faults.append(text))
        page.add_init_script(_WATCH)
        page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        page.on("dialog", self._dialog)
        page.on("request", lambda request: self._request(request.url))

    def _dialog(self, dialog: Any) -> None:
        self.faults.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _request(self, url: str) -> None:
        if not url.startswith((self._url, "data:", "blob:")):
            self.faults.append(f"request: {url}")

    def open(self, settings: Mapping[str, Any] | None = None) -> ChatPage:
        """Open the page, with settings for new conversations."""
        self.page.goto(self._url)
        if settings is not None:
            text = json.dumps(settings)
            self.page.evaluate("(text) => localStorage.setItem('rsr.settings', text)", text)
            self.page.goto("about:blank")
            self.page.goto(self._url)
        self.wait("#model:has-text('tokens of context')")
        return self

    def wait(self, selector: str) -> Any:
        """Return an element as soon as it is visible."""
        return self.page.wait_for_selector(selector, state="visible")

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so, 10 seconds at most."""
        for _ in range(500):
            if condition():
                return
            self.page.wait_for_timeout(20)
        raise AssertionError("it did not come to be")

    def send(self, text: str) -> None:
        """Send a message and wait for the end of the answer."""
        self.page.fill("#prompt", text)
        self.page.keyboard.press("Enter")
        self.wait_for_answer()

    def wait_for_answer(self) -> None:
        """Wait for the end of the answer."""
        self.page.wait_for_selector("#stop", state="hidden")
        self.page.wait_for_selector(".message.live", state="detached")

    def texts(self, role: str) -> list[str]:
        """Return the messages of a role that are shown."""
        found: list[str] = self.page.locator(f".message.{role} .text").all_text_contents()
        return found

    def press(self, name: str, nth: int = -1) -> None:
        """Press a button by its name."""
        self.page.get_by_role("button", name=name, exact=True).nth(nth).click()

    def export(self, button: str = "Export all") -> bytes:
        """Return the file that a button saves."""
        with self.page.expect_download() as download:
            self.press(button)
        return Path(download.value.path()).read_bytes()

    def conversations(self) -> list[dict[str, Any]]:
        """Return all conversations."""
        found: list[dict[str, Any]] = json.loads(self.export())["conversations"]
        return found

    def import_file(self, data: bytes) -> None:
        """Import a file, and wait until the page says something about it."""
        self.page.evaluate("() => { document.getElementById('status').textContent = ''; }")
        self.page.set_input_files(
            "#import-file",
            {"name": "file.json", "mimeType": "application/json", "buffer": data},
        )
        # wait_for_function evaluates strings in the page, which its policy forbids.
        said = (
            "() => Boolean(document.getElementById('status').textContent"
            " || !document.getElementById('notice').hidden)"
        )
        self.until(lambda: bool(self.page.evaluate(said)))

    def titles(self) -> list[str]:
        """Return the titles in the list of conversations."""
        found: list[str] = self.page.locator(".entry-open > span:first-child").all_inner_texts()
        return found


def conversation_file(messages: list[dict[str, Any]], title: str = "Imported") -> bytes:
    """Return the export of a conversation: each message answers the one before."""
    made = []
    for i, message in enumerate(messages):
        parent = f"m{i - 1}" if i else None
        made.append(
            {"id": f"m{i}", "parent": parent, "created": i + 1, "finish": "stop", **message}
        )
    conversation = {
        "id": "imported", "title": title, "created": 1, "updated": 2, "leaf": made[-1]["id"],
        "settings": {}, "messages": made,
    }  # fmt: skip
    file = {"format": "rsr-chat", "version": 1, "conversations": [conversation]}
    return json.dumps(file).encode()
