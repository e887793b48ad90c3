// Revenue and experience over time, by hour or day and by model version: totals, small charts, and a table.
import { byId, element, setText } from "./elements.js";
import { polling, read } from "./api.js";
import { chart } from "./chart.js";
import { count, dayUtc, decimal, hourUtc, money, percent, timeOfDay } from "./format.js";
import { caller, ofAdvertiser } from "./session.js";

const EVERY_MS = 10000;
const MOST_VERSIONS = 5;
const NONE = "unknown";
const place = byId("series");
let active = false;
let asked = 0;
let last = null;
let drawn = "";

const over = (part, whole) => (whole ? part / whole : null);
const roundPercent = (share) => percent(share).replace(".0%", "%");
const short = (version) => version || NONE;

// Sums `pick(row)` by step, null for steps without rows; of one version, or of all if `version` is undefined.
function along(series, rows, pick, version) {
  const sums = new Map();
  for (const row of rows) if (version === undefined || row.version === version) sums.set(row.start, (sums.get(row.start) ?? 0) + pick(row));
  return series.starts.map((start) => sums.get(start) ?? null);
}

const ratio = (above, below) => above.map((value, i) => (below[i] ? (value ?? 0) / below[i] : null));
const sum = (values) => values.reduce((all, value) => all + (value ?? 0), 0);

// Names the version of each row; versions beyond the number of colours are combined as "others".
function sorted(series) {
  const weight = new Map();
  for (const point of series.points) weight.set(point.model_version, (weight.get(point.model_version) ?? 0) + point.impressions + point.clicks);
  for (const one of series.answers ?? []) weight.set(one.model_version, (weight.get(one.model_version) ?? 0) + one.answers);
  const versions = [...weight].sort((a, b) => b[1] - a[1] || a[0].localeCompare(b[0])).map(([version]) => version);
  const own = new Set(versions.slice(0, versions.length > MOST_VERSIONS ? MOST_VERSIONS - 1 : MOST_VERSIONS));
  const named = (row) => ({ ...row, version: own.has(row.model_version) ? short(row.model_version) : "others" });
  return { versions, names: [...own].map(short).concat(versions.length > own.size ? ["others"] : []), named };
}

function figures(series, currency) {
  const { versions, names, named } = sorted(series);
  const points = series.points.map(named);
  const paid = points.filter((point) => point.currency === currency);
  const answers = series.answers?.map(named) ?? null;
  const of = (rows, pick) => (version) => along(series, rows, pick, version);
  const made = {
    versions, names,
    revenue: of(paid, (p) => p.revenue_micros), impressions: of(points, (p) => p.impressions), clicks: of(points, (p) => p.clicks),
  };
  made.ctr = (version) => ratio(made.clicks(version), made.impressions(version));
  if (!answers) return made;
  made.answers = of(answers, (a) => a.answers);
  made.fill = (version) => ratio(of(answers, (a) => a.filled)(version), made.answers(version));
  made.perAnswer = (version) => ratio(of(answers, (a) => a.shown)(version), made.answers(version));
  made.earned = (version) => ratio(made.revenue(version), made.answers(version));
  made.filled = sum(of(answers, (a) => a.filled)());
  made.shown = sum(of(answers, (a) => a.shown)());
  return made;
}

function tile(name, value, under = "") {
  return element("div", { class: "tile" }, element("dt", {}, name), element("dd", {}, value), under ? element("dd", { class: "sub" }, under) : null);
}

function tiles(series, found, currency, own) {
  const [impressions, clicks] = [sum(found.impressions()), sum(found.clicks())];
  const rate = over(clicks, impressions);
  const made = [
    tile(own ? "Spend" : "Revenue", money(sum(found.revenue()), currency)),
    tile("Impressions", count(impressions)),
    tile("Clicks", count(clicks)),
    tile("Click-through rate", rate === null ? "–" : percent(rate), "clicks / impressions"),
  ];
  if (found.answers) {
    const all = sum(found.answers());
    made.push(tile("Fill rate", all ? percent(found.filled / all) : "–", `of ${count(all)} answers with candidates`));
    const aim = series.target === null ? `ad load × ${decimal(series.ad_load)} now` : `target ${decimal(series.target)}; ad load × ${decimal(series.ad_load)} now`;
    made.push(tile("Ads per answer", all ? decimal(found.shown / all) : "–", aim));
  }
  return element("dl", { class: "tiles" }, made);
}

