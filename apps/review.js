// The review page in the browser: shows the queue that the server sends, takes keys and clicks, prefetches pictures, and
// keeps every decision in an outbox (localStorage, one key each) until the server says that the ledger holds it.
// Text from the web reaches the page through textContent only.

const RESEND_MS = 2000; // an unanswered outbox is sent again
const LATE_MS = 3000; // after this the mark says that something is not saved yet
const AHEAD = 5; // pictures loaded beforehand
const BATCH = 200; // decisions sent at once
const DONE = { accept: "Accepted", reject: "Rejected", relabel: "Relabelled", skip: "Skipped" };

export default function ({ data, parentElement, setStateValue }) {
  parentElement.review ??= open(parentElement);
  parentElement.review.update(data, setStateValue);
  return () => parentElement.isConnected || parentElement.review?.close();
}

function open(root) {
  const $ = (selector) => root.querySelector(selector);
  const page = $(".review");
  const outbox = new Map(); // decision id -> decision, oldest first
  const items = new Map(); // image id -> what the server said of it
  const photos = new Map(); // image id -> <img>, loaded or loading
  let data, send, attempt = Date.now(), label, hold, shown, broken = false, chosen = [];

  function update(fresh, setStateValue) {
    const first = !data;
    data = fresh;
    send = () => setStateValue("outbox", { attempt: ++attempt, label, events: [...outbox.values()].slice(0, BATCH) });
    for (const item of [...data.recent.map((r) => r.item), ...data.window]) items.set(item.id, item);
    if (first) start();
    for (const id of data.acked ?? []) forget(id);
    for (const { id, why } of data.refused ?? []) if (forget(id)) say(`Not taken: ${why}`);
    show();
  }

  function start() {
    label = data.label;
    data.reasons.forEach((reason, i) => {
      $(".reasons").append(button(String(i + 1), words(reason), () => decide("reject", { reason })));
    });
    for (const [key, value] of stored()) outbox.set(key, value);
    heat(localRead("heat") ?? "on", localRead("opacity") ?? "60");
    if (outbox.size) send();
  }

  // --- outbox ------------------------------------------------------------------------------------------------------
  const prefix = () => `deeprock/${data.store}/`;

  function stored() {
    const keys = Object.keys(localStorage).filter((key) => key.startsWith(prefix()));
    const events = keys.map((key) => JSON.parse(localStorage.getItem(key)));
    return events.sort((a, b) => a.at - b.at).map((event) => [event.id, event]);
  }

  function put(event) {
    const last = [...outbox.values()].at(-1)?.at ?? 0;
    event = { id: uuid(), at: Math.max(Date.now(), last + 1), ...event };
    localWrite(prefix() + event.id, JSON.stringify(event));
    outbox.set(event.id, event);
    send();
    show();
  }

  function forget(id) {
    localStorage.removeItem(prefix() + id);
    return outbox.delete(id);
  }

  function pending() { // what the outbox means: which images are decided, and what an undo would take back
    const undoable = [...data.recent].reverse();
    const decided = new Set();
    for (const event of outbox.values()) {
      const at = undoable.findIndex((d) => d.id === (event.undoes ?? event.id));
      if (event.verdict === "undo") {
        decided.delete(event.image_id);
        if (at >= 0) undoable.splice(at, 1);
      } else {
        decided.add(event.image_id);
        if (at < 0) undoable.push(event);
      }
    }
    return { decided, last: undoable.at(-1) };
  }

  // --- decisions ---------------------------------------------------------------------------------------------------
  function decide(verdict, extra = {}) {
    const allowed = page.dataset.ready === "true" || (broken && (verdict === "reject" || verdict === "skip"));
    if (!shown || !allowed) return;
    const item = items.get(shown);
    hold = undefined;
    put({ image_id: shown, verdict, ...extra });
    say(`${DONE[verdict]} ${item.label}${extra.reason ? ": " + words(extra.reason) : ""}${extra.label ? " as " + extra.label : ""}`);
  }

  function undo() {
    const { last } = pending();
    if (!last) return say("Nothing to undo");
    hold = last.image_id;
    put({ image_id: last.image_id, verdict: "undo", undoes: last.id });
    say(`Undone: ${DONE[last.verdict].toLowerCase()} ${items.get(last.image_id)?.label ?? ""}`);
  }

  function filter(name) {
    label = name;
    hold = undefined;
    send();
  }

  // --- what is shown -----------------------------------------------------------------------------------------------
  function show() {
    const { decided, last } = pending();
    const next = data.window.filter((item) => !decided.has(item.id));
    const item = hold && !decided.has(hold) && items.has(hold) ? items.get(hold) : next[0];
    if (item?.id !== shown) picture(item);
    hold = item?.id;
    prefetch(next);
    classes(decided);
    $(".last").textContent = last ? said(last) : "Nothing decided yet";
    $(".last-thumb").hidden = !last;
    if (last && items.has(last.image_id)) $(".last-thumb").src = items.get(last.image_id).thumb;
    mark();
  }

  function picture(item) {
    shown = item?.id;
    broken = false;
    page.dataset.image = shown ?? "";
    page.dataset.ready = "false";
    $(".frame").replaceChildren();
    $(".notice").hidden = Boolean(item);
    $(".lens").hidden = !item?.heat;
    $(".facts").hidden = !item;
    $(".label").textContent = item?.label ?? "";
    if (!item) return finished();
    facts(item);
    const photo = load(item);
    photo.alt = `${item.label}: ${item.provenance.title ?? "image " + item.id}`;
    $(".frame").append(photo);
    if (item.heat) $(".frame").append(Object.assign(new Image(), { src: item.heat, alt: "", className: "heat" }));
    if (photo.complete && photo.naturalWidth) ready(item.id);
  }

  function finished() {
    $(".notice").textContent = outbox.size ? "Saving …" : `Nothing waits here.\n${data.label ? "Choose another class, or all." : "Every image is decided."}`;
  }

  function load(item) {
    if (photos.has(item.id)) return photos.get(item.id);
    const photo = Object.assign(new Image(), { className: "photo", decoding: "sync" });
    photo.onload = () => ready(item.id);
    photo.onerror = () => failed(item.id);
    photo.src = item.img;
    photos.set(item.id, photo);
    return photo;
  }

  function ready(id) {
    if (id !== shown) return;
    const photo = photos.get(id);
    $(".frame").style.setProperty("--w", photo.naturalWidth);
    $(".frame").style.setProperty("--h", photo.naturalHeight);
    $(".notice").hidden = true;
    page.dataset.ready = "true";
  }

  async function failed(id) { // gone or damaged, or is the server away?
    photos.delete(id);
    if (id !== shown) return;
    const answer = await fetch(items.get(id).img, { cache: "no-store" }).catch(() => undefined);
    if (id !== shown) return;
    broken = Boolean(answer);
    $(".notice").hidden = false;
    $(".notice").textContent = broken ? "This image cannot be shown.\nReject or skip it." : "The server does not answer. Trying again …";
    if (!broken) setTimeout(() => id === shown && page.dataset.ready === "false" && picture(items.get(id)), RESEND_MS);
  }

  function prefetch(next) {
    const keep = next.slice(0, AHEAD + 1).filter((item) => item.id !== shown);
    for (const item of keep) {
      load(item);
      if (item.heat) photos.get(item.id).heat ??= Object.assign(new Image(), { src: item.heat });
    }
    for (const id of photos.keys()) if (id !== shown && !keep.some((item) => item.id === id)) photos.delete(id);
  }

  function facts(item) {
    const flags = item.flags.map((f) => row("flag", node("span", words(f.measure)), node("b", number(f.value)), node("small", f.threshold && `limit ${number(f.threshold)}`)));
    $(".flags").replaceChildren(node("h2", flags.length ? "Flags" : "No flags"), ...flags);
    const model = [
      item.predicted && row("row", node("span", "predicted"), node("em", ""), node("em", item.predicted)),
      meter(`is ${item.label}`, item.label_probability, "var(--good)"),
      meter("is a reject", item.reject_probability, "var(--bad)"),
      meter("suspicion", item.suspicion, "var(--warn)"),
    ].filter(Boolean);
    $(".model").replaceChildren(...(model.length ? [node("h2", "Model"), ...model] : []));
    const list = document.createElement("dl");
    for (const [name, value] of Object.entries(item.provenance)) {
      if (value) list.append(node("dt", words(name)), Object.assign(node("dd", value), { title: value }));
    }
    $(".origin").replaceChildren(...(list.children.length ? [node("h2", "Source"), list] : []));
    $(".facts").scrollTop = 0;
  }

  function classes(decided) {
    const waiting = (name) => data.counts.filter((c) => !name || c.label === name).reduce((sum, c) => sum + c.waiting, 0);
    const here = data.window.filter((item) => decided.has(item.id)).length;
    const left = Math.max(waiting(data.label) - here, 0);
    $(".place").textContent = `${left} waiting${data.label ? " in " + data.label : ""}`;
    const all = { label: null, accepted: data.counts.reduce((sum, c) => sum + Math.min(c.accepted, c.target), 0), target: data.counts.reduce((sum, c) => sum + c.target, 0) };
    const rows = [all, ...data.counts];
    const nav = $(".classes");
    if (nav.children.length !== rows.length) nav.replaceChildren(...rows.map(classRow));
    rows.forEach((count, i) => {
      const line = nav.children[i];
      line.value = count.label ?? "";
      line.setAttribute("aria-pressed", String((label ?? null) === count.label));
      line.querySelector(".name").textContent = count.label ?? "All classes";
      line.querySelector(".bar").style.setProperty("--v", Math.min(count.accepted / count.target, 1));
      line.querySelector(".count").textContent = `${count.accepted} / ${count.target}`;
    });
  }

  function classRow() {
    const line = document.createElement("button");
    line.type = "button";
    line.className = "class";
    line.append(node("span", "", "name"), bar(), node("span", "", "count"));
    line.onclick = () => filter(line.value || null);
    return line;
  }

  function mark() {
    const waited = outbox.size ? Date.now() - outbox.values().next().value.at : 0;
    const late = outbox.size && (data.error || waited > LATE_MS);
    page.dataset.pending = outbox.size;
    page.dataset.saved = late ? "late" : String(!outbox.size);
    const kept = `Not saved yet: ${outbox.size} kept in this browser${data.error ? ". " + data.error : ""}`;
    $(".mark").textContent = late ? kept : outbox.size ? "Saving …" : "✓ All saved";
  }

  function heat(state, opacity) {
    page.dataset.heat = localWrite("heat", state);
    $(".toggle").setAttribute("aria-pressed", String(state === "on"));
    page.style.setProperty("--heat", localWrite("opacity", opacity) / 100);
    $(".opacity").value = opacity;
  }

  // --- relabel -----------------------------------------------------------------------------------------------------
  function choose() {
    if (page.dataset.ready !== "true") return;
    $(".find").value = "";
    choices();
    $(".chooser").showModal();
    $(".find").focus();
  }

  function choices() {
    const typed = $(".find").value.trim().toLowerCase();
    chosen = data.labels.filter((name) => name !== items.get(shown).label && name.toLowerCase().includes(typed));
    $(".choices").replaceChildren(...chosen.map((name, i) => button(i < 9 ? String(i + 1) : "", name, () => pick(name))));
  }

  function pick(name) {
    $(".chooser").close();
    if (name) decide("relabel", { label: name });
  }

  // --- keys --------------------------------------------------------------------------------------------------------
  const keys = {
    a: () => decide("accept"), s: () => decide("skip"), l: choose, u: undo, z: undo,
    h: () => heat(page.dataset.heat === "on" ? "off" : "on", $(".opacity").value),
  };

  function onKey(event) {
    if (!root.isConnected) return close();
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    const target = event.composedPath()[0];
    const held = event.repeat && (event.key === "Enter" || event.key === " ") && root.contains(target);
    if (held && target.localName === "button") return event.preventDefault(); // a held Enter clicks once
    if ($(".chooser").open) return inChooser(event);
    if (typing(target)) return;
    const action = keys[event.key.toLowerCase()] ?? (data.reasons[event.key - 1] && (() => decide("reject", { reason: data.reasons[event.key - 1] })));
    if (!action) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    if (!event.repeat) action();
  }

  function inChooser(event) {
    event.stopImmediatePropagation();
    const number = !$(".find").value && /^[1-9]$/.test(event.key) ? chosen[event.key - 1] : undefined;
    const target = event.composedPath()[0];
    const name = number ?? (event.key === "Enter" && target === $(".find") ? chosen[0] : undefined);
    if (event.repeat || !name) return;
    event.preventDefault();
    pick(name);
  }

  // --- small things ------------------------------------------------------------------------------------------------
  function say(text) { $(".live").textContent = text; }
  function said(d) { return `${DONE[d.verdict]}${d.reason ? ": " + words(d.reason) : ""}${d.verdict === "relabel" ? " as " + d.label : ""}`; }

  const onTick = () => {
    if (!root.isConnected) return close();
    if (outbox.size) send();
    mark();
  };

  function close() {
    window.removeEventListener("keydown", onKey, true);
    clearInterval(timer);
    delete root.review;
  }

  $(".accept").onclick = () => decide("accept");
  $(".skip").onclick = () => decide("skip");
  $(".relabel").onclick = choose;
  $(".undo").onclick = undo;
  $(".toggle").onclick = () => keys.h();
  $(".opacity").oninput = () => heat("on", $(".opacity").value);
  $(".find").oninput = choices;
  window.addEventListener("keydown", onKey, true);
  const timer = setInterval(onTick, RESEND_MS);
  return { update, close };
}

