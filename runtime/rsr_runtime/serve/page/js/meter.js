// How much of the context is in use, and how fast an answer comes.

import { byId } from "./dom.js";

const CHARACTERS_PER_TOKEN = 4; // of English; only until the server has counted

/**
 * Return the tokens that a conversation takes: those that the server counted, and an estimate of
 * what came after.
 *
 * @param {import("./conversation.js").Message[]} path
 * @param {string} system  the system prompt
 */
export function contextUsed(path, system = "") {
  let characters = 0;
  for (const { tokens, content } of path.toReversed()) {
    if (tokens)
      return tokens.prompt + tokens.completion + Math.ceil(characters / CHARACTERS_PER_TOKEN);
    characters += content.length;
  }
  return Math.ceil((characters + system.length) / CHARACTERS_PER_TOKEN);
}

/**
 * @param {number} used  tokens
 * @param {number} context  the largest number of tokens; 0: not known
 */
export function showContext(used, context) {
  const gauge = byId("gauge");
  gauge.hidden = !context || !used;
  if (gauge.hidden) return;
  const share = Math.min(1, used / context);
  const text = `${used.toLocaleString("en")} / ${context.toLocaleString("en")}`;
  gauge.setAttribute("aria-valuemax", context);
  gauge.setAttribute("aria-valuenow", Math.min(used, context));
  gauge.setAttribute("aria-valuetext", `${text} tokens`);
  gauge.title = `${text} tokens of the context`;
  gauge.classList.toggle("nearly-full", share > 0.9);
  gauge.querySelector(".used").setAttribute("stroke-dasharray", `${100 * share} 100`);
  byId("gauge-text").textContent = text;
}

/** Return a speed in words. */
export function speedText(speed) {
  return `${speed < 10 ? speed.toFixed(1) : Math.round(speed)} tokens/s`;
}

/** @param {number} speed  tokens per second; 0: none */
export function showSpeed(speed) {
  byId("speed").textContent = speed ? speedText(speed) : "";
}
