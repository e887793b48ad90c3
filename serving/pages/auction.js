// The auction panel: one auction record as a summary, a table of candidates with prices, and the excluded creatives.
import { element } from "./elements.js";
import { count, decimal, momentUtc, money, percent } from "./format.js";
import { REASONS } from "./reasons.js";

const MOST_NAMED = 50;
const OUTCOMES = {
  answered: "Answered", cut: "Ended by its deadline", cancelled: "Stopped by the reader", failed: "Failed",
};
const PRICING = { click: "per click", impression: "per impression", participation: "for participation" };

function facts(record) {
  const [kind, digest] = record.model_digest.includes(":") ? ["", record.model_digest] : ["sha256 ", record.model_digest];
  const pairs = [
    ["Outcome", OUTCOMES[record.outcome] ?? record.outcome],
    ["Time", element("time", { datetime: new Date(record.created * 1000).toISOString() }, momentUtc(record.created * 1000))],
    ["Duration", `${decimal(record.seconds, 2)} s, ${decimal(record.overhead_ms, 1)} ms of it in the router`],
    ["Model", record.model],
    ["Weights", element("code", { title: digest }, `${kind}${digest.length > 16 ? `${digest.slice(0, 12)}…` : digest}`)],
    ["Eligible", `${count(record.eligible)} ${record.eligible === 1 ? "creative" : "creatives"} of ${count(record.campaigns)} campaigns`],
    ["Ad load", `× ${decimal(record.ad_load)}`],
    ["Tokens", `${count(record.tokens)} in ${record.generations} ${record.generations === 1 ? "generation" : "generations"}`],
    ["Profile used", record.profile_used ? "yes, with consent" : "no"],
  ];
  if (record.placement) pairs.push(["Placement", record.placement]);
  if (record.floor_micros) pairs.push(["Floor", money(record.floor_micros, record.currency, true)]);
  if (record.faults.length) pairs.push(["Broken markers removed", count(record.faults.length)]);
  return element("dl", { class: "facts" }, pairs.map(([name, value]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, value))));
}

const header = (text, className = "number") => element("th", { scope: "col", class: className }, text);

function head(record) {
  const markers = record.markers.map((marker, i) => header(`Marker ${i + 1}${marker.exact ? "" : " ≈"}`));
  return element("thead", {}, element("tr", {}, header("Candidate", ""), header("Bid"), header("Fit", "number fit"), markers, header("Price")));
}

// Only administrators get the amounts of every campaign.
const amount = (micros, record) => (micros === undefined ? "private" : money(micros, record.currency, true));

function propensity(share, chosen) {
  const bar = element("meter", { max: 1, "aria-hidden": "true" });
  bar.value = share;
  return element("td", { class: chosen ? "number chosen" : "number" }, element("span", {}, percent(share) + (chosen ? " ✓" : "")), bar);
}

function price(record, candidate, shown) {
  const paid = record.payments.find((payment) => payment.ad_id === candidate.ad_id);
  if (paid) return [amount(paid.price_micros, record), element("span", { class: "sub" }, PRICING[paid.pricing])];
  if (candidate.priority === "house") return ["–", element("span", { class: "sub" }, "house ad: not charged")];
  if (!shown) return ["–"];
  return [amount(shown.bid_micros, record), element("span", { class: "sub" }, PRICING.click)];
}

function candidateRow(record, candidate, shown) {
  const name = element("th", { scope: "row" }, candidate.title, shown ? [" ", element("span", { class: "badge good" }, "shown")] : [],
    element("span", { class: "sub" }, [candidate.priority === "standard" ? "" : candidate.priority, candidate.advertiser, candidate.ad_id].filter(Boolean).join(" · ")));
  const bid = [amount(candidate.bid_micros, record)];
  if (candidate.shown_bid_micros !== candidate.bid_micros) {
    bid.push(element("span", { class: "sub" }, `shown as ${money(candidate.shown_bid_micros, record.currency)}`));
  }
  return element("tr", shown ? { class: "shown" } : {}, name,
    element("td", { class: "number" }, bid),
    element("td", { class: "number fit" }, decimal(candidate.relevance)),
    record.markers.map((marker) => propensity(marker.probabilities[candidate.ad_id] ?? 0, marker.chosen === candidate.ad_id)),
    element("td", { class: "number" }, price(record, candidate, shown)));
}

