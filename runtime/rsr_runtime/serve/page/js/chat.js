// What can be done with conversations. Answers go on while another conversation is shown.

import { setIdInAddress } from "./address.js";
import { receiveAnswer } from "./answer.js";
import { newId, now, titleOf, Tree } from "./conversation.js";
import { announce, byId } from "./dom.js";
import { contextUsed, showContext, showSpeed } from "./meter.js";
import { requestFor } from "./request.js";
import { rememberedSettings, summary } from "./settings.js";
import * as store from "./store.js";
import { throttled } from "./throttle.js";

const PAINT_MS = 50; // between changes on the screen while an answer comes
const SAVE_MS = 2000; // between saves of it
const SPOKEN = 300; // characters of an answer that screen readers say at once

/**
 * A conversation in memory.
 * @typedef {object} Session
 * @property {import("./conversation.js").Conversation} conversation
 * @property {Tree} tree
 * @property {import("./conversation.js").Message | null} live  the answer that is coming
 * @property {AbortController | null} controller  stops it
 */

export class Chat {
  /** @type {Map<string, Session>} */
  #running = new Map();
  /** @type {Session} */
  #session = newSession();
  #model = { id: "", context: 0, hasTemplate: true };
  #turn = 0; // of the last conversation that was asked for

  /**
   * @param {object} parts
   * @param {import("./message_list.js").MessageList} parts.list
   * @param {import("./history.js").History} parts.history
   * @param {import("./composer.js").Composer} parts.composer
   * @param {() => Promise<boolean>} parts.askForKey  returns whether there is a new key
   */
  constructor({ list, history, composer, askForKey }) {
    this.list = list;
    this.history = history;
    this.composer = composer;
    this.askForKey = askForKey;
  }

  get conversation() {
    return this.#session.conversation;
  }

  /** @param {import("./api.js").Model} model */
  setModel(model) {
    this.#model = model;
    this.composer.setPlaceholder(model.hasTemplate ? "Write a message" : "Text to continue");
    this.#showState();
  }

  /** Show an empty conversation. */
  create() {
    this.#turn += 1;
    this.#show(newSession());
  }

  /** Show a conversation of the database. @returns {Promise<boolean>} whether it exists */
  async open(id) {
    const turn = ++this.#turn;
    const session = this.#running.get(id) ?? (await storedSession(id));
    if (turn !== this.#turn) return true; // another was asked for meanwhile
    if (session) this.#show(session);
    return session !== null;
  }

  /** Send a message of the user and get the answer. */
  send(text) {
    return this.#sendAfter(this.#session.conversation.leaf, text);
  }

  /** Send another version of a message. */
  resend(message, text) {
    this.composer.focus();
    return this.#sendAfter(message.parent, text);
  }

  /** Get another answer to the same message. */
  regenerate(message) {
    return this.#ask(this.#session, this.#session.tree.get(message.parent));
  }

  /** Try again after an error; an answer without text is replaced. */
  async retry(message) {
    const { tree, conversation } = this.#session;
    if (!message.content && !message.reasoning) {
      tree.remove(message);
      conversation.leaf = message.parent;
      await store.removeMessage(message.id);
    }
    await this.regenerate(message);
  }

  /** Show another version of a message, with what followed it; focus its button with a label. */
  async showVersion(message, label) {
    const { tree, conversation } = this.#session;
    conversation.leaf = tree.newestLeaf(message).id;
    this.#render();
    this.list.focusVersions(message, label);
    await store.save(conversation);
  }

  /** Edit the last message of the user. */
  editLast() {
    const { tree, conversation } = this.#session;
    const last = tree.path(conversation.leaf).findLast(({ role }) => role === "user");
    if (last) this.list.edit(last);
  }

  /** Stop the answer that is shown. */
  stop() {
    this.#session.controller?.abort();
  }

  async rename(id, title) {
    const conversation = this.#held(id)?.conversation ?? (await store.conversation(id));
    conversation.title = title;
    await store.save(conversation);
    if (id === this.conversation.id) this.#showState();
    await this.history.refresh();
  }

  async remove(id) {
    const session = this.#held(id);
    if (session) {
      session.isRemoved = true;
      session.controller?.abort();
    }
    await store.remove(id);
    this.composer.forgetDraft(id);
    if (id === this.conversation.id) {
      this.create();
      setIdInAddress("");
    }
    await this.history.refresh();
  }

  async changeSettings(settings) {
    const { conversation, tree } = this.#session;
    conversation.settings = settings;
    this.#showState();
    if (tree.all().length) await store.save(conversation);
  }

  #held(id) {
    return this.#running.get(id) ?? (id === this.conversation.id ? this.#session : undefined);
  }

