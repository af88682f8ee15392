// Conversations and messages in the browser's database.

import { openDB } from "../vendor/idb.js";

const database = openDB("rsr-chat", 1, {
  upgrade(db) {
    db.createObjectStore("conversations", { keyPath: "id" });
    db.createObjectStore("messages", { keyPath: "id" }).createIndex("conversation", "conversation");
  },
});

/** @returns {Promise<import("./conversation.js").Conversation[]>} the last used first */
export async function conversations() {
  const found = await (await database).getAll("conversations");
  return found.sort((a, b) => b.updated - a.updated);
}

/** @returns {Promise<import("./conversation.js").Conversation | undefined>} */
export async function conversation(id) {
  return (await database).get("conversations", id);
}

/** @returns {Promise<import("./conversation.js").Message[]>} of a conversation, the oldest first */
export async function messages(id) {
  const found = await (await database).getAllFromIndex("messages", "conversation", id);
  return found.sort((a, b) => a.created - b.created);
}

/** @returns {Promise<import("./conversation.js").Message[]>} the messages of all conversations */
export async function allMessages() {
  return (await database).getAll("messages");
}

/** Save a conversation, and those of its messages that changed. */
export async function save(conversation, changed = []) {
  await write((stores) => {
    stores.conversations.put(conversation);
    for (const message of changed) stores.messages.put(message);
  });
}

/** Delete a message. */
export async function removeMessage(id) {
  await (await database).delete("messages", id);
}

/** Delete a conversation and its messages. */
export async function remove(id) {
  const keys = await (await database).getAllKeysFromIndex("messages", "conversation", id);
  await write((stores) => {
    stores.conversations.delete(id);
    for (const key of keys) stores.messages.delete(key);
  });
}

async function write(change) {
  const transaction = (await database).transaction(["conversations", "messages"], "readwrite");
  change({
    conversations: transaction.objectStore("conversations"),
    messages: transaction.objectStore("messages"),
  });
  await transaction.done;
}
