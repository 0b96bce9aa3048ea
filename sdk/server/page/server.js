// Talks to the server: pictures and questions up, server-sent events down.

let key = "";

export function setKey(text) {
  key = text;
}

export class ServerError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function call(path, options = {}) {
  const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  const response = await fetch(path, { ...options, headers });
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  const wait = response.headers.get("Retry-After");
  const message = body?.error?.message ?? response.statusText;
  throw new ServerError(response.status, wait ? `${message}; try again in ${wait} s` : message);
}

export async function model() {
  return (await (await call("v1/models")).json()).data[0];
}

export async function* analyze(picture, signal) {
  const form = new FormData();
  form.append("image", picture);
  yield* events(await call("v1/stream", { method: "POST", body: form, signal }));
}

export async function* ask(picture, question, name) {
  const url = await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(picture);
  });
  const content = [
    { type: "text", text: question },
    { type: "image_url", image_url: { url: url.replace(/^data:[^;,]*/, "data:image/x") } },
  ];
  const body = JSON.stringify({ model: name, stream: true, messages: [{ role: "user", content }] });
  const response = await call("v1/chat/completions", { method: "POST", body, headers: { "Content-Type": "application/json" } });
  for await (const { data } of events(response)) {
    if (data !== "[DONE]") yield data.choices[0]?.delta.content ?? "";
  }
}

async function* events(response) {
  let rest = "";
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const fields = Object.fromEntries(block.split("\n").map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 2)]));
      const data = fields.data === "[DONE]" ? fields.data : JSON.parse(fields.data);
      if (fields.event === "error") throw new ServerError(data.error.code, data.error.message);
      yield { event: fields.event, data };
    }
  }
}
