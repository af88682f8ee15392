// What a conversation asks of the model, as a form.

import { byId, make } from "./dom.js";
import { showNotice } from "./notice.js";

/**
 * @typedef {object} Settings  a setting that is missing is left to the model
 * @property {string} [system]  the system prompt
 * @property {"on" | "off"} [thinking]
 * @property {string} [schema]  a JSON schema
 * @property {string} [stop]  strings that end an answer, one a line
 * @property {number} [temperature]  ... and the other numbers below
 */

/** Name, label, minimum, maximum, step and explanation of each number. */
export const NUMBERS = [
  ["temperature", "Temperature", 0, 2, 0.05, "0: always the most likely token"],
  ["top_p", "Top p", 0, 1, 0.01, "least probability kept in sum"],
  ["top_k", "Top k", 0, 1e6, 1, "tokens kept; 0: all"],
  ["min_p", "Min p", 0, 1, 0.01, "share of the best token's"],
  ["repetition_penalty", "Repetition penalty", 0.1, 10, 0.05, "1: none"],
  ["presence_penalty", "Presence penalty", -2, 2, 0.1, "0: none"],
  ["frequency_penalty", "Frequency penalty", -2, 2, 0.1, "0: none"],
  ["seed", "Seed", 0, Number.MAX_SAFE_INTEGER, 1, "the same answer again"],
  ["max_tokens", "Maximum tokens", 1, 1e6, 1, "of an answer"],
];
const TEXTS = ["system", "schema", "stop"];
const OF_CHATS = ["system", "thinking", "schema"]; // not of texts that are continued
const REMEMBERED = "rsr.settings";

/** Return the settings for a new conversation: those set last. */
export function rememberedSettings() {
  try {
    return cleanSettings(JSON.parse(localStorage.getItem(REMEMBERED)));
  } catch {
    return {};
  }
}

/** Return the known settings with a valid value. @returns {Settings} */
export function cleanSettings(found) {
  const settings = {};
  for (const name of TEXTS)
    if (typeof found?.[name] === "string" && found[name].trim()) settings[name] = found[name];
  if (["on", "off"].includes(found?.thinking)) settings.thinking = found.thinking;
  for (const [name, , least, most] of NUMBERS) {
    const value = found?.[name];
    if (typeof value === "number" && value >= least && value <= most) settings[name] = value;
  }
  return settings;
}

/** Return a line that names the settings which differ from the model's. */
export function summary(settings, isChat) {
  const parts = [];
  if (isChat) {
    if (settings.system) parts.push("system prompt");
    if (settings.thinking) parts.push(`thinking ${settings.thinking}`);
    if (settings.schema) parts.push("JSON schema");
  }
  for (const [name, label] of NUMBERS)
    if (settings[name] !== undefined) parts.push(`${label.toLowerCase()} ${settings[name]}`);
  return parts.join(" · ");
}

/** The form in the dialog. */
export class SettingsForm {
  #fields = new Map();
  #dialog = byId("settings");
  #settings = {}; // those that apply

  /**
   * @param {(settings: Settings) => void} onchange
   * @param {{get: () => string, set: (key: string) => void}} key  the API key
   */
  constructor(onchange, key) {
    this.#build();
    byId("settings-fields").addEventListener("input", () => {
      this.#check();
      this.#settings = this.#read();
      localStorage.setItem(REMEMBERED, JSON.stringify(this.#settings));
      onchange(this.#settings);
      key.set(this.#fields.get("key").value.trim());
    });
    byId("reset-settings").addEventListener("click", () => {
      for (const [name, field] of this.#fields) if (name !== "key") field.value = "";
      this.#fields.get("system").dispatchEvent(new Event("input", { bubbles: true }));
    });
    this.#dialog.addEventListener("close", () => {
      const wrong = this.#check();
      if (wrong.length) showNotice(`Settings that were not changed: ${wrong.join(" ")}`);
    });
    this.key = key;
  }

  /** Show or hide what only chats have. */
  setIsChat(isChat) {
    for (const name of OF_CHATS) this.#fields.get(name).parentElement.hidden = !isChat;
  }

  /** Show the dialog. @param {Settings} settings */
  open(settings) {
    this.#settings = settings;
    for (const [name, field] of this.#fields) field.value = settings[name] ?? "";
    this.#fields.get("key").value = this.key.get();
    this.#check();
    this.#dialog.showModal();
  }

  #read() {
    const found = {};
    for (const [name, field] of this.#fields) {
      if (field.getAttribute("aria-invalid") === "true") found[name] = this.#settings[name];
      else if (field.type === "number")
        found[name] = field.value === "" ? undefined : field.valueAsNumber;
      else found[name] = field.value;
    }
    return cleanSettings(found);
  }

  /** Mark what is wrong. @returns {string[]} it in words */
  #check() {
    const found = [];
    for (const [name, field] of this.#fields) {
      const wrong = name === "schema" ? schemaError(field.value) : field.validationMessage;
      field.setAttribute("aria-invalid", String(Boolean(wrong)));
      byId(`${field.id}-wrong`).textContent = wrong;
      if (wrong) found.push(`${field.labels[0].textContent}: ${wrong}`);
    }
    return found;
  }

  #build() {
    const thinking = make(
      "select",
      {},
      make("option", { value: "" }, "Model's default"),
      make("option", { value: "on" }, "On"),
      make("option", { value: "off" }, "Off"),
    );
    const numbers = NUMBERS.map(([name, label, min, max, step, help]) =>
      this.#field(
        name,
        label,
        make("input", {
          type: "number",
          min,
          max,
          step,
          placeholder: "model's",
          inputmode: "decimal",
        }),
        help,
      ),
    );
    byId("settings-fields").append(
      group(
        "Conversation",
        this.#field("system", "System prompt", make("textarea", { rows: 4 })),
        this.#field(
          "thinking",
          "Thinking",
          thinking,
          "For models that can reason before they answer.",
        ),
      ),
      group(
        "Answer",
        this.#field(
          "schema",
          "JSON schema",
          make("textarea", {
            rows: 4,
            class: "code-field",
            spellcheck: "false",
            placeholder: '{"type": "object", ...}',
          }),
          "The answer will be JSON that follows it.",
        ),
        this.#field(
          "stop",
          "Stop strings",
          make("textarea", { rows: 2, class: "code-field", spellcheck: "false" }),
          "One a line. The answer ends before any of them.",
        ),
      ),
      group("Sampling", make("div", { class: "pairs" }, ...numbers)),
      group(
        "Access",
        this.#field(
          "key",
          "API key",
          make("input", { type: "password", autocomplete: "off" }),
          "Only if the server asks for one. Kept in this browser.",
        ),
      ),
    );
  }

  #field(name, label, input, help = "") {
    input.id = `setting-${name}`;
    input.setAttribute("aria-describedby", `${input.id}-help ${input.id}-wrong`);
    this.#fields.set(name, input);
    return make(
      "div",
      { class: "field" },
      make("label", { for: input.id }, label),
      input,
      make("p", { class: "quiet", id: `${input.id}-help` }, help),
      make("p", { class: "wrong", id: `${input.id}-wrong`, "aria-live": "polite" }),
    );
  }
}

function group(title, ...fields) {
  return make("fieldset", {}, make("legend", {}, title), ...fields);
}

function schemaError(text) {
  if (!text.trim()) return "";
  try {
    const schema = JSON.parse(text);
    const isObject = typeof schema === "object" && schema !== null && !Array.isArray(schema);
    return isObject ? "" : "A schema is a JSON object.";
  } catch (error) {
    return `Not JSON yet: ${error.message}`;
  }
}
