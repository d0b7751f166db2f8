// The page of second opinions in the browser: which images to judge again, judging them blind, and where two disagree.
// Opinions and the decisions that settle a disagreement wait in one outbox; `kind` says which they are.

const PARTS = { choose: "Choose", judge: "Judge blind", agreement: "Agreement" };
const SHARES = [["0.1", "10 %"], ["0.25", "25 %"], ["1", "All"]];

export default function ({ data, parentElement }) {
  parentElement.second ??= open(parentElement);
  parentElement.second.update(data);
  return () => parentElement.isConnected || parentElement.second?.close();
}

function open(root) {
  const $ = (selector) => root.querySelector(selector);
  const page = $(".second");
  const items = new Map(); // image id -> what the server says of it
  const pictures = new Pictures(page, picture);
  const chooser = new Chooser($(".chooser"));
  const agreed = new Agreed(root, { outbox: () => outbox, ask, chooser, changed: show, say });
  let data, outbox, asked, hold, shown;

  const send = exchanges("second-opinion", update);
  const sent = (events) => send({ reviewer: speaker(data, events), ...asked, events });

  function update(fresh) {
    if (fresh.store || !data?.store) data = fresh; // when Streamlit runs again it says no more than who may sit here
    if (!asked) begin();
    if (!fresh.store) return nameless() ? unnamed() : outbox ? outbox.send() : sent([]); // who sits here, what is wanted
    if (outbox?.prefix !== `deeprock/${data.store}/`) outbox = openOutbox();
    for (const why of outbox.answered(data)) say(`Not taken: ${why}`);
    for (const item of [...data.window, ...data.recent.map((said) => said.item)]) items.set(item.id, item);
    show();
  }

  function begin() { // drawn once at the start, so that what was judged meanwhile is known
    asked = { share: 0.1, ...kept(), drawn: Date.now(), opened: Date.now() };
    $(".parts").append(...Object.keys(PARTS).map((part) => button("", PARTS[part], () => turnTo(part))));
    $(".amounts").append(...SHARES.map(([share, text]) => amount(share, text)), amount("number", "this many: "));
    const number = Object.assign(document.createElement("input"), { type: "number", min: 1, step: 1, value: asked.number ?? 100, className: "number", ariaLabel: "Number of images" });
    $(".amounts").lastChild.append(number);
    $(".seed").value = asked.seed;
    $(".own input").checked = asked.own;
    number.onchange = () => { $('.amounts [value="number"]').checked = true; choose(); };
    $(".own input").onchange = $(".seed").onchange = choose;
    const keys = chosenKeys();
    data.reasons.forEach((reason, i) => $(".reasons").append(button(keys[`reject${i + 1}`], words(reason), () => judge("reject", { reason }))));
    for (const action of ["accept", "relabel", "skip", "undo"]) $(`.judge .${action} kbd`).textContent = keys[action];
  }

  function kept() { // what was chosen here before
    const { share, number, seed, own, part } = readJson("second-opinion");
    const much = Number.isSafeInteger(number) && number > 0 ? { number } : SHARES.some(([value]) => Number(value) === share) ? { share } : {};
    return { ...much, seed: Number.isSafeInteger(seed) ? seed : 0, own: own === true, part: PARTS[part] ? part : "choose" };
  }

  function openOutbox() {
    const opened = new Outbox(data.store, (events) => sent(events));
    if (opened.size) opened.send();
    return opened;
  }

  const nameless = () => data.shared && !data.login && !reviewerHere(data);

  function unnamed() {
    $(".sizes").textContent = "Several persons review here. Say who you are first.";
    Object.assign($(".begin"), { textContent: "Give a name", onclick: () => go("review"), hidden: false, disabled: false });
  }

  // --- what is asked for -----------------------------------------------------------------------------------------------
  function ask(change) {
    if (!outbox) return; // who sits here is not known yet
    asked = { ...asked, ...change };
    localWrite("second-opinion", JSON.stringify(asked));
    outbox.send();
    show();
  }

  function turnTo(part) {
    if (part === asked.part) return;
    hold = undefined;
    ask({ part, listed: undefined, ...(part === "agreement" && { opened: Date.now() }) });
    root.querySelectorAll(".parts button")[Object.keys(PARTS).indexOf(part)].focus({ preventScroll: true });
    say(PARTS[part]);
  }

  function amount(value, text) {
    const label = node("label", "");
    const radio = Object.assign(document.createElement("input"), { type: "radio", name: "amount", value, onchange: choose });
    radio.checked = value === "number" ? Boolean(asked.number) : !asked.number && Number(value) === asked.share;
    label.append(radio, text);
    return label;
  }

  function choose() {
    const value = $(".amounts :checked")?.value ?? "0.1";
    const number = Math.max(1, Math.round(Number($(".number").value)) || 1);
    const wanted = value === "number" ? { number, share: undefined } : { number: undefined, share: Number(value) };
    $(".number").value = number;
    const seed = Math.round(Number($(".seed").value));
    $(".seed").value = Number.isSafeInteger(seed) ? seed : 0;
    ask({ ...wanted, seed: Number($(".seed").value), own: $(".own input").checked });
  }

  function answered() { // whether the server has answered what is asked for now
    const { share, number, seed, own } = data.choice;
    const same = (number ?? 0) === (asked.number ?? 0) && (share ?? 0) === (asked.number ? 0 : asked.share) && seed === asked.seed && own === asked.own;
    return same && data.drawn === asked.drawn && data.part === asked.part && (asked.part !== "agreement" || data.agreed?.opened === asked.opened);
  }

  // --- judging blind ---------------------------------------------------------------------------------------------------
  function standing() { // what is judged in the outbox, and what an undo would take back
    return standingSteps(data.recent, outbox.events.filter((event) => event.kind === "opinion"));
  }

  function judge(verdict, extra = {}) {
    if (asked.part !== "judge" || !pictures.decidable(verdict)) return;
    const { label } = items.get(shown);
    hold = undefined;
    outbox.put({ kind: "opinion", image_id: shown, verdict, ...extra });
    show();
    say(`${label}: ${saidOf({ verdict, ...extra })}`);
  }

  function undo() {
    const { last } = standing();
    if (!last) return say("Nothing to undo");
    hold = last.image_id;
    outbox.put({ kind: "opinion", ...undoOf(last) });
    show();
    say(`Undone: ${items.get(last.image_id)?.label ?? ""}: ${saidOf(last)}`);
  }

  // --- what is shown ---------------------------------------------------------------------------------------------------
  function show() {
    const current = answered();
    page.dataset.part = asked.part;
    for (const part of Object.keys(PARTS)) $(`section.${part}`).hidden = part !== asked.part;
    [...$(".parts").children].forEach((tab, n) => {
      const part = Object.keys(PARTS)[n];
      const left = part === "judge" && data.counts ? ` ${leftOver().toLocaleString("en")}` : "";
      tab.lastChild.textContent = PARTS[part] + left;
      tab.setAttribute("aria-pressed", String(part === asked.part));
    });
    if (asked.part !== "judge") blank();
    if (asked.part !== "agreement") agreed.forget();
    if (asked.part !== "judge") page.dataset.ready = String(current);
    ({ choose: showSizes, judge: showNext, agreement: (known) => agreed.show(data, known) })[asked.part](current);
    outbox.mark(page, data.error);
  }

  function leftOver() { // of the sample, with what waits in the outbox
    const { decided } = standing();
    return Math.max(data.counts.left - data.window.filter((item) => decided.has(item.id)).length, 0);
  }

  function showSizes(current) {
    const { judged, others, sample, mine, done } = data.counts ?? {};
    const left = data.counts ? leftOver() : 0;
    Object.assign($(".begin"), { hidden: !current || !left, onclick: () => turnTo("judge") });
    if (!current) return void ($(".sizes").textContent = "Drawing the sample …");
    const by = `${amountOf(judged, "image")} of ${data.manifest} ${judged === 1 ? "is" : "are"} judged, ${amountOf(others)} by others.`;
    const part = `The sample holds ${amountOf(sample)}, ${amountOf(mine)} of them for you: ${amountOf(done)} judged, ${amountOf(left)} left.`;
    const none = "Nothing is judged yet: there is nothing to look at again.";
    const alone = !mine ? " Nobody else has judged these. Choose yours too, or ask a second person to open this page." : "";
    $(".sizes").textContent = judged ? `${by} ${part}${alone}` : none;
    $(".begin").replaceChildren(`Judge ${amountOf(left, "image")}`);
  }

  function showNext(current) {
    const { decided, last } = standing();
    const next = current ? data.window.filter((item) => !decided.has(item.id)) : [];
    const item = hold && !decided.has(hold) && items.has(hold) ? items.get(hold) : next[0];
    if (item?.id !== shown || !item) picture(item);
    hold = item?.id;
    pictures.prefetch(next);
    $(".place").textContent = current ? `${amountOf(leftOver())} left of ${amountOf(data.counts.mine)}` : "";
    $(".last").textContent = last ? `${items.get(last.image_id)?.label ?? ""}: ${saidOf(last)}` : "Nothing judged yet";
    if (item) return;
    const done = data.counts?.mine ? "You have judged all of this sample." : "This sample holds no image for you.";
    $(".notice").textContent = !current ? "Drawing the sample …" : outbox.size ? "Saving …" : `${done}\nThe part Agreement says how far you agree.`;
    page.dataset.ready = String(current && !outbox.size);
  }

  function blank() { // nothing of the part that judges stays behind
    hold = undefined;
    picture(undefined);
  }

  function picture(item) {
    shown = item?.id;
    $(".panel .label").textContent = item?.label ?? "";
    pictures.show(item, item && `An image of the class ${item.label}`);
  }

  function relabel() {
    if (page.dataset.ready !== "true" || !shown) return;
    const others = data.labels.filter((name) => name !== items.get(shown).label);
    chooser.open(others, (label) => judge("relabel", { label }));
  }

  // --- keys ------------------------------------------------------------------------------------------------------------
  function onKey(event) {
    const target = event.composedPath()[0];
    const repeated = event.repeat && (event.key === "Enter" || event.key === " ") && root.contains(target);
    if (repeated && target.localName === "button") return event.preventDefault(); // a held Enter clicks once
    if ($(".chooser").open) return chooser.key(event);
    if (!data.store || typing(target)) return;
    const act = asked.part === "judge" ? judgeKey(event) : asked.part === "agreement" ? agreed.key(event, target) : undefined;
    if (!act) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    if (!event.repeat || "jk".includes(event.key)) act();
  }

  function judgeKey(event) {
    const action = actionOf(event);
    const reason = data.reasons[action?.match(/^reject(\d)$/)?.[1] - 1];
    if (reason) return () => judge("reject", { reason });
    return { accept: () => judge("accept"), skip: () => judge("skip"), undo, relabel }[action];
  }

  // --- small things ----------------------------------------------------------------------------------------------------
  function say(text) { $(".said-aloud").textContent = text; }

  const onTick = () => {
    if (!outbox) return data && !nameless() ? sent([]) : undefined;
    if (outbox.size || !answered()) outbox.send();
    outbox.mark(page, data.error);
  };

  $(".judge .accept").onclick = () => judge("accept");
  $(".judge .skip").onclick = () => judge("skip");
  $(".judge .undo").onclick = undo;
  $(".judge .relabel").onclick = relabel;
  $(".again").onclick = () => ask({ drawn: Date.now() });
  return { update, close: living(root, "second", onKey, onTick) };
}
