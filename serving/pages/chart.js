// A small chart over time as SVG: stacked bars for sums, lines for rates. Drawn for the available width; the pointer or
// the arrow keys select single steps.
import { element, setText, svg } from "./elements.js";
import { dayUtc, hourUtc } from "./format.js";

const HEIGHT = 168;
const EDGE = { left: 58, right: 8, top: 8, bottom: 22 };
const LABEL_PX = 78;

// At most four grid lines at 1, 2 or 5 times a power of ten; whole numbers for counts.
function ticks(most, whole) {
  if (!(most > 0)) return [0, 1];
  const power = 10 ** Math.floor(Math.log10(most / 3));
  let step = [1, 2, 5, 10].map((n) => n * power).find((n) => most / n <= 4);
  if (whole) step = Math.max(1, step);
  return Array.from({ length: Math.ceil(most / step - 1e-9) + 1 }, (_, i) => i * step);
}

const brief = (name) => (name.length > 12 ? `${name.slice(0, 8)}…` : name);

function stepName(start, step) {
  return step === "day" ? dayUtc(start) : `${dayUtc(start)}, ${hourUtc(start)}–${hourUtc(new Date(+start + 3600e3))}`;
}

// `series`: [{ name, colour, values }], where a value of null means no data; `total(index)` is shown first in the reading.
export function chart({ title, note = "", kind, starts, step, series, format, axis = format, whole = false, target = null, total }) {
  const reading = element("output", { class: "reading" });
  const drawing = svg("svg", { role: "img", tabindex: 0, "aria-label": `${title}; use the arrow keys to select single steps` });
  const figure = element("figure", { class: "chart" },
    element("figcaption", {}, element("b", {}, title), note ? element("span", { class: "quiet" }, ` ${note}`) : null, reading), drawing);
  let chosen = -1;
  let [slot, width] = [1, 0];
  const guide = svg("line", { class: "guide", y1: EDGE.top, y2: HEIGHT - EDGE.bottom, visibility: "hidden" });
  const byHour = step === "hour" && starts.length <= 48;
  const known = series.flatMap((one) => one.values).filter((value) => value !== null);
  const sums = starts.map((_, i) => series.reduce((sum, one) => sum + (one.values[i] ?? 0), 0));
  const lines = ticks(Math.max(target ?? 0, ...(kind === "bars" ? sums : known), 0), whole);
  const top = lines.at(-1);
  const y = (value) => HEIGHT - EDGE.bottom - (value / top) * (HEIGHT - EDGE.top - EDGE.bottom);
  const x = (i) => EDGE.left + (i + 0.5) * slot;

  function bars() {
    const wide = Math.max(1, slot - (slot > 6 ? 2 : slot > 3 ? 1 : 0));
    return starts.flatMap((_, i) => {
      let from = 0;
      return series.filter((one) => one.values[i]).map((one) => {
        const [low, high] = [from, (from += one.values[i])];
        const now = i === starts.length - 1 ? " unfinished" : "";
        return svg("rect", { class: `fill${one.colour}${now}`, x: x(i) - wide / 2, y: y(high), width: wide, height: Math.max(1, y(low) - y(high)) });
      });
    });
  }

  function curves() {
    return series.flatMap((one) => {
      const at = (i) => one.values[i] ?? null;
      const path = starts.map((_, i) => (at(i) === null ? "" : `${i && at(i - 1) !== null ? "L" : "M"}${x(i)} ${y(at(i))}`)).join("");
      const dots = starts.map((_, i) => i).filter((i) => at(i) !== null && (slot > 14 || (at(i - 1) === null && at(i + 1) === null)));
      return [svg("path", { class: `line${one.colour}`, d: path || "M0 0" }),
        ...dots.map((i) => svg("circle", { class: `fill${one.colour}`, cx: x(i), cy: y(at(i)), r: 2.5 }))];
    });
  }

  // Labels round hours, midnights, or days counted back from today, as far apart as the labels are wide.
  function isNamed(i) {
    if (byHour) return starts[i].getUTCHours() % [1, 2, 3, 6, 12, 24].find((n) => n * slot >= LABEL_PX * 0.7 || n === 24) === 0;
    const days = step === "hour" ? 24 : 1;
    const every = Math.ceil(LABEL_PX / (days * slot));
    if (days === 24 && starts[i].getUTCHours()) return false;
    return Math.floor((starts.at(-1) - starts[i]) / 86400e3) % every === 0;
  }

  function axes() {
    const right = width - EDGE.right;
    const named = starts.map((_, i) => i).filter((i) => isNamed(i) && x(i) > EDGE.left + 12 && x(i) < right - 8);
    const name = (start) => (byHour ? hourUtc(start) : dayUtc(start));
    return [
      ...lines.map((value) => svg("line", { class: value ? "grid" : "ground", x1: EDGE.left, x2: right, y1: y(value), y2: y(value) })),
      ...lines.map((value) => svg("text", { class: "tick", x: EDGE.left - 8, y: y(value) + 4, "text-anchor": "end" }, axis(value))),
      ...named.map((i) => svg("text", { class: "tick", x: x(i), y: HEIGHT - 5, "text-anchor": "middle" }, name(starts[i]))),
    ];
  }

  function draw() {
    width = drawing.clientWidth || 480;
    slot = (width - EDGE.left - EDGE.right) / starts.length;
    drawing.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    drawing.setAttribute("height", HEIGHT);
    const aim = target === null ? [] : [svg("line", { class: "target", x1: EDGE.left, x2: width - EDGE.right, y1: y(target), y2: y(target) })];
    drawing.replaceChildren(...axes(), ...(kind === "bars" ? bars() : curves()), ...aim, guide);
    choose(chosen);
  }

  function choose(i) {
    chosen = i;
    guide.setAttribute("visibility", i < 0 ? "hidden" : "visible");
    if (i < 0) return setText(reading, "");
    for (const end of ["x1", "x2"]) guide.setAttribute(end, x(i));
    const parts = series.filter((one) => one.values[i]).map((one) => `${brief(one.name)} ${format(one.values[i])}`);
    const all = total ? total(i) : sums[i];
    const figures = all === null ? "no data" : format(all) + (parts.length > 1 ? ` (${parts.join(", ")})` : "");
    setText(reading, `${stepName(starts[i], step)}: ${figures}`);
  }

  drawing.addEventListener("pointermove", (event) => {
    const i = Math.floor((event.clientX - drawing.getBoundingClientRect().left - EDGE.left) / slot);
    choose(i >= 0 && i < starts.length ? i : -1);
  });
  drawing.addEventListener("pointerleave", () => choose(-1));
  drawing.addEventListener("blur", () => choose(-1));
  drawing.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move) return;
    event.preventDefault();
    choose(chosen < 0 ? starts.length - 1 : Math.max(0, Math.min(starts.length - 1, chosen + move)));
  });
  new ResizeObserver(() => { if (drawing.clientWidth && drawing.clientWidth !== width) draw(); }).observe(drawing);
  return figure;
}
