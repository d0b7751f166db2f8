// The page that helps: keys can be chosen anew, for this browser.

const ACTIONS = {
  accept: "Accept", reject1: "Reject: off topic", reject2: "Reject: polished product", reject3: "Reject: multiple objects",
  reject4: "Reject: background", reject5: "Reject: illumination", reject6: "Reject: overlay", reject7: "Reject: low quality",
  relabel: "Relabel", skip: "Skip", undo: "Undo", heat: "Heatmap on and off", heatOf: "Heatmap of the label, or of what is predicted",
  fainter: "Heatmap fainter", stronger: "Heatmap stronger", zoom: "Zoom (then the arrow keys)", grid: "Grid, and back", select: "Select, in the grid",
};

export default function ({ data, parentElement }) {
  if (!parentElement.help) parentElement.help = open(parentElement, data);
  return () => parentElement.isConnected || parentElement.help?.close();
}

function open(root, data) {
  const $ = (selector) => root.querySelector(selector);
  let waits; // the action that the next key is for

  for (const flag of data.flags) {
    const line = document.createElement("tr");
    line.append(Object.assign(node("th", flag.measure.replaceAll("_", " ")), { scope: "row" }), node("td", flag.meaning), node("td", flag.limit));
    $(".flags tbody").append(line);
  }
  for (const [action, title] of Object.entries(ACTIONS)) {
    const line = document.createElement("tr");
    line.dataset.action = action;
    const change = node("td", "");
    const press = button("", "Change", () => waitFor(action));
    press.ariaLabel = `Change the key of: ${title}`;
    change.append(press);
    const key = node("td", "");
    key.append(node("kbd", ""));
    line.append(Object.assign(node("th", title), { scope: "row" }), key, change);
    $(".keys tbody").append(line);
  }

  function show() {
    const chosen = chosenKeys();
    for (const line of $(".keys tbody").children) {
      line.querySelector("kbd").textContent = chosen[line.dataset.action];
      line.dataset.waits = String(line.dataset.action === waits);
      line.querySelector("button").lastChild.textContent = line.dataset.action === waits ? "Press a key" : "Change";
    }
  }

  function waitFor(action) {
    waits = action;
    say(`Press the key for: ${ACTIONS[action]}. Esc leaves it as it is.`);
    show();
  }

  function onKey(event) {
    if (!waits || ["Shift", "Control", "Alt", "Meta", "Tab"].includes(event.key)) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    if (!event.repeat) choose(event.key.toLowerCase());
  }

  function choose(key) {
    const action = waits;
    waits = undefined;
    const taken = Object.entries(chosenKeys()).find(([other, chosen]) => chosen === key && other !== action)?.[0];
    if (key === "escape") say("Left as it is.");
    else if (key.length !== 1 || key === " ") say("Only letters, digits and signs can be chosen.");
    else if (taken) say(`${key} is the key of: ${ACTIONS[taken]}. Choose another for that first.`);
    else {
      localWrite("keys", JSON.stringify({ ...chosenKeys(), [action]: key }));
      say(`${ACTIONS[action]}: ${key}`);
    }
    show();
  }

  function say(text) { $(".said").textContent = text; }

  $(".usual").onclick = () => {
    localStorage.removeItem("deeprock/look/keys");
    say("All keys are as they were.");
    show();
  };
  const close = living(root, "help", onKey);
  show();
  $(".help").dataset.ready = "true";
  return { close };
}