  async #sendAfter(parent, text) {
    const session = this.#session;
    const { conversation, tree } = session;
    if (session.live) return;
    const message = {
      id: newId(),
      conversation: conversation.id,
      parent,
      role: "user",
      created: now(tree.get(parent)?.created),
      content: text,
    };
    if (!tree.all().length) conversation.title = titleOf(text);
    tree.add(message);
    this.list.follow();
    await this.#ask(session, message);
  }

  /** Get an answer to a message. Both are saved before the answer comes. */
  async #ask(session, question) {
    if (session.live) return;
    const { conversation } = session;
    const answered = this.#answer(session, question);
    await store.save(conversation, [question, session.live]);
    if (session === this.#session) setIdInAddress(conversation.id);
    await this.history.refresh();
    this.history.mark(this.conversation.id);
    await answered;
  }

  async #answer(session, question) {
    const { conversation, tree } = session;
    const { settings } = conversation;
    const body = requestFor(this.#model, tree.path(question.id), settings);
    const message = {
      id: newId(),
      conversation: conversation.id,
      parent: question.id,
      role: "assistant",
      created: now(question.created),
      content: "",
    };
    if (settings.schema && this.#model.hasTemplate) message.isJson = true;
    tree.add(message);
    Object.assign(session, { live: message, controller: new AbortController() });
    Object.assign(conversation, { leaf: message.id, updated: now() });
    this.#running.set(conversation.id, session);
    const before = contextUsed(tree.path(question.id), settings.system);
    const paint = throttled(({ tokens, speed }) => {
      if (session !== this.#session) return;
      this.list.grow(message);
      showContext(before + tokens, this.#model.context);
      showSpeed(speed);
    }, PAINT_MS);
    const keep = throttled(() => store.save(conversation, [message]), SAVE_MS);
    this.#render();
    announce("Waiting for the answer");

    let error = null;
    try {
      error = await receiveAnswer(body, message, session.controller.signal, (progress) => {
        paint(progress);
        keep();
      });
    } finally {
      paint.cancel();
      keep.cancel();
      Object.assign(session, { live: null, controller: null });
      this.#running.delete(conversation.id);
      if (!session.isRemoved) await store.save(conversation, [message]);
      if (session === this.#session) this.#finished(message);
    }
    if (error?.needsKey && session === this.#session && (await this.askForKey()))
      await this.retry(message);
  }

  #finished(message) {
    this.#render();
    const { content, error, finish } = message;
    if (error) announce(error);
    else if (finish === "stopped") announce("Stopped");
    else announce(content.length <= SPOKEN ? `Answer: ${content}` : "The answer is complete");
  }

  #show(session) {
    this.#session = session;
    this.list.clear();
    this.#render();
    this.list.follow();
    this.history.mark(session.conversation.id);
  }

  #render() {
    const { tree, conversation, live } = this.#session;
    this.list.show(tree, conversation.leaf, live);
    this.composer.setBusy(live !== null);
    this.#showState();
  }

  /** Show the title, the context and the settings. */
  #showState() {
    const { tree, conversation, live } = this.#session;
    const { title, settings, leaf } = conversation;
    const isEmpty = !tree.all().length;
    this.composer.showDraft(isEmpty ? "" : conversation.id);
    byId("title").textContent = isEmpty ? "New conversation" : title;
    document.title = isEmpty ? "RSR chat" : `${title} - RSR chat`;
    byId("export-one").disabled = isEmpty;
    const line = summary(settings, this.#model.hasTemplate);
    byId("active-settings").textContent = line;
    byId("active-settings").title = line;
    if (live) return;
    const path = tree.path(leaf);
    showContext(path.length ? contextUsed(path, settings.system) : 0, this.#model.context);
    showSpeed(path.at(-1)?.speed ?? 0);
  }
}

/** @returns {Promise<Session | null>} a conversation of the database */
async function storedSession(id) {
  const conversation = await store.conversation(id);
  if (!conversation) return null;
  const messages = await store.messages(id);
  const tree = new Tree(messages);
  if (!tree.get(conversation.leaf)) conversation.leaf = messages.at(-1)?.id ?? null;
  return { conversation, tree, live: null, controller: null };
}

/** @returns {Session} */
function newSession() {
  const time = now();
  return {
    conversation: {
      id: newId(),
      title: "",
      created: time,
      updated: time,
      leaf: null,
      settings: rememberedSettings(),
    },
    tree: new Tree(),
    live: null,
    controller: null,
  };
}
