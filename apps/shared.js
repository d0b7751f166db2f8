// What the pages share. Decisions wait in an outbox of this browser (localStorage, one key each) until the server says that
// the ledger holds them. Text from the web reaches a page through textContent only.

const RESEND_MS = 2000; // an unanswered outbox is sent again
const LATE_MS = 3000; // after this the mark says that something is not saved yet
const BATCH = 200; // decisions sent at once

function exchanges(page, answered) { // sends messages to the server; the answer to the last one says what to show
  let last = 0;
  return async (message) => {
    const mine = ++last;
    try {
      const headers = { "Content-Type": "application/json", "X-DeepRock": "1" };
      const answer = await fetch(`/exchange/${page}`, { method: "POST", headers, body: JSON.stringify(message) });
      if (!answer.ok) throw new Error(`${answer.status} ${await answer.text()}`);
      const shown = await answer.json();
      if (mine === last) answered(shown);
    } catch (error) {
      console.warn("not answered:", error.message); // the page sends it again
    }
  };
}

class Outbox { // decisions, oldest first
  constructor(store, send) {
    this.prefix = `deeprock/${store}/`;
    this.deliver = send;
    this.underWay = 0; // since when a message has no answer
    const keys = Object.keys(localStorage).filter((key) => key.startsWith(this.prefix));
    const left = keys.map((key) => JSON.parse(localStorage.getItem(key))).sort((a, b) => a.at - b.at);
    this.kept = new Map(left.map((event) => [event.id, event]));
  }

  get size() { return this.kept.size; }
  get events() { return [...this.kept.values()]; }

  send() { // one message at a time: a page that is asked again while it answers begins anew
    this.due = Date.now() - this.underWay < RESEND_MS;
    if (this.due) return;
    this.underWay = Date.now();
    this.deliver(this.events.slice(0, BATCH));
  }

  put(...events) {
    let at = Math.max(Date.now(), ([...this.kept.values()].at(-1)?.at ?? 0) + 1);
    for (const made of events) {
      const event = { id: uuid(), at: at++, ...made };
      localWrite(this.prefix + event.id, JSON.stringify(event));
      this.kept.set(event.id, event);
    }
    this.send();
  }

  answered({ acked = [], refused = [] }) { // forgets what is settled; why the server did not take a decision, if so
    for (const id of acked) this.forget(id);
    const reasons = refused.filter(({ id }) => this.forget(id)).map(({ why }) => why);
    this.underWay = 0;
    if (this.due) this.send();
    return reasons;
  }

  forget(id) {
    localStorage.removeItem(this.prefix + id);
    return this.kept.delete(id);
  }

  mark(page, error) { // says on the page whether all is saved
    const late = this.size > 0 && (Boolean(error) || Date.now() - this.events[0].at > LATE_MS);
    page.dataset.pending = this.size;
    page.dataset.saved = late ? "late" : String(!this.size);
    const kept = `Not saved yet: ${this.size} kept in this browser${error ? ". " + error : ""}`;
    page.querySelector(".mark").textContent = late ? kept : this.size ? "Saving …" : "✓ All saved";
  }
}

function node(tag, text, className = "") {
  const element = document.createElement(tag);
  element.textContent = text ?? "";
  element.className = className;
  return element;
}

function button(key, text, onclick) {
  const element = node("button", "");
  element.type = "button";
  element.append(node("kbd", key), text);
  element.onclick = onclick;
  return element;
}

function typing(target) {
  const plain = ["range", "checkbox", "radio", "button", "submit"];
  return target.isContentEditable || /^(textarea|select)$/.test(target.localName) || (target.localName === "input" && !plain.includes(target.type));
}

function uuid() { // crypto.randomUUID is missing where the page is not on loopback or https
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 15) | 64;
  bytes[8] = (bytes[8] & 63) | 128;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

// --- keys: what each does, and another key where the reviewer chose one ------------------------------------------------
const KEYS = {
  accept: "a", reject1: "1", reject2: "2", reject3: "3", reject4: "4", reject5: "5", reject6: "6", reject7: "7",
  relabel: "l", skip: "s", undo: "u", heat: "h", heatOf: "p", fainter: "[", stronger: "]", zoom: "z", grid: "g", select: "x",
};

function chosenKeys() { // action -> key
  try {
    const chosen = JSON.parse(localRead("keys") ?? "{}");
    return Object.fromEntries(Object.entries(KEYS).map(([action, key]) => [action, typeof chosen[action] === "string" ? chosen[action] : key]));
  } catch {
    return KEYS; // what another program wrote there is no choice
  }
}

function actionOf(event) { // what a key means, if anything; not with Ctrl, Alt or Cmd, which are the browser's
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return undefined;
  const key = event.key.toLowerCase();
  return Object.entries(chosenKeys()).find(([, chosen]) => chosen === key)?.[0];
}

// --- who sits here ------------------------------------------------------------------------------------------------------
function reviewerHere(data) { return data.login ? "" : localRead("reviewer") ?? ""; }

function speaker(data, events) { // decisions that wait are of whoever made them, whatever name was given since, here or in another tab
  return events.length ? data.reviewer : reviewerHere(data);
}

function renamed(data, outbox) { // whether another name was given than the one that was answered; not while decisions wait
  const name = reviewerHere(data);
  if (name && name === data.asked.reviewer) localWrite("reviewer", data.reviewer); // as the server writes it
  return !outbox.size && name !== "" && ![data.asked.reviewer, data.reviewer].includes(name);
}

function living(root, name, onKey, onTick = () => {}) { // a page hears keys and the clock until it leaves the document; ends that
  const key = (event) => (root.isConnected ? onKey(event) : close());
  const timer = setInterval(() => (root.isConnected ? onTick() : close()), RESEND_MS);
  window.addEventListener("keydown", key, true);
  function close() {
    window.removeEventListener("keydown", key, true);
    clearInterval(timer);
    delete root[name];
  }
  return close;
}

function go(page) { // to another page of the app, without loading it anew where its link is in sight
  const link = document.querySelector(`a[href$="/${page}"]`);
  link ? link.click() : location.assign(`/${page}`);
}

function localRead(name) { return localStorage.getItem(`deeprock/look/${name}`); }

function localWrite(name, value) {
  const key = name.startsWith("deeprock/") ? name : `deeprock/look/${name}`;
  try {
    localStorage.setItem(key, value);
  } catch (error) {
    console.warn("this browser keeps nothing:", error.name); // full or forbidden: decisions still go to the server
  }
  return value;
}
