// Helpers for elements.

/** @param {string} id */
export const byId = (id) => document.getElementById(id);

/**
 * Return a new element. Attributes named `on...` are listeners; null, undefined and false are left
 * out. Children are nodes or text; null is left out.
 */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false)
      element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

/** Return an icon of icons.svg, hidden from screen readers. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `icons.svg#${name}`);
  svg.append(use);
  return svg;
}

/** Return a button that shows only an icon. */
export function iconButton(name, label, onclick, classes = "icon") {
  return make(
    "button",
    { type: "button", class: classes, "aria-label": label, title: label, onclick },
    icon(name),
  );
}

/** Copy a text, and show a check mark on the button for a moment. */
export async function copyText(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    copyBySelection(text); // pages over plain HTTP have no clipboard
  }
  const use = button.querySelector("use");
  const before = use.getAttribute("href");
  if (before.endsWith("#check")) return;
  use.setAttribute("href", "icons.svg#check");
  setTimeout(() => use.setAttribute("href", before), 1500);
  announce("Copied");
}

function copyBySelection(text) {
  const focused = document.activeElement;
  const area = make("textarea", { class: "only-read", readonly: true });
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
  focused?.focus();
}

/** Have screen readers say a text once they are silent. */
export function announce(text) {
  byId("status").textContent = text;
}

/** Offer a text as a file to save. */
export function saveFile(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
