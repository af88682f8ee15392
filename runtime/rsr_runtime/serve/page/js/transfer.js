// Conversations as a JSON file.

import * as store from "./store.js";
import { cleanSettings } from "./settings.js";

const FORMAT = "rsr-chat";
const VERSION = 1;

/** Return the text of a file with some conversations. */
export async function exported(conversations) {
  const found = [];
  for (const conversation of conversations) {
    const messages = await store.messages(conversation.id);
    const ids = new Set(messages.map(({ id }) => id));
    const known = (id) => (ids.has(id) ? id : null);
    found.push({
      ...conversation,
      leaf: known(conversation.leaf),
      messages: messages.map((message) => ({ ...message, parent: known(message.parent) })),
    });
  }
  return JSON.stringify({ format: FORMAT, version: VERSION, conversations: found }, null, 1);
}

/**
 * Save the conversations of a file. Of one that is here already, the one used last is kept.
 *
 * @param {string} text  of the file
 * @returns {Promise<number>} how many were saved
 * @throws {Error} the file has another format; nothing was saved
 */
export async function importFrom(text) {
  let saved = 0;
  for (const { conversation, messages } of parsed(text)) {
    const here = await store.conversation(conversation.id);
    if (here && here.updated >= conversation.updated) continue;
    if (here) await store.remove(here.id);
    await store.save(conversation, messages);
    saved += 1;
  }
  return saved;
}

function parsed(text) {
  let file;
  try {
    file = JSON.parse(text);
  } catch {
    throw new Error("The file is not JSON. Choose a file that this page exported.");
  }
  if (file?.format !== FORMAT || file.version !== VERSION || !Array.isArray(file.conversations))
    throw new Error("The file holds no conversations of this page. Choose one that it exported.");
  return file.conversations.map((one, i) => {
    try {
      return checked(one);
    } catch (error) {
      throw new Error(`Conversation ${i + 1} of the file is damaged: ${error.message}.`);
    }
  });
}

function checked(one) {
  const { id, title, created, updated, leaf, settings, messages } = one ?? {};
  expect("id", id, "string");
  expect("title", title, "string");
  expect("created", created, "number");
  expect("updated", updated, "number");
  if (!Array.isArray(messages)) throw new Error("messages is not a list");
  const kept = messages.map((message) => checkedMessage(message, id));
  const times = new Map(kept.map((message) => [message.id, message.created]));
  for (const { parent, created } of kept)
    // A parent is older, so there is no circle.
    if (parent !== null && !(times.get(parent) < created))
      throw new Error("a message comes before the one that it answers");
  const last = times.has(leaf) ? leaf : (kept.at(-1)?.id ?? null);
  return {
    conversation: { id, title, created, updated, leaf: last, settings: cleanSettings(settings) },
    messages: kept,
  };
}

const REQUIRED = { id: "string", created: "number", content: "string" };
const OPTIONAL = {
  reasoning: "string",
  reasoningMs: "number",
  isJson: "boolean",
  finish: "string",
  error: "string",
  received: "number",
  speed: "number",
};

/** Return the known fields of a message. */
function checkedMessage(message, conversation) {
  const { parent = null, role, tokens } = message ?? {};
  if (role !== "user" && role !== "assistant") throw new Error("a message has another role");
  if (parent !== null) expect("parent", parent, "string");
  const kept = { conversation, parent, role };
  for (const [name, type] of Object.entries(REQUIRED)) {
    expect(name, message[name], type);
    kept[name] = message[name];
  }
  for (const [name, type] of Object.entries(OPTIONAL)) {
    if (message[name] === undefined) continue;
    expect(name, message[name], type);
    kept[name] = message[name];
  }
  if (tokens !== undefined) {
    expect("tokens.prompt", tokens?.prompt, "number");
    expect("tokens.completion", tokens?.completion, "number");
    kept.tokens = { prompt: tokens.prompt, completion: tokens.completion };
  }
  return kept;
}

function expect(name, value, type) {
  if (typeof value !== type) throw new Error(`${name} is not a ${type}`);
}
