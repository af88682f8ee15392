// The request for the next answer of a conversation.

import { NUMBERS } from "./settings.js";

/**
 * @param {string} model
 * @param {import("./conversation.js").Message[]} path  up to the message to be answered
 * @param {import("./settings.js").Settings} settings
 */
export function chatRequest(model, path, settings) {
  const messages = turns(path);
  if (settings.system) messages.unshift({ role: "system", content: settings.system });
  const body = { model, messages, stream: true, stream_options: { include_usage: true } };
  for (const [name] of NUMBERS) if (settings[name] !== undefined) body[name] = settings[name];
  if (settings.stop) body.stop = settings.stop.split("\n").filter((line) => line !== "");
  if (settings.thinking)
    body.chat_template_kwargs = { enable_thinking: settings.thinking === "on" };
  if (settings.schema)
    body.response_format = {
      type: "json_schema",
      json_schema: { name: "answer", strict: true, schema: JSON.parse(settings.schema) },
    };
  return body;
}

/** Return the turns. Roles alternate: a message without an answer is joined with the next one. */
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
