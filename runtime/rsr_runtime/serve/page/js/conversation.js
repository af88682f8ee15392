// A conversation is a tree: an edited message or a new answer is a sibling of the old one.

/**
 * @typedef {object} Message
 * @property {string} id
 * @property {string} conversation  id of the conversation
 * @property {string | null} parent  id of the message before
 * @property {"user" | "assistant"} role
 * @property {number} created  milliseconds since 1970; orders siblings
 * @property {string} content
 * @property {string} [reasoning]
 * @property {number} [reasoningMs]  how long the reasoning took
 * @property {boolean} [isJson]  whether the content follows a JSON schema
 * @property {string} [finish]  "stop", "length", "stopped" (by the user) or "error"
 * @property {string} [error]  why there is no answer, or no whole one
 * @property {{prompt: number, completion: number}} [tokens]
 * @property {number} [received]  about how many tokens came
 * @property {number} [speed]  tokens per second
 */

/**
 * @typedef {object} Conversation
 * @property {string} id
 * @property {string} title
 * @property {number} created
 * @property {number} updated
 * @property {string | null} leaf  id of the last message shown
 * @property {import("./settings.js").Settings} settings
 */

let lastTime = 0;

/** Return the time in milliseconds, later than all before and than another time. */
export function now(other = 0) {
  lastTime = Math.max(Date.now(), lastTime + 1, other + 1);
  return lastTime;
}

/** Return a new id. (crypto.randomUUID is missing from pages over plain HTTP.) */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Return a title: the beginning of the first message. */
export function titleOf(text) {
  const line = text.trim().replace(/\s+/g, " ");
  return line.length > 60 ? `${line.slice(0, 57).trimEnd()}...` : line || "Conversation";
}

/** The messages of a conversation. */
export class Tree {
  #messages = new Map();
  #children = new Map();

  /** @param {Message[]} messages  the oldest first */
  constructor(messages = []) {
    for (const message of messages) this.add(message);
  }

  /** @param {Message} message */
  add(message) {
    this.#messages.set(message.id, message);
    this.#childrenOf(message.parent).push(message);
  }

  /** Remove a message that has no answer. */
  remove(message) {
    this.#messages.delete(message.id);
    const children = this.#childrenOf(message.parent);
    children.splice(children.indexOf(message), 1);
  }

  /** @returns {Message | undefined} */
  get(id) {
    return this.#messages.get(id);
  }

  /** @returns {Message[]} the message and its other versions, oldest first */
  siblings(message) {
    return this.#childrenOf(message.parent);
  }

  /** @returns {Message[]} the messages up to one, in order */
  path(leaf) {
    const path = [];
    for (let at = this.get(leaf); at; at = this.get(at.parent)) path.push(at);
    return path.reverse();
  }

  /** @returns {Message} the last message of the newest branch below one */
  newestLeaf(message) {
    let at = message;
    for (let next = at; next; next = this.#childrenOf(at.id).at(-1)) at = next;
    return at;
  }

  /** @returns {Message[]} */
  all() {
    return [...this.#messages.values()];
  }

  #childrenOf(id) {
    if (!this.#children.has(id)) this.#children.set(id, []);
    return this.#children.get(id);
  }
}
