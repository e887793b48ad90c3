// The caller: the key of this tab or the session of this browser, the views of its role, and the sign-in form.
import { byId, setText } from "./elements.js";
import { key, read, request } from "./api.js";

// The address that `llm-auction run` prints ends with a one-time token behind this word.
const TOKEN = "#sign-in=";

const ROLES = { admin: "Administrator", advertiser: "Advertiser", viewer: "Viewer of", publisher: "Publisher" };
const VIEWS = {
  admin: ["playground", "campaigns", "revenue"],
  advertiser: ["campaigns", "revenue"],
  viewer: ["campaigns", "revenue"],
  publisher: ["playground"],
};

// `role` is null without a key.
export const caller = { role: null, advertiser_id: "", anonymous_chat: false };
let changed = () => {};

// Views in the navigation; without a key all of them, since a key opens them.
export const offered = () => (caller.role ? VIEWS[caller.role] : VIEWS.admin);
// Whether the caller is one of an advertiser's users, who see what is their advertiser's.
export const ofAdvertiser = () => ["advertiser", "viewer"].includes(caller.role);
export const may = (view) => (caller.role ? offered().includes(view) : view === "playground" && caller.anonymous_chat);

async function find(secret) {
  const found = await read("/v1/caller", { secret });
  if (secret && !found.role) throw new Error("This is not a key of this router.");
  Object.assign(caller, found);
}

export async function open(onChange) {
  changed = onChange;
  byId("sign-in").addEventListener("submit", (event) => { event.preventDefault(); signIn(byId("key").value.trim()); });
  byId("sign").addEventListener("click", () => (caller.role ? signOut() : askForKey()));
  document.addEventListener("key-rejected", (event) => {
    // Not while it is tried at sign-in: the form shows that error.
    if (caller.role && event.detail === key.get()) signOut("Your key is no longer valid: it was revoked or has expired.");
  });
  await exchangeToken();
  try {
    await find(key.get());
  } catch (error) {
    key.remove();
    setText(byId("sign-message"), error.status === 0 ? "The router cannot be reached. Reload the page to try again." : "The key of this tab is no longer valid.");
    if (error.status !== 0) await find("").catch(() => {});
  }
  show();
}

// Exchanges the token of the address for a session, and takes it out of the address and of the history.
async function exchangeToken() {
  if (!location.hash.startsWith(TOKEN)) return;
  const token = location.hash.slice(TOKEN.length);
  history.replaceState(null, "", location.pathname);
  try {
    await request("/v1/session", { method: "POST", body: { token }, secret: "" });
    key.remove();
  } catch (error) {
    setText(byId("sign-message"), error.status === 401 ? `This address signs in once. ${error.message}` : error.message);
    askForKey();
  }
}

async function signIn(secret) {
  setText(byId("sign-message"), "");
  try {
    // The browser rejects other characters in a header with an unhelpful error.
    if (!/^[\x21-\x7e]+$/.test(secret)) throw new Error("A key consists of ASCII letters, digits and punctuation only.");
    await find(secret);
  } catch (error) {
    const message = error.status === 401 ? "This key is not valid: it was mistyped or revoked, or belongs to another router." : error.message;
    setText(byId("sign-message"), message);
    byId("key").select();
    return;
  }
  key.set(secret);
  byId("key").value = "";
  show();
  byId("main").focus();
}

async function signOut(why = "") {
  key.remove();
  Object.assign(caller, { role: null, advertiser_id: "" });
  await request("/v1/session", { method: "DELETE", secret: "" }).catch(() => {});
  setText(byId("sign-message"), why);
  show();
}

function askForKey() {
  document.dispatchEvent(new CustomEvent("sign-in-wanted"));
  byId("key").focus();
}

function show() {
  const name = ROLES[caller.role] ?? "";
  setText(byId("who"), ofAdvertiser() ? `${name} ${caller.advertiser_id}` : name);
  setText(byId("sign"), caller.role ? "Sign out" : "Sign in");
  changed();
}
