// Asks the server's own API from a page: the same door, and the same memory, as any app.
"use strict";

// Sends a chat request and calls `told` with the answer's text as it grows. Resolves to the answer's headers.
export async function ask(url, body, { key, headers = {}, told, signal }) {
  const sent = { "Content-Type": "application/json", ...headers };
  if (key) sent.Authorization = `Bearer ${key}`;
  const answer = await fetch(url, { method: "POST", headers: sent, body, signal });
  if (!answer.ok) throw new Error(await reason(answer));
  if (!(answer.headers.get("content-type") || "").includes("event-stream")) {
    told(textOf((await answer.json()).choices?.[0]?.message));
    return answer.headers;
  }
  let text = "", rest = "";
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let { value, done } = await reader.read(); !done; { value, done } = await reader.read()) {
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:") || line.includes("[DONE]")) continue;
      const event = JSON.parse(line.slice(5));
      if (event.error) throw new Error(event.error.message || "The provider failed.");
      text += textOf(event.choices?.[0]?.delta);
      told(text);
    }
  }
  return answer.headers;
}

function textOf(message) {
  if (typeof message?.content === "string") return message.content;
  const calls = (message?.tool_calls || []).map((call) => `calls ${call.function?.name || "a tool"}`);
  return calls.join(", ");
}

async function reason(answer) {
  const text = await answer.text();
  try {
    return `${answer.status}: ${JSON.parse(text).error.message}`;
  } catch {
    return `${answer.status}: ${text.slice(0, 500) || answer.statusText}`;
  }
}
