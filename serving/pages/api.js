// Requests to this router with the key of this tab, or the session of this browser; a failure is an error with the router's message.

const SLOT = "llm-auction-key";

export const key = {
  get: () => sessionStorage.getItem(SLOT) ?? "",
  set: (secret) => sessionStorage.setItem(SLOT, secret),
  remove: () => sessionStorage.removeItem(SLOT),
};

export class RequestError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export async function request(path, { method = "GET", body, signal, secret = key.get() } = {}) {
  // A session's cookie counts beside this header alone, which no page of another origin can send.
  const headers = { "X-LLM-Auction-Console": "1" };
  if (secret) headers.Authorization = `Bearer ${secret}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new RequestError(0, "the router cannot be reached");
  }
  if (response.ok) return response;
  let message = `the router answered with status ${response.status}`;
  try {
    message = (await response.json()).error.message;
  } catch { /* not an answer of the router itself, but of a proxy */ }
  if (response.status === 401) document.dispatchEvent(new CustomEvent("key-rejected", { detail: secret }));
  throw new RequestError(response.status, message);
}

export const read = async (path, options) => (await request(path, options)).json();

export async function* serverEvents(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer += value;
    const events = buffer.split("\n\n");
    buffer = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

// Calls `work` now and every `milliseconds` while `wanted()` is true and the page is visible. Returns a function that
// calls it at once; a call while it runs takes place when it has ended.
export function polling(work, milliseconds, wanted) {
  let timer = 0;
  let again = false;
  let busy = false;
  async function poll() {
    clearTimeout(timer);
    if (busy) {
      again = true;
      return;
    }
    busy = true;
    try {
      if (wanted() && !document.hidden) await work();
    } finally {
      busy = false;
    }
    timer = setTimeout(poll, again ? 0 : milliseconds);
    again = false;
  }
  document.addEventListener("visibilitychange", () => { if (!document.hidden) poll(); });
  return poll;
}
