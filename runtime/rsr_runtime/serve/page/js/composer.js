// The field for a message.

import { byId } from "./dom.js";

const MAX_ROWS = 12;

export class Composer {
  #field = byId("prompt");
  #isBusy = false;
  #draft = null; // where the text is kept

  /** @param {{send: (text: string) => void, stop: () => void, editLast: () => void}} actions */
  constructor(actions) {
    const submit = () => {
      const text = this.#field.value.trim();
      if (!text || this.#isBusy) return;
      this.#field.value = "";
      this.#changed();
      actions.send(text);
    };
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      submit();
    });
    byId("stop").addEventListener("click", () => {
      actions.stop();
      this.focus();
    });
    this.#field.addEventListener("input", () => this.#changed());
    this.#field.addEventListener("keydown", (event) => {
      if (event.isComposing) return;
      // The Enter key of a screen keyboard is the only way to a new line.
      const isTouch = matchMedia("(pointer: coarse)").matches;
      if (event.key === "Enter" && !event.shiftKey && !isTouch) {
        event.preventDefault();
        submit();
      } else if (event.key === "ArrowUp" && !this.#field.value && !this.#isBusy) {
        event.preventDefault();
        actions.editLast();
      }
    });
  }

  /** Show the button that sends, or the one that stops an answer. */
  setBusy(isBusy) {
    this.#isBusy = isBusy;
    byId("stop").hidden = !isBusy;
    byId("send").hidden = isBusy;
  }

  setPlaceholder(text) {
    this.#field.placeholder = text;
  }

  /** Show the unsent text of a conversation; "": of a new one. It outlives a reload. */
  showDraft(id) {
    const draft = draftKey(id);
    if (draft === this.#draft) return;
    const isEarly = this.#draft === null && this.#field.value; // written while the page loads
    this.#draft = draft;
    if (!isEarly) this.#field.value = sessionStorage.getItem(draft) ?? "";
    this.#changed();
  }

  /** Forget the unsent text of a conversation. */
  forgetDraft(id) {
    sessionStorage.removeItem(draftKey(id));
  }

  focus() {
    this.#field.focus();
  }

  #changed() {
    if (this.#field.value) sessionStorage.setItem(this.#draft, this.#field.value);
    else sessionStorage.removeItem(this.#draft);
    byId("send").disabled = !this.#field.value.trim();
    if (!CSS.supports("field-sizing", "content"))
      this.#field.rows = Math.min(MAX_ROWS, this.#field.value.split("\n").length);
  }
}

function draftKey(id) {
  return `rsr.draft.${id}`;
}
