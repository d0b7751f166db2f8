// The review page in the browser: shows the queue that the server sends, takes keys and clicks, and prefetches pictures.

const ZOOM = 3; // times
const STEP = 12; // percent of the image that an arrow key moves it
const PAUSE_MS = 400; // without a decision, before the small pictures beside the image are loaded: nobody looks at them sooner

export default function ({ data, parentElement }) {
  parentElement.review ??= open(parentElement);
  parentElement.review.update(data);
  return () => parentElement.isConnected || parentElement.review?.close();
}

function open(root) {
  const $ = (selector) => root.querySelector(selector);
  const page = $(".review");
  const items = new Map(); // image id -> what the server said of it
  const pictures = new Pictures(page, picture);
  let data, filters, chooser, outbox, sent, hold, shown, pause;

  function update(fresh) {
    if (!filters) return start(fresh);
    if (!fresh.window) return; // Streamlit ran again
    if (data?.store !== fresh.store) another(fresh.store);
    data = fresh;
    for (const item of [...data.recent.map((r) => r.item), ...data.window]) items.set(item.id, item);
    for (const why of outbox.answered(data)) say(`Not taken: ${why}`);
    if (renamed(data, outbox)) sent([]);
    filters.show(data);
    show();
  }

  const send = exchanges("review", update);

  function start(introduced) {
    sent = (events) => send({ reviewer: speaker(data ?? introduced, events), ...filters.wanted, events });
    filters = new Bar($(".bar-of-filters"), introduced, ask);
    chooser = new Chooser($(".chooser"));
    introduced.reasons.forEach((reason, i) => {
      $(".reasons").append(button("", words(reason), () => decide("reject", { reason })));
      $(".reasons").lastChild.dataset.action = `reject${i + 1}`;
    });
    heat(localRead("heat") ?? "on", localRead("opacity") ?? "60");
    showKeys();
    $(".guide").hidden = localRead("guide") === "read";
    if (introduced.shared && !introduced.login && !localRead("reviewer")) filters.ask();
    else ask();
  }

  function showKeys() { // on the buttons, as chosen
    const chosen = chosenKeys();
    for (const press of root.querySelectorAll("[data-action]")) press.querySelector("kbd").textContent = chosen[press.dataset.action];
  }

  function ask() { // for other images, or as another reviewer
    hold = undefined;
    if (outbox?.size) outbox.send();
    else sent([]);
  }

  function another(store) { // reviewer: each has an outbox of their own
    outbox = new Outbox(store, (events) => sent(events));
    if (outbox.size) outbox.send();
  }

  // --- decisions ---------------------------------------------------------------------------------------------------
  function put(event) {
    outbox.put({ seen: data.number, ...event });
    read();
    show();
  }

  function decide(verdict, extra = {}) {
    if (!pictures.decidable(verdict)) return;
    const item = items.get(shown);
    hold = undefined;
    put({ image_id: shown, verdict, ...extra });
    say(`${DONE[verdict]} ${item.label}${extra.reason ? ": " + words(extra.reason) : ""}${extra.label ? " as " + extra.label : ""}`);
    zoom(1);
  }

  function undo() {
    const { last } = standingSteps(data.recent, outbox.events);
    if (!last) return say("Nothing to undo");
    hold = last.image_id;
    put(undoOf(last));
    say(`Undone: ${saidOf(last).toLowerCase()}, ${items.get(last.image_id)?.label ?? ""}`);
  }

  // --- what is shown -----------------------------------------------------------------------------------------------
  function show() {
    const { decided, last } = standingSteps(data.recent, outbox.events);
    const next = data.window.filter((item) => !decided.has(item.id));
    const item = hold && !decided.has(hold) && items.has(hold) ? items.get(hold) : next[0];
    if (item?.id !== shown) picture(item);
    else if (!item) finished();
    hold = item?.id;
    pictures.prefetch(next, heatOf);
    showClasses($(".classes"), data, data.label, (label) => filters.want({ label }));
    const here = data.window.filter((item) => decided.has(item.id)).length;
    $(".place").textContent = `${Math.max(data.left - here, 0).toLocaleString("en")} ${WORDS[data.status]}${data.label ? " in " + data.label : ""}`;
    $(".last").textContent = last ? saidOf(last) : "Nothing decided yet";
    later($(".last-thumb"), last && items.get(last.image_id)?.thumb);
    outbox.mark(page, data.error);
  }

  function later(picture, src) { // is loaded in the next pause; none: it is not there
    if (picture.dataset.src === (src ?? "")) return;
    picture.dataset.src = src ?? "";
    picture.hidden = !src;
    picture.onerror = () => { // the server is away: asked for again with the next answer
      picture.removeAttribute("src");
      delete picture.dataset.src;
    };
    picture.removeAttribute("src");
    clearTimeout(pause);
    pause = setTimeout(() => {
      for (const waits of page.querySelectorAll("img[data-src]:not([src], [hidden])")) waits.src = waits.dataset.src;
    }, PAUSE_MS);
  }

  function picture(item) {
    shown = item?.id;
    $(".lens").hidden = !item;
    $(".facts").hidden = !item;
    $(".label").textContent = item?.label ?? "";
    if (item) facts(item);
    pictures.show(item, item && `${item.label}: ${item.provenance.title ?? "image " + item.id}`);
    if (item) layHeat(item);
    else finished();
  }

  function finished() {
    $(".notice").textContent = outbox.size ? "Saving …" : nothing();
  }

  function nothing() {
    if (data.elsewhere) return `Nothing waits for you.\nOthers are looking at the last ${data.elsewhere.toLocaleString("en")} images.`;
    if (filters.clear.hidden && !data.label) return "Nothing waits here.\nEvery image is decided.";
    return `Nothing waits here.\nChoose another ${filters.clear.hidden ? "class, or all" : "filter, or clear them"}.`;
  }

  function facts(item) {
    const flags = item.flags.map((f) => row("flag", node("span", words(f.measure)), node("b", number(f.value)), node("small", f.threshold && `limit ${number(f.threshold)}`), node("small", f.meaning, "meaning")));
    $(".flags").replaceChildren(node("h2", flags.length ? "Flags" : "No flags"), ...flags);
    const model = [
      item.predicted && row("row", node("span", "predicted"), node("em", ""), node("em", item.predicted)),
      meter(`is ${item.label}`, item.label_probability, "var(--good)"),
      meter("is a reject", item.reject_probability, "var(--bad)"),
      meter("suspicion", item.suspicion, "var(--warn)"),
      node("p", opinion(item.reject_probability), "quiet"),
    ].filter(Boolean);
    $(".model").replaceChildren(...(model.length ? [node("h2", "Model"), ...model] : []));
    const alike = (item.alike ?? []).map(alikeOf);
    const speaks = (item.measures ?? []).map((m) => row("flag", node("span", words(m.measure)), node("em", m.speaks > 0 ? "for a rejection" : "against it"), node("small", Math.abs(m.speaks).toFixed(1))));
    $(".why").replaceChildren(...(alike.length ? [node("h2", "Most like what was decided"), row("alike", ...alike), ...speaks] : []));
    const list = document.createElement("dl");
    for (const [name, value] of Object.entries(item.provenance)) {
      if (value) list.append(node("dt", words(name)), Object.assign(node("dd", value), { title: value }));
    }
    $(".origin").replaceChildren(...(list.children.length ? [node("h2", "Source"), list] : []));
    $(".facts").scrollTop = 0;
  }

  function alikeOf({ thumb, rejected }) {
    const said = rejected ? "rejected" : "accepted";
    const picture = Object.assign(new Image(), { className: said, alt: said });
    later(picture, thumb);
    return picture;
  }

  // --- heatmap and zoom --------------------------------------------------------------------------------------------
  function heat(state, opacity) {
    page.dataset.heat = localWrite("heat", state);
    $(".toggle").setAttribute("aria-pressed", String(state === "on"));
    page.style.setProperty("--heat", localWrite("opacity", opacity) / 100);
    $(".opacity").value = opacity;
  }

  function heatOf(item) { // the address of the heatmap that is wanted; of an image that is predicted as labelled there is one
    return localRead("heatOf") === "predicted" ? item.heat_predicted ?? item.heat : item.heat;
  }

  function layHeat(item) {
    $(".frame .heat")?.remove();
    const src = heatOf(item);
    for (const part of [".toggle", ".opacity", ".of"]) $(part).hidden = !src;
    if (!src) return;
    const other = src === item.heat_predicted;
    $(".of").lastChild.textContent = other ? `for ${item.predicted}, predicted` : `for ${item.label}${item.heat_predicted ? ", the label" : ""}`;
    $(".of").disabled = !item.heat_predicted;
    page.dataset.heatOf = other ? "predicted" : "label";
    $(".frame").append(Object.assign(new Image(), { src, alt: "", className: "heat" }));
  }

  function otherHeat() {
    if (!shown || !items.get(shown).heat_predicted) return say("There is one heatmap: the class predicted is the label");
    localWrite("heatOf", localRead("heatOf") === "predicted" ? "label" : "predicted");
    layHeat(items.get(shown));
    say(`Heatmap ${$(".of").lastChild.textContent}`);
  }

  function fade(by) { heat("on", String(Math.min(100, Math.max(0, Number($(".opacity").value) + by)))); }

  function zoom(times, x = 50, y = 50) { // at a place, in percent of the image
    page.dataset.zoom = times;
    place(x, y);
    $(".zoom").setAttribute("aria-pressed", String(times > 1));
  }

  const zoomed = () => Number(page.dataset.zoom) > 1;
  let at = [50, 50];

  function place(x, y) {
    at = [x, y].map((part) => Math.min(100, Math.max(0, part)));
    $(".frame").style.transformOrigin = `${at[0]}% ${at[1]}%`;
    $(".frame").style.transform = zoomed() ? `scale(${ZOOM})` : "";
  }

  function under(event) { // where the pointer is, in percent of the stage
    const box = $(".stage").getBoundingClientRect();
    return [100 * (event.clientX - box.x) / box.width, 100 * (event.clientY - box.y) / box.height];
  }

  // --- keys --------------------------------------------------------------------------------------------------------
  const actions = {
    accept: () => decide("accept"), skip: () => decide("skip"), undo, zoom: () => zoom(zoomed() ? 1 : ZOOM), heatOf: otherHeat,
    relabel: () => page.dataset.ready === "true" && chooser.open(data.labels.filter((name) => name !== items.get(shown).label), (label) => decide("relabel", { label })),
    heat: () => heat(page.dataset.heat === "on" ? "off" : "on", $(".opacity").value),
    fainter: () => fade(-20), stronger: () => fade(20), grid: () => go("grid"),
  };
  const moves = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };

  function onKey(event) {
    const target = event.composedPath()[0];
    const held = event.repeat && (event.key === "Enter" || event.key === " ") && root.contains(target);
    if (held && target.localName === "button") return event.preventDefault(); // a held Enter clicks once
    if ($(".chooser").open) return chooser.key(event);
    if (typing(target) || !data) return;
    const move = zoomed() && moves[event.key];
    const name = actionOf(event);
    const reason = name?.startsWith("reject") && data.reasons[name.at(-1) - 1];
    const action = move ? () => place(at[0] + move[0], at[1] + move[1]) : reason ? () => decide("reject", { reason }) : actions[name];
    if (!action) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    if (!event.repeat || move) action();
  }

  // --- small things ------------------------------------------------------------------------------------------------
  function say(text) { $(".live").textContent = text; }

  function read() { // the guide has been read by whoever decides
    $(".guide").hidden = true;
    localWrite("guide", "read");
  }

  const onTick = () => {
    if (!data) return sent?.([]);
    if (outbox.size) outbox.send();
    outbox.mark(page, data.error);
  };

  $(".accept").onclick = () => decide("accept");
  $(".skip").onclick = () => decide("skip");
  $(".relabel").onclick = actions.relabel;
  $(".undo").onclick = undo;
  $(".toggle").onclick = actions.heat;
  $(".of").onclick = otherHeat;
  $(".zoom").onclick = actions.zoom;
  $(".to-grid").onclick = actions.grid;
  $(".understood").onclick = read;
  $(".stage").onclick = (event) => event.target.closest("button, input, .notice, .guide") || zoom(zoomed() ? 1 : ZOOM, ...under(event));
  $(".stage").onpointermove = (event) => zoomed() && event.pointerType === "mouse" && place(...under(event));
  $(".opacity").oninput = () => heat("on", $(".opacity").value);
  return { update, close: living(root, "review", onKey, onTick) };
}

function row(className, ...children) {
  const line = node("div", "", className);
  line.append(...children);
  return line;
}

function meter(name, value, colour) {
  return value === null ? undefined : row("row", node("span", name), bar(value, colour), node("em", `${Math.round(value * 100)} %`));
}

function opinion(probability) { // of the screen, in words
  if (probability === null || probability === undefined) return "The screen knows nothing yet of what you reject.";
  const sure = Math.abs(probability - 0.5) > 0.4 ? "is sure" : Math.abs(probability - 0.5) > 0.2 ? "thinks" : "is not sure";
  if (sure === "is not sure") return "The screen is not sure about it.";
  return `The screen ${sure} that you would ${probability > 0.5 ? "reject" : "accept"} it.`;
}

function number(text) { return /^-?\d*\.\d{3,}$/.test(text) ? Number(text).toFixed(2) : text; }
