// What the single view and the grid share: which images are asked for, who asks, and what an undo would take back.

const AHEAD = 5; // pictures loaded beforehand
const DONE = { accept: "Accepted", reject: "Rejected", relabel: "Relabelled", skip: "Skipped" };
const FILTERS = { status: "Show", flag: "Flag", source: "Source", license: "Licence", split: "Split", order: "Order" };
const WORDS = {
  waiting: "waiting", accepted: "accepted", rejected: "rejected", duplicate: "copies", all: "all images",
  usual: "usual", suspicious: "most suspicious first", informative: "most informative first",
  good: "surest good first", scraped: "as scraped",
};

class Bar { // filters and the reviewer's name; what is chosen stays in this browser
  constructor(box, data, asked) {
    this.asked = asked; // called when something else is wanted
    this.box = box;
    this.wanted = readJson("wanted");
    this.selects = Object.entries(FILTERS).flatMap(([name, title]) => data.choices[name]?.length ? [this.select(name, title, data.choices[name])] : []);
    this.clear = button("", "Clear", () => this.want(Object.fromEntries(Object.keys(FILTERS).map((name) => [name, undefined]))));
    this.clear.classList.add("clear");
    this.who = button("", "", () => this.open());
    this.who.classList.add("who");
    this.namer = this.dialog(data.login);
    box.append(...this.selects.map((select) => select.parentElement), this.clear, node("span", "", "space"), this.who, this.namer);
  }

  select(name, title, choices) {
    const label = node("label", "", "filter");
    const select = document.createElement("select");
    if (!WORDS[choices[0]]) select.append(new Option("any", ""));
    select.append(...choices.map((value) => new Option(name === "status" || name === "order" ? WORDS[value] : words(value), value)));
    select.name = name;
    select.onchange = () => this.want({ [name]: select.value || undefined });
    label.append(node("span", title), select);
    return select;
  }

  want(change) {
    this.wanted = { ...this.wanted, ...change, since: undefined };
    localWrite("wanted", JSON.stringify(this.wanted));
    this.asked();
  }

  dialog(login) {
    const dialog = node("dialog", "", "namer");
    const field = Object.assign(document.createElement("input"), { type: "text", maxLength: 60, autocomplete: "off", ariaLabel: "Your name" });
    const form = document.createElement("form");
    form.method = "dialog";
    form.append(node("h2", "Who reviews here?"), node("p", "Decisions are stored under this name. It stays in this browser."), field, button("", "Use this name", () => form.requestSubmit()));
    form.onsubmit = (event) => {
      event.preventDefault();
      if (!field.value.trim()) return field.focus();
      localWrite("reviewer", field.value.trim());
      dialog.close();
      this.asked();
    };
    dialog.append(form);
    dialog.oncancel = (event) => { if (this.needed) event.preventDefault(); };
    this.field = field;
    this.who.disabled = login;
    return dialog;
  }

  ask() { // for the name, which is needed where several review
    this.needed = true;
    this.open();
  }

  open() {
    this.namer.showModal();
    this.field.select();
  }

  show(data) {
    this.needed = false;
    if (this.wanted.since === undefined) this.wanted.since = data.number; // of judged images, those that are so by now
    const set = Object.keys(FILTERS).filter((name) => this.wanted[name]);
    for (const select of this.selects) {
      select.value = this.wanted[select.name] ?? data[select.name] ?? "";
      select.parentElement.classList.toggle("set", set.includes(select.name));
    }
    this.clear.hidden = !set.length;
    this.who.replaceChildren(data.reviewer);
    this.who.title = data.login ? "By your login" : "Decisions are stored under this name; press to change it";
    if (!this.namer.open) this.field.value = data.reviewer;
  }
}

function standingSteps(recent, events) { // what can be undone, oldest first, and which images are decided in the outbox
  const steps = [...recent].reverse();
  const decided = new Map(); // image id -> event
  const of = (said) => said.batch ?? said.id;
  for (const event of events) {
    if (event.verdict === "undo") {
      const key = event.batch ?? event.undoes;
      const at = steps.findIndex((step) => of(step) === key);
      if (at >= 0) steps.splice(at, 1);
      for (const [image, said] of decided) if (of(said) === key) decided.delete(image);
    } else {
      decided.set(event.image_id, event);
      const step = steps.find((known) => of(known) === of(event));
      if (step && !step.item) step.images += 1;
      else if (!step) steps.push({ ...event, images: 1 });
    }
  }
  return { decided, last: steps.at(-1) };
}

function undoOf(step) { // the event that takes a step back
  return step.images > 1 ? { verdict: "undo", batch: step.batch } : { image_id: step.image_id, verdict: "undo", undoes: step.id };
}

function saidOf(step) {
  const what = `${DONE[step.verdict]}${step.reason ? ": " + words(step.reason) : ""}${step.verdict === "relabel" ? " as " + step.label : ""}`;
  return step.images > 1 ? `${what}, ${step.images} images` : what;
}

class Pictures { // the image in the middle, and the next ones, loaded beforehand
  constructor(page, again) {
    this.page = page;
    this.again = again; // shows an image anew, when the server is back
    this.frame = page.querySelector(".frame");
    this.notice = page.querySelector(".notice");
    this.photos = new Map(); // image id -> <img>, loaded or loading
  }

