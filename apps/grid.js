// The grid in the browser: draws a page of images once, then only what was said of them changes. Several are judged in
// one step: those that are selected, or where none is, the one that has the focus.

const RIBBONS = { accept: "accepted", reject: "rejected", relabel: "relabelled", skip: "skipped" };

export default function ({ data, parentElement }) {
  parentElement.grid ??= open(parentElement);
  parentElement.grid.update(data);
  return () => parentElement.isConnected || parentElement.grid?.close();
}

function open(root) {
  const $ = (selector) => root.querySelector(selector);
  const page = $(".grid");
  const selected = new Set(); // image ids, of other pages too
  let data, filters, chooser, outbox, sent, asked = {}, drawn, active, anchor, confirmed;

  function update(fresh) {
    if (!filters) return start(fresh);
    if (!fresh.tiles) return; // Streamlit ran again
    if (data?.store !== fresh.store) outbox = new Outbox(fresh.store, (events) => sent(events));
    if (data?.store !== fresh.store && outbox.size) outbox.send();
    data = fresh;
    for (const why of outbox.answered(data)) say(`Not taken: ${why}`);
    if (renamed(data, outbox)) turn(0);
    filters.show(data);
    const all = asked.all && !data.all.length; // still asked for
    for (const id of data.all) selected.add(id);
    const keys = data.tiles.map((tile) => tile.id);
    const place = JSON.stringify([data.page, keys]);
    if (place !== drawn) draw();
    drawn = place;
    asked = { page: data.page, keys, ...(all ? { all } : {}) };
    show();
  }

  const send = exchanges("grid", update);

  function start(introduced) {
    sent = (events) => send({ reviewer: speaker(data ?? introduced, events), ...filters.wanted, ...asked, events });
    filters = new Bar($(".bar-of-filters"), introduced, () => {
      selected.clear();
      turn(0);
    });
    chooser = new Chooser($(".chooser"));
    introduced.reasons.forEach((reason, i) => {
      $(".reasons").append(button("", words(reason), () => decide("reject", { reason })));
      $(".reasons").lastChild.dataset.action = `reject${i + 1}`;
    });
    const chosen = chosenKeys();
    for (const press of root.querySelectorAll("[data-action]")) press.querySelector("kbd").textContent = chosen[press.dataset.action];
    heat(localRead("gridHeat") ?? "off");
    if (introduced.shared && !introduced.login && !localRead("reviewer")) filters.ask();
    else turn(0);
  }

  function turn(number) { // to another page, or to other images
    asked = { page: number };
    page.dataset.ready = "false";
    if (outbox?.size) outbox.send();
    else sent([]);
  }

  // --- what is drawn once a page -------------------------------------------------------------------------------------
  function draw() {
    const tiles = data.tiles.map(drawTile);
    $(".tiles").replaceChildren(...tiles);
    active = undefined;
    if (tiles.length) activate(data.tiles[0].id, drawn !== undefined);
    const flags = [...new Set(data.tiles.flatMap((tile) => tile.flags))].sort();
    $(".pick-flag").replaceChildren(new Option("choose", ""), ...flags.map((flag) => new Option(`${words(flag)} (${data.tiles.filter((tile) => tile.flags.includes(flag)).length})`, flag)));
    $(".pick-flag").disabled = !flags.length;
    $(".tiles").scrollTop = 0;
  }

  function drawTile(tile) {
    const box = node("div", "", "tile");
    box.id = `tile-${tile.id}`;
    box.dataset.id = tile.id;
    box.setAttribute("role", "option");
    box.tabIndex = -1;
    const photo = Object.assign(new Image(), { className: "photo", src: tile.thumb, alt: "", loading: "lazy" });
    photo.onerror = () => photo.replaceWith(node("span", "cannot be shown", "broken"));
    const picture = node("span", "", "picture");
    picture.append(photo);
    if (tile.heat) picture.append(Object.assign(new Image(), { className: "heat", src: tile.heat, alt: "", loading: "lazy" }));
    const doubt = tile.reject_probability === null ? "" : `${Math.round(100 * tile.reject_probability)} %`;
    const line = node("span", "", "line");
    line.append(node("bdi", tile.label, "name"), Object.assign(node("span", doubt, "doubt"), { title: "that you would reject it, as the screen thinks" }));
    const flags = node("span", tile.flags.map(words).join(", "), "flags");
    box.append(picture, node("span", "", "ribbon"), line, flags);
    box.ariaLabel = [tile.label, tile.title, tile.flags.length ? `flags: ${tile.flags.map(words).join(", ")}` : "no flags", doubt && `${doubt} to be rejected`].filter(Boolean).join(". ");
    box.onclick = (event) => clicked(tile.id, event);
    box.ondblclick = () => enlarge(tile.id);
    return box;
  }

  // --- what changes --------------------------------------------------------------------------------------------------
  function show() {
    const { last } = standingSteps(data.recent, outbox.events);
    for (const tile of data.tiles) showTile(tile);
    showClasses($(".classes"), data, data.label, (label) => filters.want({ label }));
    const number = selected.size.toLocaleString("en");
    $(".selected").textContent = selected.size ? `${number} selected` : "";
    $(".pick-none").hidden = !selected.size;
    $(".pick-all").textContent = `All ${data.left.toLocaleString("en")} that match`;
    $(".pick-all").hidden = data.pages < 2;
    $(".where").textContent = `Page ${data.page + 1} of ${data.pages}`;
    $(".back").disabled = data.page === 0;
    $(".next").disabled = data.page + 1 >= data.pages;
    $(".notice").hidden = data.tiles.length > 0;
    $(".notice").textContent = filters.clear.hidden && !data.label ? "Nothing waits here." : "Nothing matches. Choose another class or filter, or clear them.";
    $(".last").textContent = last ? saidOf(last) : "Nothing decided yet";
    $(".last-thumb").hidden = !last?.item;
    if (last?.item) $(".last-thumb").src = last.item.thumb;
    page.dataset.selected = selected.size;
    page.dataset.page = data.page;
    outbox.mark(page, data.error);
    page.dataset.ready = "true";
  }

  function said(tile) { // what is said of an image, with what waits in the outbox
    let standing = tile.said;
    for (const event of outbox.events) {
      if (event.verdict !== "undo" && event.image_id === tile.id) standing = event;
      else if (event.verdict === "undo" && standing && (event.batch ? event.batch === standing.batch : event.undoes === standing.id)) standing = undefined;
    }
    return standing;
  }

  function showTile(tile) {
    const box = tileOf(tile.id);
    const standing = said(tile);
    const ribbon = standing ? RIBBONS[standing.verdict] : tile.status === "waiting" || tile.said ? "" : WORDS[tile.status];
    box.dataset.said = standing?.verdict ?? "";
    box.querySelector(".ribbon").textContent = standing?.reason ? `${ribbon}: ${words(standing.reason)}` : standing?.verdict === "relabel" ? `is ${standing.label}` : ribbon;
    box.setAttribute("aria-selected", String(selected.has(tile.id)));
    box.tabIndex = tile.id === active ? 0 : -1;
  }

  const tileOf = (id) => root.getElementById?.(`tile-${id}`) ?? [...$(".tiles").children].find((box) => box.dataset.id === id);

  // --- selecting -----------------------------------------------------------------------------------------------------
  function activate(id, focus = true) {
    active = id;
    for (const box of $(".tiles").children) box.tabIndex = box.dataset.id === id ? 0 : -1;
    if (focus) tileOf(id)?.focus({ preventScroll: false });
  }

  function clicked(id, event) {
    if (event.shiftKey) range(anchor ?? active, id);
    else toggle(id);
    activate(id);
  }

  function toggle(id) {
    selected.has(id) ? selected.delete(id) : selected.add(id);
    anchor = id;
    show();
    announce();
  }

  function range(from, to) {
    const ids = data.tiles.map((tile) => tile.id);
    const [first, last] = [ids.indexOf(from), ids.indexOf(to)].sort((a, b) => a - b);
    pick(ids.slice(Math.max(first, 0), last + 1));
  }

  function pick(ids) { // these too
    for (const id of ids) selected.add(id);
    show();
    announce();
  }

  function pickNone() {
    selected.clear();
    show();
    announce();
  }

  function announce() { say(selected.size ? `${selected.size} selected` : "None selected"); }

  function step(by, extend) {
    const ids = data.tiles.map((tile) => tile.id);
    const to = ids[Math.min(Math.max(ids.indexOf(active) + by, 0), ids.length - 1)];
    if (!to) return;
    if (extend) range(anchor ??= active, to);
    else anchor = to;
    activate(to);
  }

  function columns() { // of the grid as it is laid out now
    const boxes = [...$(".tiles").children];
    return boxes.filter((box) => box.offsetTop === boxes[0].offsetTop).length || 1;
  }

  // --- decisions -----------------------------------------------------------------------------------------------------
  function decide(verdict, extra = {}) {
    if (!data || page.dataset.ready !== "true") return;
    const ids = selected.size ? [...selected] : active ? [active] : [];
    if (!ids.length) return say("Select images first");
    if (ids.length === 1) return put(ids, verdict, extra);
    const what = verdict === "reject" ? `Reject ${ids.length} images: ${words(extra.reason)}?` : verdict === "accept" ? `Accept ${ids.length} images?` : `Relabel ${ids.length} images as ${extra.label}?`;
    $(".question").textContent = what;
    confirmed = () => put(ids, verdict, extra);
    $(".confirm").showModal();
    $(".yes").focus();
  }

  function put(ids, verdict, extra) {
    const batch = ids.length > 1 ? { batch: uuid() } : {};
    selected.clear();
    outbox.put(...ids.map((image_id) => ({ image_id, verdict, seen: data.number, ...extra, ...batch })));
    say(`${DONE[verdict]} ${ids.length === 1 ? "one image" : `${ids.length} images`}${extra.reason ? ": " + words(extra.reason) : ""}`);
    if (ids.length === 1 && ids[0] === active) step(1, false);
    if ($(".large").open) enlarge(active);
    show();
  }

  function answer(yes) {
    $(".confirm").close();
    if (yes) confirmed();
    tileOf(active)?.focus();
  }

  function undo() {
    const { last } = standingSteps(data.recent, outbox.events);
    if (!last) return say("Nothing to undo");
    outbox.put(undoOf(last));
    say(`Undone: ${saidOf(last).toLowerCase()}`);
    show();
  }

  function enlarge(id) {
    const tile = data.tiles.find((shown) => shown.id === id);
    if (!tile) return;
    const photo = Object.assign(new Image(), { src: tile.img, alt: `${tile.label}: ${tile.title ?? tile.id}` });
    const pictures = tile.heat ? [photo, Object.assign(new Image(), { src: tile.heat, alt: "", className: "heat" })] : [photo];
    $(".large .frame").replaceChildren(...pictures);
    $(".large figcaption").textContent = `${tile.label}${tile.title ? ": " + tile.title : ""}`;
    if (!$(".large").open) $(".large").showModal();
  }

  function heat(state) {
    page.dataset.heat = localWrite("gridHeat", state);
    $(".toggle").setAttribute("aria-pressed", String(state === "on"));
  }

  // --- keys ----------------------------------------------------------------------------------------------------------
  const actions = {
    accept: () => decide("accept"), undo, select: () => active && toggle(active), grid: () => go(""),
    relabel: () => data.labels.length > 1 && chooser.open(data.labels, (label) => decide("relabel", { label })),
    heat: () => heat(page.dataset.heat === "on" ? "off" : "on"),
  };

  function onKey(event) {
    const target = event.composedPath()[0];
    if ($(".chooser").open) return chooser.key(event);
    if ($(".confirm").open) return inConfirm(event);
    if (typing(target) || !data) return;
    const action = moveOf(event, target) ?? named(event);
    if (!action) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    if (!event.repeat || event.key.startsWith("Arrow")) action();
  }

  function named(event) {
    const name = actionOf(event);
    const reason = name?.startsWith("reject") && data.reasons[name.at(-1) - 1];
    return reason ? () => decide("reject", { reason }) : actions[name];
  }

  function moveOf(event, target) { // in the grid
    const inTiles = target.closest?.(".tiles") || target === document.body || target.localName === "body" || $(".large").open;
    if (event.ctrlKey || event.metaKey) return event.key === "a" && inTiles ? () => pick(data.tiles.map((tile) => tile.id)) : undefined;
    if (event.key === "Escape" && selected.size && !$(".large").open) return pickNone;
    if (event.key === "PageDown" && inTiles) return () => data.page + 1 < data.pages && turn(data.page + 1);
    if (event.key === "PageUp" && inTiles) return () => data.page > 0 && turn(data.page - 1);
    if (event.key === "Enter" && target.closest?.(".tile")) return () => enlarge(active);
    if (event.key === " " && target.closest?.(".tile")) return () => toggle(active);
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns(), ArrowDown: columns() }[event.key];
    if (!by || !inTiles) return undefined;
    return () => {
      step(by, event.shiftKey);
      if ($(".large").open) enlarge(active);
    };
  }

  function inConfirm(event) {
    event.stopImmediatePropagation();
    if (event.repeat || (event.key !== "Enter" && event.key !== "Escape")) return event.repeat && event.preventDefault();
    event.preventDefault();
    answer(event.key === "Enter" && event.composedPath()[0] !== $(".no"));
  }

  function say(text) { $(".live").textContent = text; }

  const onTick = () => {
    if (!data) return sent?.([]);
    if (outbox.size || page.dataset.ready === "false") outbox.send(); // a page that was asked for did not come
    outbox.mark(page, data.error);
  };

  $(".pick-page").onclick = () => pick(data.tiles.map((tile) => tile.id));
  $(".pick-flag").onchange = () => {
    const flag = $(".pick-flag").value;
    $(".pick-flag").value = "";
    if (flag) pick(data.tiles.filter((tile) => tile.flags.includes(flag)).map((tile) => tile.id));
  };
  $(".pick-all").onclick = () => { asked = { ...asked, all: true }; outbox.size ? outbox.send() : sent([]); };
  $(".pick-none").onclick = pickNone;
  $(".toggle").onclick = actions.heat;
  $(".back").onclick = () => turn(data.page - 1);
  $(".next").onclick = () => turn(data.page + 1);
  $(".accept").onclick = actions.accept;
  $(".relabel").onclick = () => actions.relabel();
  $(".select").onclick = actions.select;
  $(".to-single").onclick = actions.grid;
  $(".undo").onclick = undo;
  $(".yes").onclick = () => answer(true);
  $(".no").onclick = () => answer(false);
  $(".close").onclick = () => $(".large").close();
  $(".large").onclose = () => tileOf(active)?.focus();
  return { update, close: living(root, "grid", onKey, onTick) };
}