function charts(series, found, currency, own) {
  const starts = series.starts.map((start) => new Date(start));
  const split = (of) => found.names.map((name, i) => ({ name, colour: i, values: of(name) }));
  const draw = (title, kind, of, format, more = {}) =>
    chart({ title, kind, starts, step: series.step, series: split(of), format, total: kind === "lines" ? (i) => of()[i] : undefined, ...more });
  const per = series.step === "hour" ? "by hour" : "by day";
  const made = [
    draw(own ? "Spend" : "Revenue", "bars", found.revenue, (micros) => money(micros, currency), { note: per }),
    draw("Impressions", "bars", found.impressions, count, { note: per, whole: true }),
    draw("Clicks", "bars", found.clicks, count, { note: per, whole: true }),
    draw("Click-through rate", "lines", found.ctr, percent, { axis: roundPercent, note: "clicks / impressions of the same period" }),
  ];
  if (found.answers) {
    made.push(draw("Revenue per answer", "lines", found.earned, (micros) => money(micros, currency, true), { axis: (micros) => money(micros, currency), note: "of answers with candidates" }));
    made.push(draw("Fill rate", "lines", found.fill, percent, { axis: roundPercent, note: "answers with an ad" }));
    const target = series.target === null ? {} : { note: "dashed: the target", target: series.target };
    made.push(draw("Ads per answer", "lines", found.perAnswer, (value) => decimal(value), target));
  }
  return element("div", { class: "charts" }, made);
}

function legend(names) {
  return element("ul", { class: "legend", "aria-label": "Model versions" },
    names.map((name, i) => element("li", {}, element("span", { class: `swatch back${i}`, "aria-hidden": "true" }), element("code", {}, name))));
}

function asTable(series, found, currency, own) {
  const columns = [["Start (UTC)", null], [own ? "Spend" : "Revenue", found.revenue(), (v) => money(v, currency)],
    ["Impressions", found.impressions(), count], ["Clicks", found.clicks(), count], ["CTR", found.ctr(), percent]];
  if (found.answers) columns.push(["Answers", found.answers(), count], ["Fill rate", found.fill(), percent], ["Ads per answer", found.perAnswer(), (v) => decimal(v)]);
  const name = (start) => (series.step === "hour" ? `${dayUtc(start)} ${hourUtc(start)}` : dayUtc(start));
  const rows = series.starts.map((start, i) => element("tr", {}, element("th", { scope: "row" }, name(new Date(start))),
    columns.slice(1).map(([, values, format]) => element("td", { class: "number" }, values[i] === null ? "–" : format(values[i]))))).reverse();
  const head = element("tr", {}, columns.map(([title], i) => element("th", { scope: "col", class: i ? "number" : "" }, title)));
  return element("details", { class: "raw" }, element("summary", {}, "Show as a table"),
    element("div", { class: "scroller", tabindex: 0, role: "region", "aria-label": "Figures over time" },
      element("table", {}, element("thead", {}, head), element("tbody", {}, rows))));
}

// One line per version, the newest last, to compare what each earns with the one before.
function byVersion(series, found, currency) {
  const first = (name) => found.answers(name).findIndex((value) => value !== null);
  const names = found.names.filter((name) => sum(found.answers(name))).sort((a, b) => first(a) - first(b));
  const columns = ["Model version", "Answers", "Revenue", "Revenue per answer", "CTR", "Ads per answer"];
  const rows = names.map((name) => {
    const [answers, paid, shown] = [sum(found.answers(name)), sum(found.revenue(name)), sum(found.impressions(name))];
    const cells = [count(answers), money(paid, currency), money(Math.round(paid / answers), currency, true),
      shown ? percent(sum(found.clicks(name)) / shown) : "–", decimal(shown / answers)];
    return element("tr", {}, element("th", { scope: "row" }, element("code", {}, name)), cells.map((text) => element("td", { class: "number" }, text)));
  });
  const head = element("tr", {}, columns.map((title, i) => element("th", { scope: "col", class: i ? "number" : "" }, title)));
  return element("div", { class: "scroller by-version", tabindex: 0, role: "region", "aria-label": "Figures by model version" },
    element("table", {}, element("thead", {}, head), element("tbody", {}, rows)));
}

