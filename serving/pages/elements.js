// Elements of the page. Text is always set as text; no code of the console parses markup.

export const byId = (id) => document.getElementById(id);

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

export const element = (tag, attributes = {}, ...children) => filled(document.createElement(tag), attributes, children);

export const svg = (tag, attributes = {}, ...children) =>
  filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

export function button(text, onClick, attributes = {}) {
  const made = element("button", { type: "button", class: "plain", ...attributes }, text);
  made.addEventListener("click", onClick);
  return made;
}

// Sets text only if it differs, so that polling does not disturb a selection or a screen reader.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// A link if the address is an HTTP address (or relative to this server), else plain text.
export function outwardLink(address, text, attributes = {}) {
  let url = null;
  try {
    url = new URL(address, document.baseURI);
  } catch { /* not an address */ }
  if (!url || !["http:", "https:"].includes(url.protocol)) return element("span", {}, text);
  return element("a", { href: url.href, target: "_blank", rel: "noopener noreferrer", ...attributes }, text);
}
