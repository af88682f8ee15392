// Shows the messages of a conversation, and follows the end of it while it grows.

import { byId } from "./dom.js";
import { MessageView } from "./message_view.js";

const AHEAD = "1200px"; // how far from the visible part messages are shown as markdown
const FULL_AT_ONCE = 4; // messages at the end that are shown so from the start

export class MessageList {
  #views = new Map();
  #container = byId("messages");
  #scroller = byId("scroller");
  #isFollowing = true;
  #top = 0; // where it was scrolled to
  #observer = new IntersectionObserver(
    (entries) => {
      for (const { isIntersecting, target } of entries)
        if (isIntersecting) {
          this.#observer.unobserve(target);
          this.#views.get(target.dataset.id)?.fill();
        }
    },
    { root: this.#scroller, rootMargin: AHEAD },
  );

  /** @param {import("./message_view.js").Actions} actions */
  constructor(actions) {
    this.actions = actions;
    this.#scroller.addEventListener(
      "scroll",
      () => {
        const { scrollTop, clientHeight, scrollHeight } = this.#scroller;
        // Only a user scrolls back; content that grows does not.
        if (scrollHeight - clientHeight - scrollTop < 48) this.#isFollowing = true;
        else if (scrollTop < this.#top) this.#isFollowing = false;
        this.#top = scrollTop;
        byId("to-end").hidden = this.#isFollowing;
      },
      { passive: true },
    );
    new ResizeObserver(() => this.#isFollowing && this.#scrollToEnd()).observe(this.#container);
    byId("to-end").addEventListener("click", () => this.follow());
  }

  /**
   * Show a path of messages; those that are shown already stay.
   *
   * @param {import("./conversation.js").Tree} tree
   * @param {string | null} leaf  the last message
   * @param {import("./conversation.js").Message | null} live  the one that grows
   */
  show(tree, leaf, live) {
    const path = tree.path(leaf);
    const kept = new Set(path);
    for (const [id, view] of this.#views)
      if (!kept.has(view.message)) {
        this.#observer.unobserve(view.element);
        view.element.remove();
        this.#views.delete(id);
      }
    const added = document.createDocumentFragment();
    path.forEach((message, i) => {
      let view = this.#views.get(message.id);
      if (!view) {
        view = new MessageView(message, this.actions);
        this.#views.set(message.id, view);
        added.append(view.element);
        if (i >= path.length - FULL_AT_ONCE) view.fill();
        else this.#observer.observe(view.element);
      }
      view.finish(tree.siblings(message), message === live, live !== null && message !== live);
    });
    this.#container.append(added);
  }

  /** Show what a growing message has now. */
  grow(message) {
    const view = this.#views.get(message.id);
    if (view?.message === message) view.grow();
  }

  /** Show the field to edit a message. */
  edit(message) {
    this.#views.get(message.id)?.edit();
  }

  /** Focus a button that switches versions, or the other one if there is no version beyond. */
  focusVersions(message, label) {
    const buttons = this.#views.get(message.id).element.querySelector(".branch");
    const same = buttons.querySelector(`[aria-label="${label}"]:enabled`);
    (same ?? buttons.querySelector("button:enabled")).focus();
  }

  /** Remove all, before another conversation is shown. */
  clear() {
    this.#observer.disconnect();
    this.#views.clear();
    this.#container.replaceChildren();
    this.follow();
  }

  /** Go to the end and stay there. */
  follow() {
    this.#isFollowing = true;
    byId("to-end").hidden = true;
    this.#scrollToEnd();
  }

  #scrollToEnd() {
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
  }
}