function options(select, values, names = values) {
  const before = select.value;
  const wanted = values.map((value, i) => element("option", { value }, names[i]));
  if ([...select.options].map((one) => one.value).join() === values.join()) return;
  select.replaceChildren(...wanted);
  if (values.includes(before)) select.value = before;
}

function draw(series) {
  const own = ofAdvertiser();
  const sums = new Map();
  for (const point of series.points) sums.set(point.currency, (sums.get(point.currency) ?? 0) + point.revenue_micros);
  const currencies = [...sums].sort((a, b) => b[1] - a[1]).map(([currency]) => currency);
  byId("currency-field").hidden = currencies.length < 2;
  options(byId("currency"), [...currencies].sort((a, b) => currencies.indexOf(a) - currencies.indexOf(b)));
  const currency = currencies.includes(byId("currency").value) ? byId("currency").value : currencies[0];
  const found = figures(series, currency);
  if (!byId("version").value) options(byId("version"), ["", ...found.versions.filter(Boolean)], ["all", ...found.versions.filter(Boolean)]);
  if (!series.points.length && !series.answers?.length) {
    place.replaceChildren(element("p", { class: "empty" }, own ?
      "None of your ads was shown in this period." :
      "No data in this period: no answer had candidates. Ask a question in the playground, and it appears here within seconds."));
    return;
  }
  const unpaid = currency === undefined;
  place.replaceChildren(
    tiles(series, found, unpaid ? "USD" : currency, own), found.answers ? byVersion(series, found, unpaid ? "USD" : currency) : "",
    legend(found.names), charts(series, found, unpaid ? "USD" : currency, own),
    asTable(series, found, unpaid ? "USD" : currency, own),
    element("p", { class: "quiet notes" }, "Hours and days are in UTC; the last one is not over. " +
      (currencies.length > 1 ? `${own ? "Spend" : "Revenue"} is in ${currency} only; all other figures include every currency. ` : "") +
      "A click counts in the hour or day in which it was made, which may be later than that of its impression."));
}

const live = polling(async () => {
  const turn = ++asked;
  const [step, steps] = byId("period").value.split("-");
  const wanted = new URLSearchParams({ step, count: steps });
  if (byId("version").value) wanted.set("model_version", byId("version").value);
  if (!last) place.replaceChildren(element("p", { class: "quiet loading" }, "Loading figures …"));
  try {
    const series = await read(`/v1/reports/series?${wanted}`);
    if (turn !== asked || !active) return;
    last = series;
    redraw();
    setText(byId("series-message"), "");
    byId("series-fresh").classList.remove("stale");
    setText(byId("series-fresh"), `Live · ${timeOfDay(new Date())}`);
  } catch (error) {
    if (turn !== asked || !active) return;
    byId("series-fresh").classList.add("stale");
    setText(byId("series-fresh"), last ? "Not live: figures are out of date" : "Not live");
    setText(byId("series-message"), `Could not load figures: ${error.message}. Trying again.`);
    if (!last) place.replaceChildren();
  }
}, EVERY_MS, () => active);

// Draws only when the figures have changed, so that a reading under the pointer stays.
function redraw() {
  const now = JSON.stringify([last, byId("currency").value]);
  if (now === drawn) return;
  const open = place.querySelector("details")?.open ?? false;
  draw(last);
  const table = place.querySelector("details");
  if (table) table.open = open;
  drawn = JSON.stringify([last, byId("currency").value]);
}

export function enter() {
  setText(byId("revenue-title"), ofAdvertiser() ? "Spend and response" : "Revenue and experience");
  active = true;
  live();
}

export function leave() {
  active = false;
}

// Removes everything of the former key.
export function reset() {
  asked++;
  last = null;
  drawn = "";
  place.replaceChildren();
  options(byId("version"), [""], ["all"]);
  setText(byId("series-message"), "");
  setText(byId("series-fresh"), "");
}

byId("span").addEventListener("submit", (event) => event.preventDefault());
byId("period").addEventListener("change", live);
byId("version").addEventListener("change", live);
byId("currency").addEventListener("change", () => { if (last) redraw(); });
