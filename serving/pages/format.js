// Formats figures and times as English text.

const formats = new Map();

function formatter(currency, digits) {
  const key = `${currency} ${digits}`;
  if (!formats.has(key)) {
    const options = { style: "currency", currency };
    if (digits !== undefined) Object.assign(options, { maximumFractionDigits: digits });
    formats.set(key, new Intl.NumberFormat("en", options));
  }
  return formats.get(key);
}

// With the decimal places of the currency; `exact` shows up to the micro.
export function money(micros, currency, exact = false) {
  return formatter(currency, exact ? 6 : undefined).format(micros / 1e6);
}

const whole = new Intl.NumberFormat("en");
export const count = (number) => whole.format(number);

export function decimal(number, digits = 2) {
  return number.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

export function percent(share) {
  if (share === 0) return "0%";
  return share < 0.001 ? "<0.1%" : `${decimal(100 * share, 1)}%`;
}

const clock = new Intl.DateTimeFormat("en", { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
export const timeOfDay = (date) => clock.format(date);

const utc = (options) => new Intl.DateTimeFormat("en-GB", { timeZone: "UTC", hourCycle: "h23", ...options });
const hourFormat = utc({ hour: "2-digit", minute: "2-digit" });
const dayFormat = utc({ day: "numeric", month: "short" });
const fullFormat = utc({ day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit" });
export const hourUtc = (date) => hourFormat.format(date);
export const dayUtc = (date) => dayFormat.format(date);
export const momentUtc = (date) => `${fullFormat.format(date)} UTC`;