function typing(target) {
  const plain = ["range", "checkbox", "radio", "button", "submit"];
  return target.isContentEditable || /^(textarea|select)$/.test(target.localName) || (target.localName === "input" && !plain.includes(target.type));
}

function node(tag, text, className = "") {
  const element = document.createElement(tag);
  element.textContent = text ?? "";
  element.className = className;
  return element;
}

function row(className, ...children) {
  const line = node("div", "", className);
  line.append(...children);
  return line;
}

function bar(value = 0, colour = "") {
  const outer = node("span", "", "bar");
  outer.append(document.createElement("i"));
  outer.style.setProperty("--v", value);
  if (colour) outer.style.setProperty("--bar", colour);
  return outer;
}

function meter(name, value, colour) {
  return value === null ? undefined : row("row", node("span", name), bar(value, colour), node("em", `${Math.round(value * 100)} %`));
}

function button(key, text, onclick) {
  const element = node("button", "");
  element.type = "button";
  element.append(node("kbd", key), text);
  element.onclick = onclick;
  return element;
}

function words(name) { return name.replaceAll("_", " "); }

function number(text) { return /^-?\d*\.\d{3,}$/.test(text) ? Number(text).toFixed(2) : text; }

function uuid() { // crypto.randomUUID is missing where the page is not on loopback or https
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 15) | 64;
  bytes[8] = (bytes[8] & 63) | 128;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
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
