// Shows one message.

import { copyText, iconButton, make } from "./dom.js";
import { showJson, showMarkdown } from "./markdown.js";
import { speedText } from "./meter.js";

const ENDS_IN_REASONING = {
  stop: "The answer ended within its reasoning.",
  length: "The answer reached its maximum length within its reasoning.",
  stopped: "Stopped within the reasoning: there is no answer yet.",
};
const ENDS = {
  length: "The answer reached its maximum length.",
  stopped: "Stopped.",
};

/**
 * What the buttons of a message do.
 * @typedef {object} Actions
 * @property {(message: import("./conversation.js").Message) => void} regenerate
 * @property {(message: import("./conversation.js").Message) => void} retry
 * @property {(message: import("./conversation.js").Message, text: string) => void} resend
 * @property {(message: import("./conversation.js").Message, label: string) => void} show  another
 *   version, by the button with this label
 */

export class MessageView {
  #text = make("div", { class: "text raw" });
  #after = make("div", {});
  #tools = make("div", { class: "tools" });
  #body;
  #reasoning = null;
  #isFull = false; // whether markdown is shown, not plain text
  #state = ""; // what the buttons were made for
  #changing = []; // buttons that change the conversation

  /**
   * @param {import("./conversation.js").Message} message
   * @param {Actions} actions
   */
  constructor(message, actions) {
    this.message = message;
    this.actions = actions;
    const isUser = message.role === "user";
    this.#body = make("div", { class: "body" }, this.#text, this.#after);
    this.element = make(
      "article",
      { class: `message ${message.role}`, "data-id": message.id },
      make("h2", { class: "only-read" }, isUser ? "You" : "Answer"),
      this.#body,
      this.#tools,
    );
    if (isUser) this.#isFull = true;
    this.#text.textContent = message.content;
    this.#showReasoning(false);
  }

