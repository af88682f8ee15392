// Keyboard shortcuts, and the dialog that lists them.

import { byId, make } from "./dom.js";

const isApple = /Mac|iPhone|iPad/.test(navigator.platform);
const CONTROL = isApple ? "⌘" : "Ctrl";

const LIST = [
  [["Enter"], "Send the message"],
  [["Shift", "Enter"], "New line"],
  [["Esc"], "Stop the answer"],
  [["↑"], "Edit the last message, in an empty field"],
  [[CONTROL, "K"], "Search conversations"],
  [[CONTROL, "Shift", "O"], "New conversation"],
  [[CONTROL, ","], "Settings"],
  [[CONTROL, "/"], "This list"],
];

/** @param {Record<"stop" | "search" | "create" | "settings", () => void>} actions */
export function listenForShortcuts(actions) {
  byId("shortcut-list").append(
    ...LIST.flatMap(([keys, what]) => [
      make(
        "dt",
        {},
        ...keys.flatMap((key, i) => (i ? [" ", make("kbd", {}, key)] : [make("kbd", {}, key)])),
      ),
      make("dd", {}, what),
    ]),
  );
  const showList = () => byId("shortcuts").showModal();
  byId("show-shortcuts").addEventListener("click", showList);

  const withControl = { k: actions.search, ",": actions.settings, "/": showList };
  addEventListener("keydown", (event) => {
    if (event.isComposing || document.querySelector("dialog[open]")) return;
    if (event.key === "Escape") actions.stop();
    if (!(isApple ? event.metaKey : event.ctrlKey) || event.altKey) return;
    const key = event.key.toLowerCase();
    const act = event.shiftKey ? { o: actions.create }[key] : withControl[key];
    if (!act) return;
    event.preventDefault();
    act();
  });
}
