// One campaign in the table: created once and updated in place, so that polling does not move the focus.
import { button, element, outwardLink, setText, svg } from "./elements.js";
import { money, percent } from "./format.js";

const PER = { click: "per click", impression: "× click rate, per impression", participation: "× click rate, for participation" };
const PRIORITIES = { house: "house ad", standard: "", sponsorship: "sponsorship" };
const STATES = { active: "good", paused: "gold", ended: "grey" };
const REVIEWS = { approved: "good", pending: "gold", rejected: "bad" };
export const COLUMNS = ["Campaign", "State", "Bid", "Today", "Total", "Pacing", "Actions"];

// A bar with the spent and the planned share of a budget; hidden without a budget.
function bar() {
  const spent = svg("rect", { class: "spent", height: 6, width: 0, rx: 1 });
  const plan = svg("rect", { class: "plan", y: -2, height: 10, width: 1.4 });
  const drawing = svg("svg", { class: "budget", viewBox: "0 -2 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { class: "room", width: 100, height: 6, rx: 1 }), spent, plan);
  return { drawing, set(share, planned) {
    drawing.toggleAttribute("hidden", share === null);
    spent.setAttribute("width", Math.min(100, 100 * (share ?? 0)));
    plan.setAttribute("x", Math.min(98.6, 100 * (planned ?? 0)));
    plan.toggleAttribute("hidden", planned === null);
  } };
}

function amount(label) {
  const [figure, under, graph] = [element("span", { class: "figure" }), element("span", { class: "sub" }), bar()];
  return { cell: element("td", { class: "number", "data-label": label }, element("div", {}, figure, under, graph.drawing)), figure, under, graph };
}

function pacing(campaign, delivery) {
  const [running, left] = [delivery.state === "active", delivery.available_micros];
  if (running && campaign.priority !== "house" && left !== null && left < Math.max(1, campaign.bid_micros)) {
    return ["Account used up", `${money(left, campaign.currency)} left do not cover the bid`, "gold"];
  }
  const taking = running ? `takes part in ${percent(delivery.participation)} of auctions` : "does not take part";
  if (campaign.pacing === "asap") return ["As soon as possible", taking, ""];
  if (delivery.allowance_micros === null) return ["No budget to pace", taking, ""];
  if (delivery.planned_micros === null) return ["Closed today", taking, ""];
  const off = (delivery.spend.day_micros - delivery.planned_micros) / Math.max(1, delivery.allowance_micros);
  const [words, tone] = Math.abs(off) <= 0.05 ? ["On plan", "good"] : off < 0 ? ["Behind plan", "gold"] : ["Ahead of plan", "gold"];
  const [spent, planned] = [delivery.spend.day_micros, delivery.planned_micros].map((micros) => money(micros, campaign.currency));
  return [words, `${spent} spent, ${planned} planned by now; ${taking}`, tone];
}

// `actions` of the caller, each null where it may not: set(campaign, "pause" or "resume"), review(campaign, creative, review).
export function campaignRow(actions) {
  let campaign = null;
  let unfolded = false;
  const [title, owner] = [element("span", { class: "name" }), element("span", { class: "sub" })];
  const [state, waiting] = [element("span", { class: "badge" }), element("span", { class: "sub review" })];
  const [bid, per] = [element("span", { class: "figure" }), element("span", { class: "sub" })];
  const [today, total] = [amount("Today"), amount("Total")];
  const [pace, plan] = [element("span", { class: "pace" }), element("span", { class: "sub" })];
  const toggle = button("", () => actions.set(campaign, campaign.state === "active" ? "pause" : "resume"));
  const creatives = button("", () => unfold(!unfolded), { "aria-expanded": "false" });
  const list = element("ul", { class: "creatives" });
  const detail = element("tr", { class: "detail", hidden: true }, element("td", { colspan: COLUMNS.length }, list));
  const row = element("tr", {},
    element("th", { scope: "row" }, title, owner),
    element("td", { class: "state", "data-label": "State" }, element("div", {}, state, waiting)),
    element("td", { class: "number", "data-label": "Bid" }, element("div", {}, bid, per)),
    today.cell, total.cell,
    element("td", { class: "pacing", "data-label": "Pacing" }, element("div", {}, pace, plan)),
    element("td", { class: "acts" }, element("div", {}, toggle, creatives)));

  function unfold(open) {
    unfolded = open;
    detail.hidden = !open;
    creatives.setAttribute("aria-expanded", String(open));
  }

  function creativeItem(one) {
    const reviews = actions.review && one.review !== "approved" ? [button("Approve", () => actions.review(campaign, one, "approved"), { "aria-label": `Approve ${one.title}` })] : [];
    if (actions.review && one.review !== "rejected") reviews.push(button("Reject", () => actions.review(campaign, one, "rejected"), { "aria-label": `Reject ${one.title}` }));
    return element("li", {},
      element("div", {}, element("b", {}, one.title), " ", element("span", { class: `badge ${REVIEWS[one.review]}` }, one.review),
        element("span", { class: "sub" }, one.text || "no text"),
        element("span", { class: "sub" }, outwardLink(one.landing_url, one.landing_url), one.review_note ? ` · ${one.review_note}` : "")),
      element("div", { class: "reviews" }, reviews));
  }

  function show(next) {
    // Responses may arrive out of order.
    if (campaign && next.version <= campaign.version) return;
    campaign = next;
    setText(title, campaign.name);
    setText(owner, [PRIORITIES[campaign.priority], campaign.advertiser_id, campaign.category, campaign.id].filter(Boolean).join(" · "));
    setText(bid, money(campaign.bid_micros, campaign.currency, true));
    setText(per, campaign.priority === "house" ? "is not charged" : PER[campaign.pricing]);
    setText(state, campaign.state);
    state.className = `badge ${STATES[campaign.state]}`;
    const pending = campaign.creatives.filter((one) => one.review === "pending").length;
    setText(waiting, pending ? `${pending} to review` : campaign.creatives.length ? "" : "no creative");
    setText(toggle, campaign.state === "active" ? "Pause" : "Resume");
    toggle.setAttribute("aria-label", `${toggle.textContent} ${campaign.name}`);
    toggle.hidden = !actions.set || campaign.state === "ended";
    setText(creatives, `${campaign.creatives.length} ${campaign.creatives.length === 1 ? "creative" : "creatives"}`);
    creatives.hidden = !campaign.creatives.length;
    list.replaceChildren(...campaign.creatives.map(creativeItem));
  }

  function spend(place, spent, budget, planned) {
    setText(place.figure, money(spent, campaign.currency, true));
    setText(place.under, budget === null ? "no limit" : `of ${money(budget, campaign.currency)}`);
    place.graph.set(budget ? spent / budget : null, budget && planned !== null ? planned / budget : null);
  }

  function deliver(delivery) {
    const day = delivery.daily_budget_micros ?? (campaign.pacing === "even" ? delivery.allowance_micros : null);
    spend(today, delivery.spend.day_micros, day, delivery.planned_micros);
    spend(total, delivery.spend.total_micros, delivery.total_budget_micros, null);
    const [words, under, tone] = pacing(campaign, delivery);
    setText(pace, words);
    pace.className = `pace ${tone}`;
    setText(plan, under);
  }

  return { nodes: [row, detail], show, deliver, version: () => campaign.version };
}
