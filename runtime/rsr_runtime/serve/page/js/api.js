// The server's endpoints.

import { eventData } from "./sse.js";

const KEY = "rsr.key";

/** The API key, kept in this browser. */
export const apiKey = {
  get: () => localStorage.getItem(KEY) ?? "",
  set: (key) => (key ? localStorage.setItem(KEY, key) : localStorage.removeItem(KEY)),
};

/** An error in words for the user. */
export class ServerError extends Error {
  /**
   * @param {string} message
   * @param {{needsKey?: boolean, retryAfter?: number}} [more]  retryAfter in seconds
   */
  constructor(message, { needsKey = false, retryAfter = 0 } = {}) {
    super(message);
    this.needsKey = needsKey;
    this.retryAfter = retryAfter;
  }
}

/**
 * The model of the server.
 * @typedef {object} Model
 * @property {string} id
 * @property {number} context  tokens
 * @property {boolean} hasTemplate  whether it can chat; one without a chat template continues texts
 */

/** @returns {Promise<Model>} */
export async function model() {
  const [models, tokenizer] = await Promise.all([
    request("v1/models"),
    request("v1/tokenizer_info"),
  ]);
  const [first] = (await models.json()).data;
  const { chat_template: template } = await tokenizer.json();
  return { id: first.id, context: first.max_model_len, hasTemplate: template !== null };
}

/**
 * Yield the chunks of an answer.
 *
 * @param {object} body  a request of /v1/chat/completions, or with a prompt of /v1/completions
 * @param {AbortSignal} signal
 */
export async function* answer(body, signal) {
  const response = await request("prompt" in body ? "v1/completions" : "v1/chat/completions", {
    method: "POST",
    body: JSON.stringify(body),
    headers: { "content-type": "application/json" },
    signal,
  });
  try {
    for await (const data of eventData(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ServerError(sentence(chunk.error.message));
      yield chunk;
    }
  } catch (error) {
    if (error instanceof ServerError || signal.aborted) throw error;
    throw new ServerError("The connection to the server broke.");
  }
  throw new ServerError("The server ended the answer early.");
}

async function request(path, options = {}) {
  const key = apiKey.get();
  const headers = { ...options.headers, ...(key && { authorization: `Bearer ${key}` }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new ServerError("The server does not answer. Check that it is running.");
  }
  if (!response.ok) throw await failure(response);
  return response;
}

async function failure(response) {
  const { message } = (await response.json().catch(() => null))?.error ?? {};
  if (response.status === 401)
    return new ServerError(
      apiKey.get() ? "The server does not accept this API key." : "The server needs an API key.",
      { needsKey: true },
    );
  if (response.status === 429) {
    const seconds = Number(response.headers.get("retry-after")) || 0;
    const when = seconds ? ` Try again in ${seconds} s.` : "";
    return new ServerError(`The server is busy with other requests.${when}`, {
      retryAfter: seconds,
    });
  }
  return new ServerError(
    message ? sentence(message) : `The server answered with status ${response.status}.`,
  );
}

function sentence(text) {
  const line = String(text).trim();
  return line.charAt(0).toUpperCase() + line.slice(1) + (/[.!?]$/.test(line) ? "" : ".");
}
