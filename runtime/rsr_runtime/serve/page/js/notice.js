// A line above the message field about what concerns no single message.

import { byId, make } from "./dom.js";

/**
 * @param {string} text
 * @param {{label: string, act: () => void}} [action]
 */
export function showNotice(text, action = { label: "Dismiss", act: () => {} }) {
  const press = () => {
    hideNotice();
    action.act();
  };
  byId("notice").replaceChildren(
    make("span", {}, text),
    make("button", { type: "button", onclick: press }, action.label),
  );
  byId("notice").hidden = false;
}

export function hideNotice() {
  byId("notice").hidden = true;
}
