// Campaigns with live spend and pacing: the list by filters and pages, refreshed every few seconds.
import { byId, element, setText } from "./elements.js";
import { polling, read, request } from "./api.js";
import { timeOfDay } from "./format.js";
import { caller } from "./session.js";
import { COLUMNS, campaignRow } from "./campaign-row.js";

const EVERY_MS = 3000;
const LIMIT = 25;
const place = byId("campaigns");
let active = false;
let asked = 0;
let pages = [""];
let rows = new Map();
let broken = false;

function query() {
  const wanted = { limit: LIMIT, cursor: pages.at(-1), text: byId("filter-text").value.trim(), state: byId("filter-state").value };
  if (caller.role === "admin") wanted.advertiser_id = byId("filter-advertiser").value.trim();
  return new URLSearchParams(Object.entries(wanted).filter(([, value]) => value !== ""));
}

const actions = () => ({
  set: caller.role === "viewer" ? null : (campaign, verb) => act(`/v1/campaigns/${encodeURIComponent(campaign.id)}/${verb}`, {}),
  // With the displayed version: a creative that has changed since is not approved unseen.
  review: caller.role === "admin" ? (campaign, creative, review) =>
    act(`/v1/creatives/${encodeURIComponent(creative.id)}/review`, { review, version: campaign.version }) : null,
});

async function act(path, body) {
  report("");
  try {
    const changed = await (await request(path, { method: "POST", body })).json();
    rows.get(changed.id)?.show(changed);
  } catch (error) {
    if (error.status === 409) await reload();
    report(error.status === 409 ? "This campaign was changed in the meantime; this is its current version." : `Failed: ${error.message}`);
  }
  live();
}

const report = (text) => setText(byId("campaigns-message"), text);

async function reload() {
  const turn = ++asked;
  place.setAttribute("aria-busy", "true");
  if (!rows.size) place.replaceChildren(element("p", { class: "quiet loading" }, "Loading campaigns …"));
  try {
    const [list, deliveries] = await Promise.all([read(`/v1/campaigns?${query()}`), read(`/v1/deliveries?${query()}`)]);
    if (turn !== asked) return;
    if (broken) report("");
    draw(list.items, deliveries.items);
    byId("older").hidden = !list.cursor;
    byId("older").dataset.cursor = list.cursor;
    byId("newer").hidden = pages.length === 1;
    fresh();
  } catch (error) {
    if (turn === asked) failed(error);
  } finally {
    if (turn === asked) place.removeAttribute("aria-busy");
  }
}

function draw(campaigns, deliveries) {
  if (!campaigns.length) {
    rows = new Map();
    const filtered = [...query().keys()].some((name) => !["limit", "cursor"].includes(name));
    place.replaceChildren(element("p", { class: "empty" }, filtered ? "No campaign matches these filters." :
      "There are no campaigns yet. Create one with POST /v1/campaigns; it appears here automatically."));
    return;
  }
  const found = new Map();
  for (const campaign of campaigns) {
    const row = rows.get(campaign.id) ?? campaignRow(actions());
    row.show(campaign);
    found.set(campaign.id, row);
  }
  for (const delivery of deliveries) found.get(delivery.campaign_id)?.deliver(delivery);
  const same = rows.size === found.size && [...rows.keys()].every((id, i) => id === [...found.keys()][i]);
  rows = found;
  if (same && place.querySelector("table")) return;
  const head = element("tr", {}, COLUMNS.map((name) => element("th", { scope: "col", class: ["Bid", "Today", "Total"].includes(name) ? "number" : "" }, name)));
  const body = element("tbody", {}, [...rows.values()].map((row) => row.nodes));
  place.replaceChildren(element("div", { class: "scroller", tabindex: 0, role: "region", "aria-label": "Campaigns" },
    element("table", { class: "cards" }, element("thead", {}, head), body)));
}

// Polls the spend; the campaigns are read again only when one of them has changed.
const live = polling(async () => {
  const turn = asked;
  try {
    const { items } = await read(`/v1/deliveries?${query()}`);
    if (turn !== asked || !active) return;
    const known = !broken && items.length === rows.size && items.every((one) => rows.get(one.campaign_id)?.version() >= one.version);
    if (!known) return await reload();
    for (const delivery of items) rows.get(delivery.campaign_id).deliver(delivery);
    fresh();
  } catch (error) {
    if (turn === asked && active) failed(error);
  }
}, EVERY_MS, () => active);

function fresh() {
  broken = false;
  byId("campaigns-fresh").classList.remove("stale");
  setText(byId("campaigns-fresh"), `Live · ${timeOfDay(new Date())}`);
}

function failed(error) {
  broken = true;
  byId("campaigns-fresh").classList.add("stale");
  setText(byId("campaigns-fresh"), rows.size ? "Not live: figures are out of date" : "Not live");
  report(`Could not load campaigns: ${error.message}. Trying again.`);
  if (!rows.size) place.replaceChildren();
}

function refilter() {
  pages = [""];
  reload();
}

export function enter() {
  byId("filter-advertiser-field").hidden = caller.role !== "admin";
  active = true;
  reload().then(live);
}

export function leave() {
  active = false;
}

// Removes everything of the former key.
export function reset() {
  asked++;
  pages = [""];
  rows = new Map();
  place.replaceChildren();
  report("");
  setText(byId("campaigns-fresh"), "");
}

let typing = 0;
byId("filters").addEventListener("submit", (event) => { event.preventDefault(); refilter(); });
byId("filters").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(refilter, 250); });
byId("older").addEventListener("click", () => { pages.push(byId("older").dataset.cursor); reload(); });
byId("newer").addEventListener("click", () => { pages.pop(); reload(); });
