// The list of conversations: search, open, rename, delete.

import { byId, iconButton, make } from "./dom.js";
import { search } from "./search.js";
import * as store from "./store.js";

/**
 * What the list does to a conversation.
 * @typedef {object} HistoryActions
 * @property {(id: string) => void} open
 * @property {(conversation: import("./conversation.js").Conversation) => void} rename
 * @property {(conversation: import("./conversation.js").Conversation) => void} remove
 */

export class History {
  #list = byId("history");
  #field = byId("search");
  #current = null;
  #turn = 0; // of the last refresh that began

  /** @param {HistoryActions} actions */
  constructor(actions) {
    this.actions = actions;
    let timer = 0;
    this.#field.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.refresh(), 120);
    });
    this.#list.addEventListener("keydown", (event) => this.#move(event));
  }

  /** Mark the conversation that is shown. */
  mark(id) {
    this.#current = id;
    for (const entry of this.#list.children) markEntry(entry, entry.dataset.id === id);
  }

  /** Focus a conversation of the list. */
  focus(id) {
    this.#list.querySelector(`[data-id="${id}"] button`)?.focus();
  }

  /** Show what the database has and the search finds. */
  async refresh() {
    const turn = ++this.#turn;
    const text = this.#field.value.trim();
    const found = text
      ? await search(text)
      : (await store.conversations()).map((conversation) => ({ conversation, passage: null }));
    if (turn !== this.#turn) return;
    this.#list.replaceChildren(...found.map((one) => this.#entry(one)));
    byId("history-empty").textContent = found.length
      ? ""
      : text
        ? "Nothing found."
        : "No conversations yet.";
  }

  #entry({ conversation, passage }) {
    const { id, title } = conversation;
    const open = make(
      "button",
      { type: "button", class: "entry-open", title, onclick: () => this.actions.open(id) },
      make("span", {}, title),
      passage &&
        make(
          "span",
          { class: "quiet" },
          passage.before,
          make("mark", {}, passage.match),
          passage.after,
        ),
    );
    const entry = make(
      "li",
      { class: "entry", "data-id": id },
      open,
      iconButton(
        "pencil",
        `Rename ${title}`,
        () => this.actions.rename(conversation),
        "icon entry-tool",
      ),
      iconButton(
        "trash",
        `Delete ${title}`,
        () => this.actions.remove(conversation),
        "icon entry-tool",
      ),
    );
    markEntry(entry, id === this.#current);
    return entry;
  }

  /** Arrow keys go from one conversation to the next. */
  #move(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    const entries = [...this.#list.children];
    const at = entries.indexOf(event.target.closest("li"));
    event.preventDefault();
    entries[at + step]?.querySelector("button").focus();
  }
}

function markEntry(entry, isCurrent) {
  entry.classList.toggle("current", isCurrent);
  if (isCurrent) entry.firstElementChild.setAttribute("aria-current", "true");
  else entry.firstElementChild.removeAttribute("aria-current");
}
