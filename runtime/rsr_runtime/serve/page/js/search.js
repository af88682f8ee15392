// Search in titles and messages.

import * as store from "./store.js";

/**
 * Return the conversations that contain a text, the last used first, each with a passage around its
 * first occurrence in a message, or null if only the title has it.
 *
 * @param {string} text
 */
export async function search(text) {
  const wanted = text.toLowerCase();
  const passages = new Map();
  for (const message of await store.allMessages()) {
    if (passages.has(message.conversation)) continue;
    const at = message.content.toLowerCase().indexOf(wanted);
    if (at >= 0) passages.set(message.conversation, passage(message.content, at, text.length));
  }
  const found = [];
  for (const conversation of await store.conversations()) {
    const inTitle = conversation.title.toLowerCase().includes(wanted);
    if (inTitle || passages.has(conversation.id))
      found.push({ conversation, passage: passages.get(conversation.id) ?? null });
  }
  return found;
}

/** Return the text before, in and after a match, short enough for a line. */
function passage(text, at, length) {
  const start = Math.max(0, at - 16);
  const clean = (part) => part.replace(/\s+/g, " ");
  return {
    before: (start > 0 ? "..." : "") + clean(text.slice(start, at)),
    match: clean(text.slice(at, at + length)),
    after: clean(text.slice(at + length, at + length + 60)),
  };
}
