// Small dialogs.

import { byId } from "./dom.js";

/**
 * Ask for a confirmation or a text.
 *
 * @param {object} what
 * @param {string} what.title
 * @param {string} [what.text]
 * @param {string} what.ok  the label of the button that confirms
 * @param {{label: string, value?: string, type?: string}} [what.input]
 * @returns {Promise<string | null>} the text ("" without an input), or null if it was canceled
 */
export function ask({ title, text = "", ok, input }) {
  const dialog = byId("ask");
  const field = byId("ask-input");
  byId("ask-title").textContent = title;
  byId("ask-text").textContent = text;
  byId("ask-ok").textContent = ok;
  byId("ask-label").hidden = !input;
  byId("ask-label").querySelector("span").textContent = input?.label ?? "";
  field.type = input?.type ?? "text";
  field.value = input?.value ?? "";
  dialog.returnValue = "";
  dialog.showModal();
  (input ? field : byId("ask-ok")).focus();
  if (input) field.select();
  return new Promise((resolve) => {
    dialog.addEventListener(
      "close",
      () => {
        resolve(dialog.returnValue === "ok" ? field.value.trim() : null);
        field.value = "";
      },
      { once: true },
    );
  });
}

// Enter in the field would press the first button, which cancels.
byId("ask-input").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.isComposing) return;
  event.preventDefault();
  byId("ask").close("ok");
});
