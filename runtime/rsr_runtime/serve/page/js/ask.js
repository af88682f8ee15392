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
 * @param {(text: string) => Promise<string>} [what.check]  returns what is wrong with the text; the
 *   dialog stays open until nothing is
 * @returns {Promise<string | null>} the text ("" without an input), or null if it was canceled
 */
export function ask({ title, text = "", ok, input, check = null }) {
  const dialog = byId("ask");
  const field = byId("ask-input");
  byId("ask-title").textContent = title;
  byId("ask-text").textContent = text;
  byId("ask-ok").textContent = ok;
  byId("ask-label").hidden = !input;
  byId("ask-label").querySelector("span").textContent = input?.label ?? "";
  field.type = input?.type ?? "text";
  field.value = input?.value ?? "";
  showWrong("");
  dialog.returnValue = "";
  dialog.showModal();
  (input ? field : byId("ask-ok")).focus();
  if (input) field.select();
  const submit = async (event) => {
    if (event.submitter?.id !== "ask-ok" || !check) return;
    event.preventDefault();
    byId("ask-ok").disabled = true;
    const wrong = await check(field.value.trim());
    byId("ask-ok").disabled = false;
    if (!wrong) return dialog.close("ok");
    showWrong(wrong);
    field.select();
  };
  dialog.addEventListener("submit", submit);
  return new Promise((resolve) => {
    dialog.addEventListener(
      "close",
      () => {
        resolve(dialog.returnValue === "ok" ? field.value.trim() : null);
        field.value = "";
        dialog.removeEventListener("submit", submit);
      },
      { once: true },
    );
  });
}

// Enter in the field would press the first button, which cancels.
byId("ask-input").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.isComposing) return;
  event.preventDefault();
  byId("ask-ok").click();
});

function showWrong(text) {
  byId("ask-wrong").textContent = text;
  byId("ask-input").setAttribute("aria-invalid", String(Boolean(text)));
}
