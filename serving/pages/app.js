// The console: which view is shown, to whom, and the totals above them all.
import { byId, setText } from "./elements.js";
import { polling, read } from "./api.js";
import { money } from "./format.js";
import { caller, may, offered, open } from "./session.js";
import * as campaigns from "./campaigns.js";
import * as chat from "./chat.js";
import * as revenue from "./revenue.js";

const VIEWS = { playground: chat, campaigns, revenue };
const WHY = {
  playground: "This router answers holders of a key only. Keys of administrators and publishers may chat.",
  campaigns: "Campaigns are shown to holders of a key: all of them to an administrator, its own to an advertiser.",
  revenue: "Revenue is shown to holders of a key: all of it to an administrator, its own spend to an advertiser.",
};
let shown = "";
let signingIn = false;

const wanted = () => {
  const asked = location.hash.slice(1);
  return offered().includes(asked) ? asked : offered()[0];
};

function route() {
  const view = wanted();
  const closed = signingIn || !may(view);
  for (const name of Object.keys(VIEWS)) byId(`view-${name}`).hidden = closed || name !== view;
  byId("view-closed").hidden = !closed;
  setText(byId("closed-text"), signingIn && may(view) ? "A key shows campaigns and revenue beside the playground." : WHY[view]);
  for (const link of document.querySelectorAll("nav [data-view]")) {
    link.hidden = !offered().includes(link.dataset.view);
    if (link.dataset.view === view && !signingIn) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const now = closed ? "" : view;
  if (shown !== now) {
    if (shown) VIEWS[shown].leave?.();
    shown = now;
  }
  if (now) VIEWS[now].enter();
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
  const own = caller.role === "advertiser";
  byId("totals").hidden = caller.role === "publisher" || (!caller.role && !caller.anonymous_chat);
  for (const id of ["money-word", "revenue-word"]) setText(byId(id), own ? "Spend" : "Revenue");
  for (const view of Object.values(VIEWS)) view.reset?.();
  route();
  totals();
});
window.addEventListener("hashchange", () => { signingIn = false; route(); });
document.addEventListener("sign-in-wanted", () => { signingIn = true; route(); });
document.addEventListener("link-followed", () => setTimeout(totals, 700));
