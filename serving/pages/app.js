// The console: chooses the view, depending on the caller's role, and shows the totals in the header.
import { byId, setText } from "./elements.js";
import { polling, read } from "./api.js";
import { money } from "./format.js";
import { caller, may, ofAdvertiser, offered, open } from "./session.js";
import * as campaigns from "./campaigns.js";
import * as chat from "./chat.js";
import * as revenue from "./revenue.js";

const VIEWS = { playground: chat, campaigns, revenue };
const KEY_NEEDED = {
  playground: "Chat on this router needs an API key of an administrator or a publisher.",
  campaigns: "Campaigns need an API key: an administrator sees all of them, an advertiser its own.",
  revenue: "Revenue needs an API key: an administrator sees all of it, an advertiser its own spend.",
};
let shown = "";
let signingIn = false;

const requestedView = () => {
  const name = location.hash.slice(1);
  return offered().includes(name) ? name : offered()[0];
};

function route() {
  const view = requestedView();
  const closed = signingIn || !may(view);
  for (const name of Object.keys(VIEWS)) byId(`view-${name}`).hidden = closed || name !== view;
  byId("view-closed").hidden = !closed;
  setText(byId("closed-text"), signingIn && may(view) ? "An API key opens campaigns and revenue as well." : KEY_NEEDED[view]);
  for (const link of document.querySelectorAll("nav [data-view]")) {
    link.hidden = !offered().includes(link.dataset.view);
    if (link.dataset.view === view && !signingIn) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const next = closed ? "" : view;
  if (shown !== next) {
    if (shown) VIEWS[shown].leave?.();
    shown = next;
  }
  if (next) VIEWS[next].enter();
}

const totals = polling(async () => {
  try {
    const sums = await read("/v1/summary");
    const parts = Object.entries(sums.revenue_micros).map(([currency, micros]) => money(micros, currency));
    setText(byId("revenue"), parts.join(" + ") || "none yet");
    setText(byId("clicks"), String(sums.charges));
  } catch {
    setText(byId("revenue"), "–");
  }
}, 5000, () => !byId("totals").hidden);

await open(() => {
  signingIn = false;
  const own = ofAdvertiser();
  byId("totals").hidden = !caller.role || caller.role === "publisher";
  for (const id of ["money-word", "revenue-word"]) setText(byId(id), own ? "Spend" : "Revenue");
  for (const view of Object.values(VIEWS)) view.reset?.();
  route();
  totals();
});
window.addEventListener("hashchange", () => { signingIn = false; route(); });
document.addEventListener("sign-in-wanted", () => { signingIn = true; route(); });
document.addEventListener("link-followed", () => setTimeout(totals, 700));
