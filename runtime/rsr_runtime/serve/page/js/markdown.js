// Markdown to elements. The text is a model's or a stranger's, so it is not trusted: HTML in it is
// shown as text, images from elsewhere are links, and DOMPurify removes what remains.

import { Marked } from "../vendor/marked.js";
import DOMPurify from "../vendor/dompurify.js";
import hljs from "../vendor/highlight.js";
import { copyText, icon, make } from "./dom.js";

const HIGHLIGHT_LIMIT = 100_000; // characters; longer code stays plain

const escaped = (text) => text.replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);

const marked = new Marked({
  gfm: true,
  breaks: true,
  tokenizer: { html: () => undefined, tag: () => undefined }, // HTML is text like any other
  renderer: {
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
    // The title of the page is the only h1, that of a message an h2.
    heading({ tokens, depth }) {
      const tag = `h${Math.min(6, depth + 2)}`;
      return `<${tag}>${this.parser.parseInline(tokens)}</${tag}>`;
    },
    image({ href, text }) {
      const words = escaped(text || "image");
      return /^data:image\/(png|jpeg|gif|webp);/i.test(href)
        ? `<img src="${escaped(href)}" alt="${words}">`
        : `<a href="${escaped(href)}">${words}</a>`;
    },
  },
});

const purify = DOMPurify();
const RULES = {
  RETURN_DOM_FRAGMENT: true,
  ALLOWED_TAGS: [
    "a",
    "blockquote",
    "br",
    "code",
    "del",
    "em",
    "h3",
    "h4",
    "h5",
    "h6",
    "hr",
    "img",
    "li",
    "ol",
    "p",
    "pre",
    "strong",
    "table",
    "tbody",
    "td",
    "th",
    "thead",
    "tr",
    "ul",
  ],
  ALLOWED_ATTR: ["align", "alt", "class", "href", "src", "start"],
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  ADD_URI_SAFE_ATTR: ["align", "start"], // the expression above is not for these
};
purify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName === "A") {
    node.setAttribute("target", "_blank");
    node.setAttribute("rel", "noopener noreferrer nofollow");
  } else if (node.tagName !== "CODE" && node.tagName !== "SPAN") node.removeAttribute("class");
});

/**
 * Show markdown in an element. Only blocks that changed since the last call are made anew, so a
 * growing text costs what its last block costs.
 *
 * @param {HTMLElement & {blocks?: {key: string, nodes: Node[]}[]}} element
 * @param {string} text
 * @param {boolean} isGrowing  whether the last block may be incomplete
 */
export function showMarkdown(element, text, isGrowing = false) {
  const tokens = marked.lexer(text);
  const references = Object.keys(tokens.links).length; // a late one changes blocks before it
  const shown = tokens.filter(({ type }) => type !== "space" && type !== "def");
  const before = element.blocks ?? [];
  const blocks = shown.map((token, i) => {
    const isOpen = isGrowing && i === shown.length - 1;
    const key = `${references} ${isOpen} ${token.raw}`;
    return before[i]?.key === key ? before[i] : { key, token, isOpen };
  });
  let same = 0;
  while (same < blocks.length && blocks[same] === before[same]) same += 1;
  for (const block of before.slice(same)) for (const node of block.nodes) node.remove();
  if (!before.length) element.replaceChildren();
  for (const block of blocks.slice(same)) {
    block.nodes ??= elements(block.token, block.isOpen);
    element.append(...block.nodes);
  }
  element.blocks = blocks.map(({ key, nodes }) => ({ key, nodes }));
}

/** Show JSON as code. */
export function showJson(element, text) {
  let shown = text;
  try {
    shown = JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    // It is not whole yet.
  }
  element.blocks = undefined;
  element.replaceChildren(codeBlock(shown, "json", false));
}

function elements(token, isOpen) {
  const fragment = purify.sanitize(marked.parser([token]), RULES);
  for (const pre of fragment.querySelectorAll("pre")) {
    const code = pre.querySelector("code");
    const language = /language-(\S+)/.exec(code?.className ?? "")?.[1] ?? "";
    pre.replaceWith(codeBlock(pre.textContent.replace(/\n$/, ""), language, isOpen));
  }
  for (const table of fragment.querySelectorAll("table")) {
    const frame = make("div", {
      class: "table",
      role: "region",
      "aria-label": "Table",
      tabindex: "0",
    });
    table.replaceWith(frame);
    frame.append(table);
  }
  return [...fragment.childNodes];
}

/** Return code under a line with its language and a button to copy it. */
function codeBlock(text, language, isOpen) {
  const code = make("code", {});
  const known = hljs.getLanguage(language);
  if (known && !isOpen && text.length < HIGHLIGHT_LIMIT)
    code.append(
      purify.sanitize(hljs.highlight(text, { language }).value, {
        RETURN_DOM_FRAGMENT: true,
        ALLOWED_TAGS: ["span"],
        ALLOWED_ATTR: ["class"],
      }),
    );
  else code.textContent = text;
  const name = known?.name ?? language;
  const copy = make(
    "button",
    {
      type: "button",
      class: "plain",
      "aria-label": "Copy code",
      onclick: () => copyText(text, copy),
    },
    icon("copy"),
    "Copy",
  );
  return make(
    "div",
    { class: "code" },
    make("div", { class: "code-top" }, make("span", {}, name || "Text"), copy),
    make(
      "pre",
      { tabindex: "0", role: "region", "aria-label": `Code${name ? `, ${name}` : ""}` },
      code,
    ),
  );
}