  /** Show the content as markdown. It is plain text at first: most messages are never looked at. */
  fill() {
    if (this.#isFull) return;
    this.#isFull = true;
    this.#showContent(false);
  }

  /** Show what a growing answer has now. */
  grow() {
    this.#isFull = true;
    this.element.classList.add("live");
    const { content, reasoning } = this.message;
    this.#showReasoning(!content);
    if (content) this.#showContent(true);
    else this.#text.replaceChildren(...(reasoning ? [] : [waiting()]));
  }

  /**
   * Show the buttons and how the message ended.
   *
   * @param {import("./conversation.js").Message[]} versions  the message and its siblings
   * @param {boolean} isLive  whether it grows
   * @param {boolean} isBusy  whether another message grows
   */
  finish(versions, isLive, isBusy) {
    const state = `${isLive} ${versions.indexOf(this.message)} ${versions.length}`;
    if (state !== this.#state) {
      this.#state = state;
      this.#finish(versions, isLive);
    }
    for (const button of this.#changing) button.disabled = isBusy;
  }

  #finish(versions, isLive) {
    const { message } = this;
    this.#changing = [];
    if (isLive) this.grow();
    else if (this.element.classList.replace("live", "done")) {
      this.#showReasoning(false);
      this.#showContent(false);
    }
    this.#after.replaceChildren(...(isLive ? [] : this.#end()));
    if (isLive) this.#tools.replaceChildren();
    else
      this.#tools.replaceChildren(
        ...this.#branch(versions),
        ...(message.role === "user" ? this.#userTools() : this.#answerTools()),
      );
  }

  /** Replace a message of the user by a field to edit it. */
  edit() {
    const field = make("textarea", { "aria-label": "Edit message" });
    field.value = this.message.content;
    const close = () => {
      editor.replaceWith(this.#body);
      this.#tools.hidden = false;
      this.#tools.querySelector("[data-edit]")?.focus();
    };
    const send = () => {
      const text = field.value.trim();
      close();
      if (text) this.actions.resend(this.message, text);
    };
    const editor = make(
      "div",
      { class: "editor" },
      field,
      make(
        "div",
        { class: "editor-row" },
        make("button", { type: "button", onclick: close }, "Cancel"),
        make("button", { type: "button", class: "primary", onclick: send }, "Send"),
      ),
    );
    editor.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        close();
      } else if (
        event.key === "Enter" &&
        !event.shiftKey &&
        !event.isComposing &&
        event.target === field
      ) {
        event.preventDefault();
        send();
      }
    });
    this.#body.replaceWith(editor);
    this.#tools.hidden = true;
    field.focus();
    field.setSelectionRange(field.value.length, field.value.length);
  }

  #showContent(isGrowing) {
    if (this.message.role === "user") return;
    this.#text.classList.remove("raw");
    if (this.message.isJson && !isGrowing && this.message.content)
      showJson(this.#text, this.message.content);
    else showMarkdown(this.#text, this.message.content, isGrowing);
  }

  #showReasoning(isThinking) {
    const { reasoning, reasoningMs } = this.message;
    if (!reasoning) return;
    if (!this.#reasoning) {
      this.#reasoning = make(
        "details",
        { class: "reasoning" },
        make("summary", {}),
        make("div", { class: "reasoning-text" }),
      );
      this.#body.prepend(this.#reasoning);
    }
    const [summary, text] = this.#reasoning.children;
    const seconds = reasoningMs ? ` for ${Math.max(1, Math.round(reasoningMs / 1000))} s` : "";
    const words = isThinking ? "Thinking" : `Thought${seconds}`;
    if (summary.textContent !== words) summary.textContent = words;
    text.textContent = reasoning;
  }

  /** Return a button that is disabled while an answer comes. */
  #changer(button) {
    this.#changing.push(button);
    return button;
  }

  #end() {
    const { role, error, finish, content, reasoning } = this.message;
    if (role === "user") return [];
    if (error) {
      const retry = () => this.actions.retry(this.message);
      return [
        make(
          "div",
          { class: "error" },
          make("p", {}, error),
          this.#changer(make("button", { type: "button", onclick: retry }, "Try again")),
        ),
      ];
    }
    const ends = reasoning && !content ? ENDS_IN_REASONING : ENDS;
    const text = finish ? ends[finish] : "The page was closed before the answer ended.";
    return text ? [make("p", { class: "end" }, text)] : [];
  }

  #branch(versions) {
    if (versions.length < 2) return [];
    const at = versions.indexOf(this.message);
    const go = (name, label, version) => {
      const button = iconButton(name, label, () => this.actions.show(version, label));
      button.disabled = !version;
      return version ? this.#changer(button) : button;
    };
    return [
      make(
        "span",
        { class: "branch", role: "group", "aria-label": "Versions" },
        go("left", "Previous version", versions[at - 1]),
        make("span", {}, `${at + 1} / ${versions.length}`),
        go("right", "Next version", versions[at + 1]),
      ),
    ];
  }

  #userTools() {
    const edit = this.#changer(iconButton("pencil", "Edit", () => this.edit()));
    edit.dataset.edit = "";
    return [edit, this.#copyButton()];
  }

  #answerTools() {
    const again = this.#changer(
      iconButton("again", "Regenerate", () => this.actions.regenerate(this.message)),
    );
    const { tokens, received, speed } = this.message;
    const count = tokens?.completion ?? received;
    const figures = [
      count && `${tokens ? "" : "about "}${count.toLocaleString("en")} tokens`,
      speed && speedText(speed),
    ];
    return [
      this.#copyButton(),
      again,
      make("span", { class: "figures" }, figures.filter(Boolean).join(" · ")),
    ];
  }

  #copyButton() {
    const button = iconButton("copy", "Copy", () => copyText(this.message.content, button));
    return button;
  }
}

function waiting() {
  return make(
    "span",
    { class: "waiting", role: "img", "aria-label": "Waiting for the answer" },
    make("i"),
    make("i"),
    make("i"),
  );
}