  show(item, alt) { // none: nothing
    this.id = item?.id;
    this.broken = false;
    this.page.dataset.image = this.id ?? "";
    this.page.dataset.ready = "false";
    this.frame.replaceChildren();
    this.notice.hidden = Boolean(item);
    if (!item) return;
    const photo = this.load(item);
    photo.alt = alt;
    this.frame.append(photo);
    if (photo.complete && photo.naturalWidth) this.ready(item);
  }

  load(item) {
    if (this.photos.has(item.id)) return this.photos.get(item.id);
    const photo = Object.assign(new Image(), { className: "photo", decoding: "sync" });
    photo.onload = () => this.ready(item);
    photo.onerror = () => this.failed(item);
    photo.src = item.img;
    this.photos.set(item.id, photo);
    return photo;
  }

  ready({ id }) {
    if (id !== this.id) return;
    const photo = this.photos.get(id);
    this.frame.style.setProperty("--w", photo.naturalWidth);
    this.frame.style.setProperty("--h", photo.naturalHeight);
    this.notice.hidden = true;
    this.page.dataset.ready = "true";
  }

  async failed(item) { // gone or damaged, or is the server away?
    this.photos.delete(item.id);
    if (item.id !== this.id) return;
    const answer = await fetch(item.img, { cache: "no-store" }).catch(() => undefined);
    if (item.id !== this.id) return;
    this.broken = Boolean(answer);
    this.notice.hidden = false;
    this.notice.textContent = this.broken ? "This image cannot be shown.\nReject or skip it." : "The server does not answer. Trying again …";
    if (!this.broken) setTimeout(() => item.id === this.id && this.page.dataset.ready === "false" && this.again(item), RESEND_MS);
  }

  prefetch(next, overlay = () => undefined) { // the next images, each with the address of what is laid over it, if anything is
    const keep = next.slice(0, AHEAD + 1).filter((item) => item.id !== this.id);
    for (const item of keep) {
      const photo = this.load(item);
      const src = overlay(item);
      if (src) photo.overlay ??= Object.assign(new Image(), { src });
    }
    for (const id of this.photos.keys()) if (id !== this.id && !keep.some((item) => item.id === id)) this.photos.delete(id);
  }

  decidable(verdict) { // what cannot be shown can be rejected or skipped
    return Boolean(this.id) && (this.page.dataset.ready === "true" || (this.broken && (verdict === "reject" || verdict === "skip")));
  }
}

class Chooser { // of one name among several, by typing or by number
  constructor(dialog) {
    this.dialog = dialog;
    this.find = Object.assign(document.createElement("input"), { type: "text", className: "find", autocomplete: "off", spellcheck: false });
    this.list = node("div", "", "choices");
    this.list.setAttribute("role", "group");
    this.list.ariaLabel = "Choices";
    this.find.oninput = () => this.show();
    dialog.append(this.find, this.list, node("p", "Press a number, or type and press Enter. Esc goes back.", "hint"));
  }

  open(names, chosen, question = "Which class is it?") {
    Object.assign(this, { names, chosen });
    this.dialog.ariaLabel = question;
    Object.assign(this.find, { value: "", placeholder: question, ariaLabel: question });
    this.show();
    this.dialog.showModal();
    this.find.focus();
  }

  show() {
    const typed = this.find.value.trim().toLowerCase();
    this.shown = this.names.filter((name) => name.toLowerCase().includes(typed));
    this.list.replaceChildren(...this.shown.map((name, i) => button(i < 9 ? String(i + 1) : "", name, () => this.pick(name))));
  }

  pick(name) {
    this.dialog.close();
    if (name) this.chosen(name);
  }

  key(event) { // while it is open
    event.stopImmediatePropagation();
    const number = !this.find.value && /^[1-9]$/.test(event.key) ? this.shown[event.key - 1] : undefined;
    const name = number ?? (event.key === "Enter" && event.composedPath()[0] === this.find ? this.shown[0] : undefined);
    if (event.repeat || !name) return;
    event.preventDefault();
    this.pick(name);
  }
}

function readJson(name) {
  try {
    const value = JSON.parse(localRead(name) ?? "{}");
    return value && typeof value === "object" ? value : {};
  } catch {
    return {}; // what another program wrote there is no choice
  }
}

function words(name) { return name.replaceAll("_", " "); }

function classLine(onclick) {
  const line = document.createElement("button");
  line.type = "button";
  line.className = "class";
  line.append(node("span", "", "name"), bar(), node("span", "", "count"));
  line.onclick = () => onclick(line.value || undefined);
  return line;
}

function showClasses(nav, data, label, onclick) { // accepted towards the target; press one to see it alone
  const sum = (count) => data.counts.reduce((total, c) => total + count(c), 0);
  const all = { label: null, accepted: sum((c) => Math.min(c.accepted, c.target)), target: sum((c) => c.target) };
  const lines = [all, ...data.counts];
  if (nav.children.length !== lines.length) nav.replaceChildren(...lines.map(() => classLine(onclick)));
  lines.forEach((count, i) => {
    const line = nav.children[i];
    line.value = count.label ?? "";
    line.setAttribute("aria-pressed", String((label ?? null) === count.label));
    line.querySelector(".name").textContent = count.label ?? "All classes";
    line.querySelector(".bar").style.setProperty("--v", Math.min(count.accepted / count.target, 1));
    line.querySelector(".count").textContent = `${count.accepted} / ${count.target}`;
  });
}

function bar(value = 0, colour = "") {
  const outer = node("span", "", "bar");
  outer.append(document.createElement("i"));
  outer.style.setProperty("--v", value);
  if (colour) outer.style.setProperty("--bar", colour);
  return outer;
}
