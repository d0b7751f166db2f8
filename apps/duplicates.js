// The page of copies in the browser: draws the groups that the server sends, once; after that only what was said of their
// pairs changes, so that focus and place stay. Takes clicks and keys, and compares two images at full size.

const KINDS = { all: "All", conflict: "Label conflicts", open: "Not judged", judged: "Judged" };
const VERDICTS = { same: "Same", different: "Not the same" };
const SAID = { same: "same photograph", different: "not the same", accept: "accepted", reject: "rejected", relabel: "relabelled" };
const MARKS = { kept: "Kept", copy: "Copy", stays: "Stays", rejected: "Rejected", elsewhere: "Not in this manifest" };
const PLACE = "deeprock/place/duplicates";
const OPEN_PAIRS = 3; // of a group, that are not folded away; of larger groups as many as there are images beside the first

export default function ({ data, parentElement }) {
  parentElement.duplicates ??= open(parentElement);
  parentElement.duplicates.update(data);
  return () => parentElement.isConnected || parentElement.duplicates?.close();
}

function open(root) {
  const $ = (selector) => root.querySelector(selector);
  const page = $(".duplicates");
  const rows = new Map(); // what can be judged (a pair or an image, by name) -> what shows it, in one or two places
  const takenBack = new Set(); // names of what was judged and undone here
  let data, outbox, sent, asked = {}, drawn, compared, opener;

  function update(fresh) {
    if (!sent) return begin(fresh);
    if (!fresh.groups) return; // Streamlit ran again
    const first = !data;
    data = fresh;
    if (first) start();
    for (const why of outbox.answered(data)) say(`Not taken: ${why}`);
    const keys = data.groups.map((group) => group.key);
    const place = JSON.stringify([data.kind, data.page, keys]);
    if (place !== drawn) draw();
    else refresh();
    drawn = place;
    asked = { kind: data.kind, page: data.page, keys };
    sessionStorage.setItem(PLACE, JSON.stringify({ kind: data.kind, page: data.page }));
    show();
  }

  const send = exchanges("duplicates", update);

  function begin(introduced) {
    sent = (events) => send({ reviewer: speaker(data ?? introduced, events), ...asked, events });
    asked = JSON.parse(sessionStorage.getItem(PLACE) ?? "{}"); // of this tab, when one comes back to the page
    sent([]);
  }

  function start() {
    $(".kinds").append(...Object.keys(KINDS).map((kind) => button("", KINDS[kind], () => go(kind, 0))));
    outbox = new Outbox(data.store, (events) => sent(events));
    if (outbox.size) outbox.send();
  }

  function go(kind, number) { // another page: which groups it holds is for the server to say
    asked = { kind, page: number };
    page.dataset.ready = "false";
    outbox.send();
  }

  // --- what is drawn once a page -------------------------------------------------------------------------------------
  function draw() {
    const moved = drawn !== undefined;
    rows.clear();
    $(".groups").replaceChildren(...data.groups.map(drawGroup));
    $(".manifest").textContent = data.manifest;
    $(".problem").textContent = data.problem;
    $(".problem").hidden = !data.problem;
    $(".notice").textContent = data.groups.length ? "" : nothing();
    $(".notice").hidden = data.groups.length > 0;
    if (!moved) return;
    $(".groups").focus({ preventScroll: true });
    page.scrollIntoView({ block: "start" });
    say(`${KINDS[data.kind]}, page ${data.page + 1} of ${Math.max(data.pages, 1)}`);
  }

  function nothing() {
    if (data.counts.all) return data.kind === "open" ? "Every group has a judgement." : "There are no such groups.";
    return data.compared
      ? `No copies were found in ${data.manifest}. After new images came in, "curate dedup" looks again.`
      : `No copies are known in ${data.manifest}. "curate dedup" finds them; then start "curate review" again.`;
  }

  function drawGroup(group) {
    const images = new Map([...group.images, ...group.beside].map((image) => [image.image_id, image]));
    const box = node("li", "", `group ${group.kind}${group.images.length > 2 ? "" : " two"}`);
    const conflict = group.kind === "conflict";
    const title = node("h2", conflict ? "Which class is it: " : "");
    group.labels.forEach((label, n) => title.append(n ? (conflict ? " or " : ", ") : "", node("bdi", label)));
    if (conflict) title.append("?");
    const part = group.parts > 1 ? `, part ${group.part} of ${group.parts}` : "";
    title.append(node("small", `${group.size} images${part}`));
    const cards = node("ul", "", "images");
    cards.append(...group.images.map((image) => drawImage(image, group)));
    const small = group.images.length > 2; // which two a line is about is then shown in it
    const lines = group.pairs.map((pair) => drawPair(pair, images, small));
    const list = node("ul", "", "pairs");
    const open = Math.max(OPEN_PAIRS, group.images.length - 1);
    list.append(...lines.slice(0, open));
    box.append(title, cards, list);
    if (conflict) title.after(node("p", "One photograph under two classes: say which image belongs, or that they are not the same photograph.", "task"));
    if (lines.length > open) box.append(folded(lines.slice(open)));
    return box;
  }

  function folded(lines) {
    const more = node("details", "");
    const list = node("ul", "", "pairs");
    list.append(...lines);
    more.append(node("summary", `${lines.length} more pairs of this group`), list);
    return more;
  }

  function drawImage(image, group) {
    const card = node("li", "", `image ${image.mark}`);
    const mark = `${MARKS[image.mark]}${image.status === "accepted" ? ", accepted" : ""}`;
    card.append(picture(image, "thumb"), line(node("span", `${image.place}`, "place"), node("b", mark)));
    card.append(node("p", image.label, "label"));
    if (image.why) card.append(node("p", image.why));
    const size = image.width && image.height ? `${image.width} × ${image.height} px` : "";
    const bytes = image.bytes === null ? "" : `${image.bytes.toLocaleString("en")} bytes`;
    card.append(node("p", [size, bytes].filter(Boolean).join(", "), "quiet"), node("p", image.file_name, "quiet"), node("code", image.image_id));
    if (group.kind === "conflict" && ["kept", "stays"].includes(image.mark)) card.append(judge(imageTarget(image), [["accept", `Accept as ${image.label}`]]));
    if (group.kind !== "conflict" && image.mark === "copy") card.append(judge(imageTarget(image), [["accept", "Keep this one"]]));
    return card;
  }

  function drawPair(pair, images, small) {
    const two = [pair.first, pair.second].sort((a, b) => images.get(a).place - images.get(b).place).map((id) => images.get(id));
    const row = node("li", "", "pair");
    row.dataset.pair = nameOf(pair);
    const body = node("div", "", "body");
    body.append(line(node("b", `${two[0].place} and ${two[1].place}`), ...facts(pair, images).map((fact) => node("span", fact))), node("p", pair.check, "quiet"));
    const compare = button("c", "Compare", () => openCompare(pair, two));
    const buttons = judge(pairTarget(pair), Object.entries(VERDICTS));
    buttons.prepend(compare);
    body.append(pair.here ? buttons : node("p", "One of the two is not in this manifest, and cannot be judged here."));
    if (small) row.append(picture(two[0], "mini"), picture(two[1], "mini"));
    row.append(body);
    row.compare = compare;
    return row;
  }

  function facts(pair, images) {
    const finer = pair.finer && Math.max(pair.finer, 1 / pair.finer);
    const better = images.get(pair.finer > 1 ? pair.first : pair.second).place;
    return [
      pair.distance === null ? "" : `${pair.distance} bits apart`,
      pair.flipped && !pair.check.includes("mirrored") ? "mirrored" : "",
      finer > 1.05 ? `${better} is ${finer.toFixed(1)} times finer` : "",
    ].filter(Boolean);
  }

  function picture(image, className) {
    if (image.mark === "elsewhere") return node("p", "", `${className} none`);
    const link = Object.assign(node("a", "", className), { href: address("img", image), target: "_blank", rel: "noopener" });
    if (className === "mini") [link.tabIndex, link.ariaHidden] = [-1, "true"]; // the card of the image has the same link
    link.append(photo(address("thumb", image), image));
    return link;
  }

  function photo(src, image) {
    const shown = Object.assign(new Image(), { loading: "lazy", alt: `${image.label}, image ${image.place}: ${image.file_name}`, src });
    shown.onerror = () => shown.replaceWith(node("span", "cannot be shown: missing or damaged", "broken"));
    return shown;
  }

  function address(kind, image) { return `/${kind}/${encodeURIComponent(image.image_id)}`; }

  // --- judging -------------------------------------------------------------------------------------------------------
  function nameOf(pair) { return JSON.stringify([pair.first, pair.second]); }

  function pairTarget(pair) {
    return { name: nameOf(pair), said: pair.said, event: { image_id: pair.first, other: pair.second } };
  }

  function imageTarget(image) {
    return { name: JSON.stringify([image.image_id]), said: image.said, event: { image_id: image.image_id } };
  }

  function judge(target, verdicts) { // buttons, what was said, and undo
    const box = node("div", "", "judge");
    box.setAttribute("role", "group");
    for (const [verdict, text] of verdicts) {
      const press = button({ same: "s", different: "d" }[verdict] ?? "", text, () => decide(target.name, verdict));
      press.value = verdict;
      press.className = verdict;
      box.append(press);
    }
    const undo = button("u", "Undo", () => undoOf(target.name));
    undo.className = "undo";
    box.append(node("span", "", "said"), undo);
    if (!rows.has(target.name)) rows.set(target.name, { ...target, boxes: [] });
    rows.get(target.name).boxes.push(box);
    return box;
  }

  function standing(name) { // what is said of it, with what waits in the outbox; saved: whether the ledger has it
    const target = rows.get(name);
    let said = target.said && { ...target.said, saved: true };
    for (const event of outbox.events) {
      if (event.undoes && event.undoes === said?.id) said = null;
      else if (!event.undoes && event.image_id === target.event.image_id && event.other === target.event.other) {
        said = { id: event.id, image_id: event.image_id, verdict: event.verdict, mine: true, saved: false };
      }
    }
    return said;
  }

  function decide(name, verdict) {
    const said = standing(name);
    if (said?.mine && said.verdict === verdict) return;
    takenBack.delete(name);
    outbox.put({ verdict, ...rows.get(name).event });
    say(`${SAID[verdict]}, saving`);
    show();
  }

  function undoOf(name) {
    const said = standing(name);
    if (!said?.mine) return;
    takenBack.add(name);
    const pressed = root.activeElement ?? document.activeElement;
    outbox.put({ image_id: said.image_id, verdict: "undo", undoes: said.id });
    show();
    if (pressed?.hidden) [...pressed.parentElement.children].find((press) => press.value === said.verdict)?.focus(); // Undo is gone
    say("taken back");
  }

  function refresh() { // the same groups: what was said of them may be new
    for (const group of data.groups) {
      const targets = [...group.pairs.map(pairTarget), ...group.images.map(imageTarget)];
      for (const { name, said } of targets) if (rows.has(name)) rows.get(name).said = said;
    }
  }

  // --- what changes --------------------------------------------------------------------------------------------------
  function show() {
    for (const name of rows.keys()) showSaid(name);
    [...$(".kinds").children].forEach((tab, n) => {
      const kind = Object.keys(KINDS)[n];
      tab.lastChild.textContent = `${KINDS[kind]} ${data.counts[kind].toLocaleString("en")}`;
      tab.setAttribute("aria-pressed", String(kind === data.kind));
    });
    $(".where").textContent = `Page ${data.page + 1} of ${Math.max(data.pages, 1)}`;
    $(".pager").hidden = data.pages < 2;
    $(".back").disabled = data.page === 0;
    $(".next").disabled = data.page + 1 >= data.pages;
    outbox.mark(page, data.error);
    page.dataset.page = `${data.kind} ${data.page}`;
    page.dataset.ready = "true";
  }

  function showSaid(name) {
    const said = standing(name);
    const who = said && (said.mine ? "you" : said.by);
    const words = said ? `${said.saved ? "✓ saved" : "saving …"}: ${SAID[said.verdict]}, by ${who}` : takenBack.has(name) ? (outbox.size ? "taking back …" : "✓ taken back") : "";
    for (const box of rows.get(name).boxes) {
      box.dataset.said = said ? said.verdict : "";
      box.querySelector(".said").textContent = words;
      box.querySelector(".undo").hidden = !said?.mine;
      for (const press of box.querySelectorAll("button[value]")) if (press.value) press.setAttribute("aria-pressed", String(press.value === said?.verdict));
    }
  }

  // --- two images at full size ---------------------------------------------------------------------------------------
  function openCompare(pair, two) {
    closeCompare();
    compared = nameOf(pair);
    opener = [...root.querySelectorAll(".pair")].find((row) => row.dataset.pair === compared)?.compare;
    $(".sides").replaceChildren(...two.map((image) => {
      const side = node("figure", "");
      side.append(photo(address("img", image), image), node("figcaption", `${image.place}. ${image.label}, ${image.width} × ${image.height} px`));
      return side;
    }));
    $(".verdict").replaceChildren(node("p", [...facts(pair, new Map(two.map((image) => [image.image_id, image]))), pair.check].join(", "), "quiet"), judge(pairTarget(pair), Object.entries(VERDICTS)));
    mirror(pair.flipped);
    showSaid(compared);
    $(".compare").showModal();
  }

  function closeCompare() {
    if (!compared) return;
    const { boxes } = rows.get(compared) ?? { boxes: [] };
    if (boxes.length > 1) boxes.pop();
    compared = undefined;
    $(".compare").close();
    opener?.focus();
  }

  function mirror(on) {
    $(".mirror").setAttribute("aria-pressed", String(on));
    $(".sides").classList.toggle("mirrored", on);
  }

  const mirrored = () => $(".mirror").getAttribute("aria-pressed") === "true";

  // --- keys: they act on the pair that has the focus -----------------------------------------------------------------
  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    const key = event.key.toLowerCase();
    const target = event.composedPath()[0];
    const row = target.closest?.(".pair");
    const name = compared ?? row?.dataset.pair;
    const actions = { j: () => step(row, 1), k: () => step(row, -1) };
    if (name && rows.has(name)) Object.assign(actions, { s: () => decide(name, "same"), d: () => decide(name, "different"), u: () => undoOf(name) });
    if (row) actions.c = () => row.compare.click();
    if (compared) Object.assign(actions, { m: () => mirror(!mirrored()), j: undefined, k: undefined });
    if (!actions[key] || typing(target)) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    if (!event.repeat || key === "j" || key === "k") actions[key]();
  }

  function step(row, by) {
    const all = [...root.querySelectorAll(".pair")].filter((pair) => pair.checkVisibility());
    const at = row ? all.indexOf(row) + by : 0;
    all[at]?.querySelector("button")?.focus();
  }

  // --- small things --------------------------------------------------------------------------------------------------
  function line(...children) {
    const box = node("p", "");
    box.append(...children);
    return box;
  }

  function say(text) { $(".live").textContent = text; }

  const onTick = () => {
    if (!data) return sent?.([]);
    if (outbox.size || page.dataset.ready === "false") outbox.send(); // a page that was asked for did not come
    outbox.mark(page, data.error);
  };

  $(".back").onclick = () => go(data.kind, data.page - 1);
  $(".next").onclick = () => go(data.kind, data.page + 1);
  $(".mirror").onclick = () => mirror(!mirrored());
  $(".close").onclick = closeCompare;
  $(".compare").addEventListener("cancel", (event) => { event.preventDefault(); closeCompare(); });
  return { update, close: living(root, "duplicates", onKey, onTick) };
}
