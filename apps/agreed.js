// The part of the page of second opinions that shows how far two reviewers agree, and lets a person settle what they
// disagree about. A settlement is an ordinary decision.

const QUESTIONS = { keep: "Keep or reject", verdict: "Accept, reject or relabel", reason: "Reason, of what both reject" };
const SCOPES = { all: "", class: "By class", reviewers: "By reviewers" };
const MORE = 50; // disagreements

class Agreed {
  constructor(root, { outbox, ask, chooser, changed, say }) { // outbox: gives it; ask: for other data
    Object.assign(this, { root, outbox, ask, chooser, changed, say });
    this.$ = (selector) => root.querySelector(selector);
    this.rows = new Map(); // image id -> disagreement
    this.takenBack = new Set(); // images whose settlement was undone here
    this.question = QUESTIONS[localRead("agreed-on")] ? localRead("agreed-on") : "keep";
    this.$(".questions").append(...Object.keys(QUESTIONS).map((name) => button("", QUESTIONS[name], () => this.about(name))));
    this.$(".compute").onclick = () => ask({ opened: Date.now() });
    this.$(".more").onclick = () => ask({ listed: this.data.agreed.disputes.length + MORE });
  }

  about(name) {
    this.question = localWrite("agreed-on", name);
    this.changed();
  }

  show(data, current) {
    this.data = data;
    [...this.$(".questions").children].forEach((tab, n) => tab.setAttribute("aria-pressed", String(Object.keys(QUESTIONS)[n] === this.question)));
    if (!current) return void (this.$(".task").textContent = "Comparing …");
    const { opened, disputes, total, hidden } = data.agreed;
    if (this.tableOf !== `${opened} ${this.question}`) this.drawTable();
    if (this.listOf !== `${opened} ${disputes.length}`) this.drawDisputes();
    [this.tableOf, this.listOf] = [`${opened} ${this.question}`, `${opened} ${disputes.length}`];
    for (const { image_id, settled } of disputes) this.rows.get(image_id).settled = settled;
    for (const id of this.rows.keys()) this.showSettled(id);
    this.$(".task").textContent = this.task(total, hidden);
    this.$(".more").hidden = total <= disputes.length;
    this.$(".more").textContent = `Show ${amountOf(Math.min(MORE, total - disputes.length))} more`;
  }

  task(total, hidden) {
    const open = total - [...this.rows.keys()].filter((id) => this.standing(id)).length;
    const own = hidden ? ` ${amountOf(hidden, "more image")} ${hidden === 1 ? "waits" : "wait"} for your own opinion first.` : "";
    const how = "Settle each: it becomes an ordinary decision under your name. j and k go from one to the next.";
    return (total ? `${amountOf(open)} of ${amountOf(total, "disagreement")} ${open === 1 ? "is" : "are"} open. ${how}` : "There is no disagreement to settle.") + own;
  }

  forget() { // what others said goes with the part that shows it
    this.tableOf = this.listOf = undefined;
    this.rows.clear();
    this.$(".disputes").replaceChildren();
    for (const body of this.root.querySelectorAll("tbody")) body.remove();
  }

  // --- the table -------------------------------------------------------------------------------------------------------
  drawTable() {
    for (const body of this.root.querySelectorAll("tbody")) body.remove();
    this.$("caption").textContent = `Agreement on: ${QUESTIONS[this.question]}`;
    this.$(".fewer").textContent = `Of fewer than ${this.data.agreed.few} images neither says much.`;
    for (const [scope, title] of Object.entries(SCOPES)) {
      const here = this.data.agreed.rows.filter((row) => row.scope === scope && row.question === this.question);
      const body = document.createElement("tbody");
      if (title && here.length) body.append(this.heading(title));
      body.append(...here.map((found) => this.line(found)));
      this.$("table").append(body);
    }
  }

  heading(title) {
    const row = node("tr", "", "heading");
    row.append(Object.assign(node("th", title), { scope: "rowgroup", colSpan: 6 }));
    return row;
  }

  line(found) {
    const row = node("tr", "", found.n < this.data.agreed.few ? "few" : "");
    row.dataset.scope = found.scope;
    const range = node("td", "", "range");
    if (found.kappa !== null) range.append(this.interval(found), `${decimal(found.low)} to ${decimal(found.high)}`);
    row.append(
      Object.assign(node("th", found.scope === "all" ? "All" : found.name), { scope: "row" }),
      node("td", amountOf(found.n), "n"),
      node("td", found.agreed === null ? "–" : `${Math.round(found.agreed * 100)} %`, "n agreed"),
      node("td", decimal(found.kappa), "n kappa"),
      range,
      node("td", found.note, "quiet"),
    );
    return row;
  }

  interval({ kappa, low, high }) { // drawn from 0 to 1: what is below 0 begins there
    const span = node("span", "", "span");
    span.ariaHidden = "true";
    for (const [name, value] of Object.entries({ kappa, low, high })) span.style.setProperty(`--${name}`, Math.max(value, 0));
    span.append(document.createElement("i"), document.createElement("b"));
    return span;
  }

  // --- disagreements ---------------------------------------------------------------------------------------------------
  drawDisputes() {
    this.rows.clear();
    this.$(".disputes").replaceChildren(...this.data.agreed.disputes.map((dispute) => this.drawDispute(dispute)));
  }

