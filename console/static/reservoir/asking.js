// Asks the server's own API from a page: the same door, and the same memory, as any app.
"use strict";

// Sends a request in any dialect and calls `told` with the answer's text as it grows. Resolves to the answer's headers.
export async function ask(url, body, { key, keyHeader = "authorization", headers = {}, told, signal }) {
  const sent = { "Content-Type": "application/json", ...headers };
  if (key) sent[keyHeader] = keyHeader === "authorization" ? `Bearer ${key}` : key;
  const answer = await fetch(url, { method: "POST", headers: sent, body, signal });
  if (!answer.ok) throw new Error(await reason(answer));
  if (!(answer.headers.get("content-type") || "").includes("event-stream")) {
    told(textOf(await answer.json()));
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
      const error = event.error || event.response?.error;
      if (error) throw new Error(error.message || "The provider failed.");
      text += pieceOf(event);
      told(text);
    }
  }
  return answer.headers;
}

// The text of a whole answer: of a choice, of Responses' items, or of Anthropic's blocks.
function textOf(answer) {
  if (answer.choices) return said(answer.choices[0]?.message);
  const parts = (answer.output || answer.content || []).flatMap((item) => (item.type === "message" ? item.content : item));
  return parts.map((part) => part.text || part.refusal || called(part)).filter(Boolean).join("\n") || answer.status || "";
}

// What one event of a stream adds to the text.
function pieceOf(event) {
  switch (event.type) {
    case "response.output_text.delta":
    case "response.refusal.delta":
      return event.delta;
    case "response.output_item.added":
      return called(event.item);
    case "content_block_start":
      return event.content_block.text || called(event.content_block);
    case "content_block_delta":
      return event.delta.text || "";
    default:
      return said(event.choices?.[0]?.delta);
  }
}

function said(message) {
  if (typeof message?.content === "string" && message.content) return message.content;
  const names = (message?.tool_calls || []).map((call) => call.function?.name || call.custom?.name);
  return names.filter(Boolean).map((name) => `calls ${name}`).join(", ");
}

function called(item) {
  return ["function_call", "custom_tool_call", "tool_use"].includes(item?.type) ? `calls ${item.name || "a tool"}` : "";
}

async function reason(answer) {
  const text = await answer.text();
  try {
    return `${answer.status}: ${JSON.parse(text).error.message}`;
  } catch {
    return `${answer.status}: ${text.slice(0, 500) || answer.statusText}`;
  }
}
