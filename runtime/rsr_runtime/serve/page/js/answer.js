// Receives an answer.

import { answer, ServerError } from "./api.js";

/**
 * Fill a message with the answer to a request.
 *
 * @param {object} body  the request
 * @param {import("./conversation.js").Message} message  gets content, reasoning and figures
 * @param {AbortSignal} signal  stops it
 * @param {(progress: {tokens: number, speed: number}) => void} onchange  called after each piece,
 *   with the tokens so far and per second, both estimates until the answer ends
 * @returns {Promise<ServerError | null>} why it failed
 */
export async function receiveAnswer(body, message, signal, onchange) {
  let tokens = 0;
  let first = 0; // when the first token came
  const progress = () => {
    const seconds = (performance.now() - first) / 1000;
    return { tokens, speed: tokens > 1 && seconds > 0 ? (tokens - 1) / seconds : 0 };
  };
  try {
    for await (const chunk of answer(body, signal)) {
      const choice = chunk.choices[0];
      const { content = choice?.text, reasoning_content: reasoning } = choice?.delta ?? {};
      if (content || reasoning) {
        first ||= performance.now();
        tokens += 1;
        if (reasoning) message.reasoning = (message.reasoning ?? "") + reasoning;
        if (content) {
          if (message.reasoning) message.reasoningMs ??= performance.now() - first;
          message.content += content;
        }
        message.received = tokens;
        onchange(progress());
      }
      if (choice?.finish_reason) message.finish = choice.finish_reason;
      if (chunk.usage)
        message.tokens = {
          prompt: chunk.usage.prompt_tokens,
          completion: chunk.usage.completion_tokens,
        };
      if (chunk.timings) message.speed = chunk.timings.predicted_per_second;
    }
    return null;
  } catch (error) {
    if (signal.aborted) {
      message.finish = "stopped";
      message.speed = progress().speed;
      return null;
    }
    message.finish = "error";
    message.error = error.message;
    if (!(error instanceof ServerError)) throw error;
    return error;
  }
}