  drawDispute({ item, said, settled }) {
    const box = node("li", "", "dispute");
    box.dataset.image = item.id;
    const link = Object.assign(node("a", "", "thumb"), { href: item.img, target: "_blank", rel: "noopener" });
    const photo = Object.assign(new Image(), { loading: "lazy", alt: `${item.label}, image ${item.id}, at full size in a new tab`, src: item.thumb });
    photo.onerror = () => photo.replaceWith(node("span", "cannot be shown: missing or damaged", "broken"));
    link.append(photo);
    const list = node("ul", "", "statements");
    list.append(...said.map((one) => this.statement(one)));
    box.append(link, node("h3", item.label), list, this.tools(item), node("p", "", "said"));
    this.rows.set(item.id, { box, settled, label: item.label });
    return box;
  }

  statement({ side, by, mine, ...said }) {
    const line = node("li", "");
    line.append(node("bdi", mine ? "you" : by), side === "first" ? ", first: " : ", blind: ");
    line.append(node("b", saidOf(said), said.verdict === "reject" ? "rejects" : "keeps"));
    return line;
  }

  tools({ id }) {
    const keys = chosenKeys();
    const box = node("div", "", "settle");
    box.setAttribute("role", "group");
    box.ariaLabel = "Settle";
    const actions = [
      ["accept", keys.accept, "Accept", () => this.settle(id, "accept")],
      ["reject", "r", "Reject …", () => this.askReason(id)],
      ["relabel", keys.relabel, "Relabel …", () => this.askClass(id)],
      ["undo", keys.undo, "Undo", () => this.undo(id)],
    ];
    box.append(...actions.map(([name, key, text, act]) => Object.assign(button(key, text, act), { className: name })));
    return box;
  }

  standing(id) { // how it is settled, with what waits in the outbox
    const { settled } = this.rows.get(id);
    let said = settled && { ...settled, saved: true };
    for (const event of this.outbox().events.filter((event) => event.kind === "decision" && event.image_id === id)) {
      if (event.verdict !== "undo") said = { ...event, mine: true, saved: false };
      else if (event.undoes === said?.id) said = null;
    }
    return said;
  }

  settle(id, verdict, extra = {}) {
    const said = this.standing(id);
    if (said?.mine && saidOf(said) === saidOf({ verdict, ...extra })) return;
    this.takenBack.delete(id);
    this.outbox().put({ kind: "decision", image_id: id, verdict, ...extra });
    this.changed();
    this.say(`Settled: ${saidOf({ verdict, ...extra })}`);
  }

  undo(id) {
    const said = this.standing(id);
    if (!said?.mine) return;
    const { box } = this.rows.get(id);
    const pressed = box.querySelector(".undo").matches(":focus");
    this.takenBack.add(id);
    this.outbox().put({ kind: "decision", image_id: id, verdict: "undo", undoes: said.id });
    this.changed();
    if (pressed && box.querySelector(".undo").hidden) box.querySelector("button").focus(); // Undo is gone
    this.say("Taken back");
  }

  showSettled(id) {
    const said = this.standing(id);
    const { box } = this.rows.get(id);
    const how = said && `${said.saved ? "✓ saved" : "saving …"}: ${saidOf(said)}, by ${said.mine ? "you" : said.by}`;
    box.dataset.settled = String(Boolean(said));
    box.querySelector(".said").textContent = how || (this.takenBack.has(id) ? "✓ taken back" : "");
    box.querySelector(".undo").hidden = !said?.mine;
    for (const verdict of ["accept", "reject", "relabel"]) box.querySelector(`.${verdict}`).setAttribute("aria-pressed", String(said?.verdict === verdict));
  }

  askReason(id) {
    const reject = (name) => this.settle(id, "reject", { reason: this.data.reasons.find((reason) => words(reason) === name) });
    this.chooser.open(this.data.reasons.map(words), reject, "Reject because …");
  }

  askClass(id) {
    const others = this.data.labels.filter((name) => name !== this.rows.get(id).label);
    this.chooser.open(others, (label) => this.settle(id, "relabel", { label }));
  }

  // --- keys: they act on the disagreement that has the focus -----------------------------------------------------------
  key(event, target) { // what a key does, if anything
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return undefined;
    const box = target.closest?.(".dispute");
    if (event.key === "j" || event.key === "k") return () => this.step(box, event.key === "j" ? 1 : -1);
    if (!box) return undefined;
    const id = box.dataset.image;
    if (event.key === "r") return () => this.askReason(id);
    const action = actionOf(event);
    const reason = this.data.reasons[action?.match(/^reject(\d)$/)?.[1] - 1];
    if (reason) return () => this.settle(id, "reject", { reason });
    return { accept: () => this.settle(id, "accept"), undo: () => this.undo(id), relabel: () => this.askClass(id) }[action];
  }

  step(box, by) {
    const all = [...this.root.querySelectorAll(".dispute")];
    all[box ? all.indexOf(box) + by : 0]?.querySelector("button").focus();
  }
}

function amountOf(n, what) { return `${(n ?? 0).toLocaleString("en")}${what ? ` ${what}${n === 1 ? "" : "s"}` : ""}`; }

function decimal(value) { return value === null ? "–" : value.toFixed(2).replace("-", "−"); }
