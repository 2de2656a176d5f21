// What one Node client does, driven by tests/clients/newest/test_node.py: CLIENT ACTION BASE_URL TURNS, where TURNS is a
// JSON list of messages. Prints one JSON object: {"text"} or {"error", "status", "message"}.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, stepCountIs, streamText, tool } from "ai";
import OpenAI from "openai";
import { z } from "zod";

const [client, action, baseURL, turns] = process.argv.slice(2);
const model = "gpt-4";
const apiKey = "sk-client";
const messages = JSON.parse(turns);
const weather = ({ city }) => `18 degrees in ${city}`;
const clock = ({ city }) => `noon in ${city}`;

function openai() {
  const openai = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
  const properties = { city: { type: "string" } };
  const schema = (name, run) => ({
    type: "function",
    function: { name, function: run, parse: JSON.parse, parameters: { type: "object", properties } },
  });
  return {
    async ask() {
      const answer = await openai.chat.completions.create({ model, messages });
      return answer.choices[0].message.content;
    },
    async stream() {
      let text = "";
      for await (const chunk of await openai.chat.completions.create({ model, messages, stream: true })) {
        text += chunk.choices[0]?.delta.content ?? "";
      }
      return text;
    },
    async leave() {
      const stream = await openai.chat.completions.create({ model, messages, stream: true });
      for await (const chunk of stream) {
        if (chunk.choices[0]?.delta.content) {
          stream.controller.abort();
          break;
        }
      }
      return "";
    },
    async tools() {
      const tools = [schema("weather", weather), schema("clock", clock)];
      return await openai.chat.completions.runTools({ model, messages, tools }).finalContent();
    },
  };
}

function aiSdk() {
  const provider = createOpenAICompatible({ name: "reservoir", baseURL, apiKey });
  const asked = { model: provider(model), messages, maxRetries: 0 };
  const inputSchema = z.object({ city: z.string() });
  const described = (execute) => tool({ description: "About a city.", inputSchema, execute: async (x) => execute(x) });
  return {
    ask: async () => (await generateText(asked)).text,
    stream: async () => await streamText(asked).text,
    async leave() {
      const controller = new AbortController();
      for await (const text of streamText({ ...asked, abortSignal: controller.signal }).textStream) {
        if (text) {
          controller.abort();
          break;
        }
      }
      return "";
    },
    async tools() {
      const tools = { weather: described(weather), clock: described(clock) };
      return (await generateText({ ...asked, tools, stopWhen: stepCountIs(5) })).text;
    },
  };
}

try {
  const text = await { openai, "ai-sdk": aiSdk }[client]()[action]();
  console.log(JSON.stringify({ text }));
} catch (error) {
  const status = error.status ?? error.statusCode;
  console.log(JSON.stringify({ error: error.constructor.name, status, message: error.message }));
}
// What was aborted must be closed by the client, so the process stays until its connections have ended.