function explanation(record, shown) {
  const total = `${record.candidates.length} ${record.candidates.length === 1 ? "candidate" : "candidates"}, ${shown} shown. `;
  if (!record.markers.length) return `${total}The policy opened no marker: it inserted no offer into this answer.`;
  const inexact = record.markers.some((marker) => !marker.exact);
  return `${total}A marker is a place where the policy inserted an offer; the share is each candidate's probability there. ` +
    (inexact ? "≈: offers whose titles begin with the same words share the probability of their group evenly. " : "") +
    "A click costs the bid.";
}

function exclusions(record) {
  if (record.exclusions === null) {
    return [element("h3", {}, "Excluded"), element("p", { class: "quiet" }, "Another router wrote this answer: it has the list.")];
  }
  const byReason = new Map();
  for (const one of [...record.exclusions, ...record.apart]) {
    if (!byReason.has(one.reason)) byReason.set(one.reason, []);
    byReason.get(one.reason).push(one.winner ? `${one.ad_id} (separated from ${one.winner})` : one.ad_id || one.campaign_id);
  }
  const total = record.exclusions.length + record.apart.length;
  const title = element("h3", {}, `Excluded: ${count(total)}`);
  if (!total) return [title, element("p", { class: "quiet" }, "None: every creative was eligible, and none was separated from a competitor.")];
  const list = [...byReason].sort((a, b) => b[1].length - a[1].length).map(([reason, ids]) => {
    const more = ids.length > MOST_NAMED ? ` and ${count(ids.length - MOST_NAMED)} more` : "";
    return element("details", { class: "reason" },
      element("summary", {}, element("span", {}, REASONS[reason] ?? reason, " ", element("code", {}, reason)), element("b", {}, count(ids.length))),
      element("p", { class: "ids" }, ids.slice(0, MOST_NAMED).join(", ") + more));
  });
  return [title, element("div", { class: "reasons" }, list)];
}

function candidates(record) {
  if (!record.candidates.length) {
    if (record.withheld) return [element("p", { class: "caption" }, "This conversation gets no ads: ", element("code", {}, record.withheld))];
    const reason = record.generations > 1 ? "The auction failed; the answer was written without ads." : "No auction was held for this answer.";
    return [element("p", { class: "caption" }, record.campaigns ? "No creative was eligible: the answer was written without ads." : reason)];
  }
  const shown = new Map(record.shown.map((ad) => [ad.ad_id, ad]));
  const reach = (c) => Math.max(0, ...record.markers.map((m) => m.probabilities[c.ad_id] ?? 0));
  const order = [...record.candidates].sort(
    (a, b) => shown.has(b.ad_id) - shown.has(a.ad_id) || reach(b) - reach(a) || (b.bid_micros ?? 0) - (a.bid_micros ?? 0),
  );
  const rows = order.map((candidate) => candidateRow(record, candidate, shown.get(candidate.ad_id)));
  const table = element("table", { "aria-describedby": "auction-caption" }, head(record), element("tbody", {}, rows));
  const found = [
    element("p", { class: "caption", id: "auction-caption" }, explanation(record, shown.size)),
    element("div", { class: "scroller", tabindex: 0, role: "region", "aria-label": "Candidates of this auction" }, table),
  ];
  if (record.left_out.length) {
    found.push(element("p", { class: "quiet" }, `Beyond the maximum number of links of this answer, and removed with their sentence: ${record.left_out.join(", ")}`));
  }
  return found;
}

export function showAuction(place, record, back) {
  const raw = element("details", { class: "raw" }, element("summary", {}, "Record ", element("code", {}, record.auction_id)));
  raw.addEventListener("toggle", () => {
    if (raw.open && raw.childElementCount === 1) raw.append(element("pre", { tabindex: 0 }, JSON.stringify(record, null, 2)));
  });
  place.replaceChildren(back, facts(record), ...candidates(record), ...exclusions(record), raw);
}
