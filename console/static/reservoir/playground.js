// A chat against a scope, by the server's own API.
import { ask } from "./asking.js";

const form = document.getElementById("playground");
const talk = document.getElementById("talk");
const memories = document.getElementById("memories");
const recalled = document.getElementById("recalled");
let history = [];

function element(name, className, text) {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

function said(role, text) {
  if (!history.length && role === "user") talk.replaceChildren();
  const turn = element("article", `said ${role}`, "");
  turn.append(element("span", `role ${role}`, role), element("div", "text plain", text));
  talk.append(turn);
  turn.scrollIntoView({ block: "nearest" });
  return turn.lastChild;
}

const base = () => {
  const [partition, instance] = ["partition", "instance"].map((name) => encodeURIComponent(form[name].value.trim()));
  return `/v1/partition/${partition}/instance/${instance}`;
};

async function remember(query, key) {
  const headers = { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  const answer = await fetch(`${base()}/recall`, { method: "POST", headers, body: JSON.stringify({ query }) });
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error?.message || answer.statusText);
  const shown = [...found.memories, ...found.latest].filter((one) => one.kept);
  recalled.textContent = `${shown.length} of ${found.memories.length + found.latest.length}, ${found.tokens} tokens`;
  memories.replaceChildren(...shown.map((one, index) => {
    const card = element("li", "recalled", "");
    const header = element("header", "", "");
    const score = typeof one.score === "number" ? ` · ${one.score.toFixed(2)}` : "";
    header.append(
      element("span", "nth", String(index + 1)),
      element("span", `role ${one.role}`, one.name || one.role),
      element("span", "quiet", (one.created_at || "").slice(0, 16).replace("T", " ")),
      element("span", "why", (one.why || "").replace(/^shown: /, "") + score),
    );
    card.append(header, element("div", "text plain", one.text || one.content || ""));
    return card;
  }));
  if (!shown.length) memories.replaceChildren(element("li", "quiet", "Nothing here bears on this message."));
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = form.text.value.trim();
  if (!text) return;
  const button = document.querySelector("button.button[form=playground]:not([type=button])");
  const key = form.key.value;
  button.disabled = true;
  form.text.value = "";
  said("user", text);
  history.push({ role: "user", content: text });
  const place = said("assistant", "…");
  remember(text, key).catch((error) => memories.replaceChildren(element("li", "failed", error.message)));
  const body = JSON.stringify({ model: form.model.value.trim(), stream: true, messages: history });
  const headers = form.store.checked ? {} : { "X-Reservoir-Store": "off" };
  let answer = "";
  try {
    await ask(`${base()}/chat/completions`, body, { key, headers, told: (now) => { answer = now; place.textContent = now; } });
    history.push({ role: "assistant", content: answer });
  } catch (error) {
    place.classList.add("failed");
    place.textContent = error.message;
    history.pop();
  }
  button.disabled = false;
  form.text.focus();
});

form.text.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    form.requestSubmit();
  }
});

document.getElementById("anew").addEventListener("click", () => {
  history = [];
  talk.replaceChildren();
  form.text.focus();
});
