// The chat: sends questions, shows answers while they stream, keeps the revenue counter fresh.
// Text from the server is only ever set as text; links are made from the answer's `ad` objects alone.
import { money, showAuction } from "./auction.js";

const $ = (id) => document.getElementById(id);
const conversation = $("conversation");
const form = $("form");
const question = $("question");
const send = $("send");
const history = [];
let model = "";
let running = null;

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function sponsoredLink(ad) {
  const wrapper = element("span", "ad");
  const link = element("a", "", ad.title);
  link.href = ad.click_url;
  link.target = "_blank";
  link.rel = "sponsored noopener noreferrer";
  link.title = `Sponsored by ${ad.advertiser}; opens in a new tab`;
  link.addEventListener("click", () => setTimeout(refreshLedger, 700));
  wrapper.append(link, " ", element("span", "label", ad.label));
  return wrapper;
}

function turn(who, className) {
  $("welcome")?.remove();
  const article = element("article", `turn ${className}`);
  article.append(element("h3", "hidden", who));
  const body = element("div", "body");
  article.append(body);
  conversation.append(article);
  article.scrollIntoView({ block: "end" });
  return { article, body };
}

async function* serverEvents(response) {
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

function adOptions() {
  const interests = $("interests").value.split(",").map((word) => word.trim()).filter(Boolean).slice(0, 20);
  return {
    enabled: $("enabled").checked,
    consent: $("consent").checked,
    max_ads: Number($("max_ads").value),
    // Without consent the profile does not even leave the browser.
    profile: $("consent").checked ? { interests, location: $("location").value.trim() } : {},
  };
}

async function ask(text) {
  history.push({ role: "user", content: text });
  turn("You", "user").body.textContent = text;
  const { article, body } = turn("Answer", "assistant");
  body.classList.add("writing");
  const cancel = (running = new AbortController());
  setBusy(true);
  let content = "";
  let last = null;
  try {
    const response = await fetch("/v1/chat/completions", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ model, messages: history.slice(-20), stream: true, ads: adOptions() }),
      signal: cancel.signal,
    });
    if (!response.ok) throw new Error((await response.json()).error.message);
    for await (const chunk of serverEvents(response)) {
      if (chunk.error) throw new Error(chunk.error.message);
      const piece = chunk.choices[0]?.delta.content ?? "";
      content += piece;
      if (piece) body.append(chunk.ad ? sponsoredLink(chunk.ad) : piece);
      if (chunk.auction) last = chunk;
      article.scrollIntoView({ block: "end" });
    }
    if (!content) body.append(element("em", "quiet", "The policy wrote an empty answer."));
  } catch (error) {
    const stopped = error.name === "AbortError";
    body.append(element("p", "failure", stopped ? "Stopped." : `No answer: ${error.message}`));
    if (!content) history.pop();
  } finally {
    running = null;
    body.classList.remove("writing");
    setBusy(false);
  }
  if (content) history.push({ role: "assistant", content });
  if (last) {
    await showRecord(last.auction.auction_id);
    const again = element("button", "again", last.ads.length ? `Auction: ${last.ads.length} shown` : "Auction: no ad shown");
    again.type = "button";
    again.addEventListener("click", () => showRecord(last.auction.auction_id, true));
    article.append(again);
    article.scrollIntoView({ block: "end" });
  }
}

async function showRecord(id, focus = false) {
  const response = await fetch(`/v1/auctions/${id}`);
  const place = $("auction");
  if (!response.ok) {
    place.replaceChildren(element("p", "quiet", "This auction's record is no longer kept."));
    return;
  }
  showAuction(place, await response.json());
  if (focus) place.focus();
}

function setBusy(busy) {
  conversation.setAttribute("aria-busy", String(busy));
  send.textContent = busy ? "Stop" : "Ask";
  $("status").textContent = busy ? "The policy is writing." : "";
}

async function refreshLedger() {
  try {
    const report = await (await fetch("/v1/summary")).json();
    const revenue = Object.entries(report.revenue_micros);
    $("revenue").textContent = revenue.length ? revenue.map(([c, m]) => money(m, c)).join(" + ") : money(0, "USD");
    $("clicks").textContent = report.charges;
  } catch {
    $("revenue").textContent = "–";
  }
}

function submit() {
  if (running) return running.abort();
  const text = question.value.trim();
  if (!text || !model) return;
  question.value = "";
  grow();
  ask(text);
}

function grow() {
  question.style.height = "auto";
  question.style.height = `${Math.min(question.scrollHeight + 2, 160)}px`;
}

form.addEventListener("submit", (event) => { event.preventDefault(); submit(); });
question.addEventListener("input", grow);
question.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing && !running) { event.preventDefault(); submit(); }
});
$("examples").addEventListener("click", (event) => {
  if (event.target.tagName === "BUTTON" && model) ask(event.target.textContent);
});
document.addEventListener("visibilitychange", () => { if (!document.hidden) refreshLedger(); });
setInterval(() => { if (!document.hidden) refreshLedger(); }, 5000);

try {
  model = (await (await fetch("/v1/models")).json()).data[0].id;
  $("model").textContent = model;
} catch {
  $("status").textContent = "The server does not answer. Reload the page to try again.";
}
refreshLedger();
