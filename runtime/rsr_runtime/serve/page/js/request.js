// The request for the next answer of a conversation.

import { NUMBERS } from "./settings.js";

const CONTINUATION = 256; // tokens; a text of a base model need not end by itself

/**
 * @param {import("./api.js").Model} model
 * @param {import("./conversation.js").Message[]} path  up to the message to be answered
 * @param {import("./settings.js").Settings} settings
 */
export function requestFor(model, path, settings) {
  const common = { model: model.id, stream: true, stream_options: { include_usage: true } };
  if (!model.hasTemplate)
    return {
      ...common,
      prompt: path.at(-1).content,
      max_tokens: CONTINUATION,
      ...sampling(settings),
    };
  const messages = turns(path);
  if (settings.system) messages.unshift({ role: "system", content: settings.system });
  const body = { ...common, messages, ...sampling(settings) };
  if (settings.thinking)
    body.chat_template_kwargs = { enable_thinking: settings.thinking === "on" };
  if (settings.schema)
    body.response_format = {
      type: "json_schema",
      json_schema: { name: "answer", strict: true, schema: JSON.parse(settings.schema) },
    };
  return body;
}

/** Return how tokens are chosen, and when a text ends. */
function sampling(settings) {
  const found = {};
  for (const [name] of NUMBERS) if (settings[name] !== undefined) found[name] = settings[name];
  if (settings.stop) found.stop = settings.stop.split("\n").filter((line) => line !== "");
  return found;
}

/**
 * Return the messages to send. Their roles alternate, as some chat templates demand: a message
 * without an answer is joined with the next one.
 */
function turns(path) {
  const found = [];
  for (const { role, content } of path) {
    if (!content) continue;
    const last = found.at(-1);
    if (last?.role === role) last.content += `\n\n${content}`;
    else found.push({ role, content });
  }
  return found;
}
