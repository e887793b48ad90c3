// The panel: one auction record as a summary, a table of candidates and what a click costs.

export function money(micros, currency) {
  const format = { style: "currency", currency, minimumFractionDigits: 2, maximumFractionDigits: 6 };
  return new Intl.NumberFormat("en", format).format(micros / 1e6);
}

function cell(tag, text, className = "", scope = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (className) made.className = className;
  if (scope) made.scope = scope;
  return made;
}

function percent(share) {
  if (share === 0) return "0";
  return share < 0.001 ? "<0.1%" : `${(100 * share).toFixed(1)}%`;
}

function propensity(share, chosen) {
  const made = cell("td", "", chosen ? "share chosen" : "share");
  const bar = document.createElement("meter");
  bar.max = 1;
  bar.value = share;
  bar.setAttribute("aria-hidden", "true");
  made.append(cell("span", percent(share) + (chosen ? " ✓" : "")), bar);
  return made;
}

function figures(record) {
  const list = document.createElement("dl");
  list.className = "facts";
  const facts = [
    ["Generations", record.generations],
    ["Tokens", record.tokens],
    ["Seconds", record.seconds],
    ["Eligible", `${record.eligible} of ${record.campaigns}`],
    ["Profile used", record.profile_used ? "yes" : "no"],
    ["Faults removed", record.faults.length],
  ];
  for (const [name, value] of facts) {
    const pair = document.createElement("div");
    pair.append(cell("dt", name), cell("dd", String(value)));
    list.append(pair);
  }
  return list;
}

function head(record) {
  const row = document.createElement("tr");
  row.append(cell("th", "Candidate", "", "col"), cell("th", "Bid", "number", "col"), cell("th", "Fit", "number", "col"));
  record.markers.forEach((marker, i) => row.append(cell("th", `Marker ${i + 1}${marker.exact ? "" : " ≈"}`, "number", "col")));
  row.append(cell("th", "Click costs", "number", "col"));
  const made = document.createElement("thead");
  made.append(row);
  return made;
}

function candidateRow(record, candidate, shown) {
  const row = document.createElement("tr");
  if (shown) row.className = "shown";
  const name = cell("th", candidate.title, "", "row");
  const detail = cell("span", `${candidate.category || candidate.advertiser} · ${candidate.ad_id}`, "quiet");
  if (shown) name.append(" ", cell("span", "shown", "badge"));
  name.append(detail);
  row.append(name, cell("td", money(candidate.bid_micros, record.currency), "number"));
  row.append(cell("td", candidate.relevance.toFixed(2), "number"));
  for (const marker of record.markers) {
    row.append(propensity(marker.probabilities[candidate.ad_id] ?? 0, marker.chosen === candidate.ad_id));
  }
  row.append(cell("td", shown ? money(shown.bid_micros, record.currency) : "–", "number"));
  return row;
}

function explanation(record, shown) {
  const count = `${record.candidates.length} candidates, ${shown} shown. `;
  if (!record.markers.length) return `${count}The policy opened no marker: it found no offer worth a place in this answer.`;
  const inexact = record.markers.some((marker) => !marker.exact);
  return `${count}A marker is a place where the policy inserted an offer; the share is each candidate's probability there. ` +
    (inexact ? "≈: offers whose titles begin alike share their group's probability evenly. " : "") +
    "A click costs exactly the bid.";
}

export function showAuction(place, record) {
  if (!record.candidates.length) {
    const reason = record.generations > 1 ? "The auction failed; the answer was written without ads." : "No auction was held for this answer.";
    place.replaceChildren(cell("p", reason, "quiet"), figures(record));
    return;
  }
  const shown = new Map(record.shown.map((ad) => [ad.ad_id, ad]));
  const reach = (c) => Math.max(0, ...record.markers.map((m) => m.probabilities[c.ad_id] ?? 0));
  const order = [...record.candidates].sort(
    (a, b) => shown.has(b.ad_id) - shown.has(a.ad_id) || reach(b) - reach(a) || b.bid_micros - a.bid_micros,
  );
  const table = document.createElement("table");
  const caption = cell("p", explanation(record, shown.size), "caption");
  caption.id = "auction-caption";
  table.setAttribute("aria-describedby", caption.id);
  const body = document.createElement("tbody");
  for (const candidate of order) body.append(candidateRow(record, candidate, shown.get(candidate.ad_id)));
  table.append(head(record), body);
  const scroller = document.createElement("div");
  scroller.className = "scroller";
  scroller.tabIndex = 0;
  scroller.setAttribute("role", "region");
  scroller.setAttribute("aria-label", "Candidates of this auction");
  scroller.append(table);
  const source = document.createElement("p");
  source.className = "quiet source";
  const link = cell("a", record.auction_id);
  link.href = `/v1/auctions/${record.auction_id}`;
  source.append("Record ", link);
  place.replaceChildren(figures(record), caption, scroller, source);
}
