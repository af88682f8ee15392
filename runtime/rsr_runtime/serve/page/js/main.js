// Puts the parts of the page together.

import { idInAddress, setIdInAddress } from "./address.js";
import { apiKey, model } from "./api.js";
import { ask } from "./ask.js";
import { Chat } from "./chat.js";
import { Composer } from "./composer.js";
import { announce, byId, saveFile } from "./dom.js";
import { History } from "./history.js";
import { MessageList } from "./message_list.js";
import { hideNotice, showNotice } from "./notice.js";
import { SettingsForm } from "./settings.js";
import { listenForShortcuts } from "./shortcuts.js";
import { closeSidebar, openSidebar } from "./sidebar.js";
import * as store from "./store.js";
import { exported, importFrom } from "./transfer.js";

const list = new MessageList({
  regenerate: (message) => act(chat.regenerate(message)),
  retry: (message) => act(chat.retry(message)),
  resend: (message, text) => act(chat.resend(message, text)),
  show: (message, label) => act(chat.showVersion(message, label)),
});
const composer = new Composer({
  send: (text) => act(chat.send(text)),
  stop: () => chat.stop(),
  editLast: () => chat.editLast(),
});
const history = new History({
  open: (id) => {
    setIdInAddress(id);
    act(openConversation());
  },
  rename: (conversation) => act(rename(conversation)),
  remove: (conversation) => act(remove(conversation)),
});
const chat = new Chat({ list, history, composer, askForKey });
const settings = new SettingsForm((changed) => act(chat.changeSettings(changed)), apiKey);

/** Show the error of work that goes on. */
function act(work) {
  work.catch((error) => {
    console.error(error);
    showNotice(`That did not work: ${error.message}`);
  });
}

/** Show the conversation that the address names, a new one if there is none. */
async function openConversation() {
  const id = idInAddress();
  if (!id) chat.create();
  else if (!(await chat.open(id))) createConversation();
  closeSidebar();
  composer.focus();
}

function createConversation() {
  chat.create();
  setIdInAddress("");
  closeSidebar();
  composer.focus();
}

async function rename(conversation) {
  const title = await ask({
    title: "Rename conversation",
    ok: "Rename",
    input: { label: "Title", value: conversation.title },
  });
  if (!title) return;
  await chat.rename(conversation.id, title);
  history.focus(conversation.id);
}

async function remove(conversation) {
  const answer = await ask({
    title: `Delete "${conversation.title}"?`,
    text: "Its messages are deleted from this browser.",
    ok: "Delete",
  });
  if (answer === null) return;
  await chat.remove(conversation.id);
  byId("new").focus();
}

let asking = null;

/** Ask for a key until the server accepts it. @returns {Promise<boolean>} whether it does */
function askForKey() {
  asking ??= keyFromUser().finally(() => {
    asking = null;
  });
  return asking;
}

async function keyFromUser() {
  const before = apiKey.get();
  const key = await ask({
    title: "API key",
    text: before ? "The server does not accept the key." : "The server needs a key.",
    ok: "Use key",
    input: { label: "Key", type: "password" },
    check: async (text) => {
      apiKey.set(text);
      try {
        showModel(await model());
        return "";
      } catch (error) {
        return error.message;
      }
    },
  });
  if (key === null) apiKey.set(before);
  return key !== null;
}

async function start() {
  act(connect());
  await openConversation();
  await history.refresh();
}

/** Ask the server for its model. */
async function connect() {
  try {
    showModel(await model());
  } catch (error) {
    byId("model").textContent = "Not connected";
    const enter = { label: "Enter key", act: () => act(askForKey()) };
    showNotice(error.message, error.needsKey ? enter : { label: "Try again", act: connect });
    if (error.needsKey) await askForKey();
  }
}

function showModel(found) {
  const { id, context, hasTemplate } = found;
  hideNotice();
  chat.setModel(found);
  settings.setIsChat(hasTemplate);
  byId("empty-chat").hidden = !hasTemplate;
  byId("empty-text").hidden = hasTemplate;
  const kind = hasTemplate ? "" : " · continues text";
  byId("model").textContent = `${id} · ${context.toLocaleString("en")} tokens of context${kind}`;
}

async function exportAll() {
  saveFile("conversations.json", await exported(await store.conversations()));
}

async function exportOne() {
  const name = chat.conversation.title
    .replace(/[^\p{L}\p{N}]+/gu, "-")
    .replace(/^-|-$/g, "")
    .slice(0, 50);
  saveFile(`${name || "conversation"}.json`, await exported([chat.conversation]));
}

async function importFile(event) {
  const [file] = event.target.files;
  if (!file) return;
  const text = await file.text();
  event.target.value = "";
  try {
    const count = await importFrom(text);
    const words = count === 1 ? "1 conversation imported" : `${count} conversations imported`;
    announce(words);
    await history.refresh();
    if (!count) showNotice("Nothing to import: all conversations of the file are here already.");
  } catch (error) {
    showNotice(error.message);
  }
}

function startSearch() {
  openSidebar();
  byId("search").focus();
  byId("search").select();
}

byId("new").addEventListener("click", createConversation);
byId("show-settings").addEventListener("click", () => settings.open(chat.conversation.settings));
byId("export").addEventListener("click", () => act(exportAll()));
byId("export-one").addEventListener("click", () => act(exportOne()));
byId("import").addEventListener("click", () => byId("import-file").click());
byId("import-file").addEventListener("change", (event) => act(importFile(event)));
listenForShortcuts({
  stop: () => closeSidebar() || chat.stop(),
  search: startSearch,
  create: createConversation,
  settings: () => settings.open(chat.conversation.settings),
});
addEventListener("popstate", () => act(openConversation()));

act(start());
