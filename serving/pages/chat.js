// The playground: sends questions, shows answers while they stream, and the auction of each answer.
// Links are made from the `ad` objects of the answer alone, never from its text.
import { button, byId, element, outwardLink, setText } from "./elements.js";
import { read, request, serverEvents } from "./api.js";
import { showAuction } from "./auction.js";

const [conversation, question, send, panel] = ["conversation", "question", "send", "auction"].map(byId);
const history = [];
const welcome = byId("welcome");
const emptyPanel = [...panel.childNodes];
let model = "";
let running = null;

export async function enter() {
  if (model) return;
  try {
    model = (await read("/v1/models")).data[0].id;
    setText(byId("model"), model);
    setText(byId("status"), "");
    // On a phone the focus would open a keyboard over half of the page.
    if (matchMedia("(pointer: fine)").matches) question.focus({ preventScroll: true });
  } catch (error) {
    setText(byId("status"), `No answers at the moment: ${error.message}. Reload the page to try again.`);
  }
}

// Removes the conversation of the former key.
export function reset() {
  running?.abort();
  history.length = 0;
  model = "";
  conversation.replaceChildren(welcome);
  panel.replaceChildren(...emptyPanel);
}

function sponsoredLink(ad) {
  const link = outwardLink(ad.click_url, ad.title, {
    rel: "sponsored noopener noreferrer",
    title: `Sponsored by ${ad.advertiser}; opens in a new tab`,
  });
  link.addEventListener("click", () => document.dispatchEvent(new CustomEvent("link-followed")));
  return element("span", { class: "ad" }, link, " ", element("span", { class: "label" }, ad.label));
}

function turn(who, className) {
  welcome.remove();
  const body = element("div", { class: "body" });
  const article = element("article", { class: `turn ${className}` }, element("h3", { class: "hidden" }, who), body);
  conversation.append(article);
  article.scrollIntoView({ block: "end" });
  return { article, body };
}

function adOptions() {
  const interests = byId("interests").value.split(",").map((word) => word.trim()).filter(Boolean).slice(0, 20);
  const consent = byId("consent").checked;
  return {
    enabled: byId("enabled").checked,
    consent,
    max_ads: Number(byId("max_ads").value),
    // Without consent the profile does not leave the browser.
    profile: consent ? { interests, location: byId("location").value.trim() } : {},
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
    const response = await request("/v1/chat/completions", {
      method: "POST",
      body: { model, messages: history.slice(-20), stream: true, ads: adOptions() },
      signal: cancel.signal,
    });
    for await (const chunk of serverEvents(response)) {
      if (chunk.error) throw new Error(chunk.error.message);
      const piece = chunk.choices[0]?.delta.content ?? "";
      content += piece;
      if (piece) body.append(chunk.ad ? sponsoredLink(chunk.ad) : piece);
      if (chunk.auction) last = chunk;
      article.scrollIntoView({ block: "end" });
    }
    if (!content) body.append(element("em", { class: "quiet" }, "The policy wrote an empty answer."));
  } catch (error) {
    const stopped = error.name === "AbortError";
    body.append(element("p", { class: "failure" }, stopped ? "Stopped." : `No answer: ${error.message}`));
    if (!content) history.pop();
  } finally {
    running = null;
    body.classList.remove("writing");
    setBusy(false);
  }
  if (content) history.push({ role: "assistant", content });
  if (last && article.isConnected) {
    const id = last.auction.auction_id;
    const shown = last.ads.length;
    const open = button(shown ? `Auction: ${shown} shown` : "Auction: no ad shown", () => showRecord(id, open, true), { class: "again" });
    article.append(open);
    await showRecord(id, open);
    article.scrollIntoView({ block: "end" });
  }
}

// Shows an auction record and marks the button it belongs to; `focus` moves the focus to the panel.
async function showRecord(id, source, focus = false) {
  for (const other of conversation.querySelectorAll(".again")) other.toggleAttribute("aria-pressed", false);
  source.setAttribute("aria-pressed", "true");
  panel.setAttribute("aria-busy", "true");
  try {
    const record = await read(`/v1/auctions/${id}`);
    const back = button("Back to the answer", () => { source.scrollIntoView({ block: "center" }); source.focus(); }, { class: "plain back" });
    showAuction(panel, record, back);
  } catch (error) {
    const why = error.status === 404 ? "The record of this auction is no longer available." : `No record: ${error.message}`;
    panel.replaceChildren(element("p", { class: "quiet" }, why));
  }
  panel.removeAttribute("aria-busy");
  if (focus) {
    panel.focus({ preventScroll: true });
    panel.parentElement.scrollIntoView({ block: "start" });
  }
}

function setBusy(busy) {
  conversation.setAttribute("aria-busy", String(busy));
  setText(send, busy ? "Stop" : "Ask");
  setText(byId("status"), busy ? "The policy is writing." : "");
}

async function submit() {
  if (running) return running.abort();
  const text = question.value.trim();
  if (!text) return;
  // A question typed before the model's name has arrived waits for it; on failure `enter` has shown the error.
  if (!model) await enter();
  if (!model || running || question.value.trim() !== text) return;
  question.value = "";
  grow();
  ask(text);
}

function grow() {
  question.style.height = "auto";
  question.style.height = `${Math.min(question.scrollHeight + 2, 160)}px`;
}

byId("form").addEventListener("submit", (event) => { event.preventDefault(); submit(); });
question.addEventListener("input", grow);
question.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing && !running) { event.preventDefault(); submit(); }
});
byId("examples").addEventListener("click", (event) => {
  if (event.target.tagName === "BUTTON" && model && !running) ask(event.target.textContent);
});
