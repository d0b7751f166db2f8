// The review page in the browser: shows the queue that the server sends, takes keys and clicks, and prefetches pictures.

const AHEAD = 5; // pictures loaded beforehand
const DONE = { accept: "Accepted", reject: "Rejected", relabel: "Relabelled", skip: "Skipped" };

export default function ({ data, parentElement, setStateValue }) {
  parentElement.review ??= open(parentElement);
  parentElement.review.update(data, setStateValue);
  return () => parentElement.isConnected || parentElement.review?.close();
}

function open(root) {
  const $ = (selector) => root.querySelector(selector);
  const page = $(".review");
  const items = new Map(); // image id -> what the server said of it
  const photos = new Map(); // image id -> <img>, loaded or loading
  let data, outbox, sent, attempt = Date.now(), label, hold, shown, broken = false, chosen = [];

  function update(fresh, setStateValue) {
    const first = !data;
    data = fresh;
    sent = (events) => setStateValue("outbox", { attempt: ++attempt, label, events });
    for (const item of [...data.recent.map((r) => r.item), ...data.window]) items.set(item.id, item);
    if (first) start();
    for (const why of outbox.answered(data)) say(`Not taken: ${why}`);
    show();
  }

  function start() {
    label = data.label;
    data.reasons.forEach((reason, i) => {
      $(".reasons").append(button(String(i + 1), words(reason), () => decide("reject", { reason })));
    });
    outbox = new Outbox(data.store, (events) => sent(events));
    heat(localRead("heat") ?? "on", localRead("opacity") ?? "60");
    if (outbox.size) outbox.send();
  }

  // --- decisions ---------------------------------------------------------------------------------------------------
  function pending() { // what the outbox means: which images are decided, and what an undo would take back
    const undoable = [...data.recent].reverse();
    const decided = new Set();
    for (const event of outbox.events) {
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

  function put(event) {
    outbox.put(event);
    show();
  }

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
    outbox.send();
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
    outbox.mark(page, data.error);
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
    const alike = (item.alike ?? []).map((other) => Object.assign(new Image(), { src: other.thumb, className: other.rejected ? "rejected" : "accepted", alt: other.rejected ? "rejected" : "accepted" }));
    const speaks = (item.measures ?? []).map((m) => row("flag", node("span", words(m.measure)), node("em", m.speaks > 0 ? "for a rejection" : "against it"), node("small", Math.abs(m.speaks).toFixed(1))));
    $(".why").replaceChildren(...(alike.length ? [node("h2", "Most like what was decided"), row("alike", ...alike), ...speaks] : []));
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
    if (outbox.size) outbox.send();
    outbox.mark(page, data.error);
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

function words(name) { return name.replaceAll("_", " "); }

function number(text) { return /^-?\d*\.\d{3,}$/.test(text) ? Number(text).toFixed(2) : text; }
