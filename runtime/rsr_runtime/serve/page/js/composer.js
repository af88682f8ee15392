// The field for a message.

import { byId } from "./dom.js";

const MAX_ROWS = 12;

export class Composer {
  #field = byId("prompt");
  #isBusy = false;

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

  focus() {
    this.#field.focus();
  }

  #changed() {
    byId("send").disabled = !this.#field.value.trim();
    if (!CSS.supports("field-sizing", "content"))
      this.#field.rows = Math.min(MAX_ROWS, this.#field.value.split("\n").length);
  }
}
