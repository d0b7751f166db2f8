// Runs before the page's own scripts and writes down what a reviewer could see.
//
// lab.keys: a record of each key: when it was pressed, whether the page took it for a decision (`taken`), how many ms
// later another image was there and decoded (`decoded`), and the decision acknowledged (`committed`). Times begin at
// the event's own time stamp, so that a key that waits for a busy page counts as late. lab.made, lab.saved, lab.found:
// decisions put into the outbox, acknowledged (gone from it while the page lives), and met in it when the page was
// opened, each told to the binding `told` at once, where there is one, to outlive the browser. lab.grid: when the grid was
// there with its images in sight, when a key was pressed last, and when each of the grid's marks changed last.
(() => {
  if (!location.protocol.startsWith("http") || window.lab) return;
  const OUTBOX = /^deeprock\/[^/]+\/([0-9a-f]{8}-[0-9a-f-]{27})$/;
  const lab = window.lab = { keys: [], made: [], saved: [], found: [], grid: { marks: {} } };
  const pressed = new Map(); // the key that made a decision, by its id
  let kept = waiting(), page, key;

  function waiting() { // decisions in the outbox, by id
    const names = Object.keys(localStorage).filter((name) => OUTBOX.test(name));
    return new Map(names.map((name) => [OUTBOX.exec(name)[1], localStorage.getItem(name)]));
  }

  function note(what, id, event) {
    lab[what].push(id);
    window.told?.({ what, id, event });
  }

  function changed(records) {
    const ofGrid = records.filter(({ target }) => target.matches?.(".grid"));
    for (const { attributeName } of ofGrid) lab.grid.marks[attributeName] = performance.now();
    if (ofGrid[0]?.target.dataset.ready === "true" && !lab.grid.begun) tiles(ofGrid[0].target);
    page = records.map((record) => record.target).find((target) => target.classList?.contains("review")) ?? page;
    if (!page) return;
    const now = waiting();
    for (const [id, event] of now) if (!kept.has(id)) made(id, event);
    for (const id of kept.keys()) if (!now.has(id)) saved(id);
    kept = now;
    const { image, ready } = page.dataset;
    if (ready === "true" && lab.opened === undefined) opened();
    if (key && key.image !== image && ready === "true" && !key.decoding) decoded(key);
  }

  function made(id, event) {
    if (key) key.taken = true;
    pressed.set(id, key);
    note("made", id, event);
  }

  function saved(id) {
    const mine = pressed.get(id);
    if (mine) mine.committed = performance.now() - mine.at;
    note("saved", id);
  }

  async function opened() { // ms after the navigation began
    lab.opened = null;
    await photo();
    lab.opened = performance.now();
  }

  async function tiles(grid) { // the same, of a grid and its images in sight
    lab.grid.begun = true;
    const inSight = (image) => image.getBoundingClientRect().top < innerHeight;
    await Promise.all([...grid.querySelectorAll(".tile .photo")].filter(inSight).map((image) => image.decode()));
    lab.grid.opened = performance.now();
  }

  async function decoded(mine) {
    mine.decoding = true;
    await photo();
    mine.decoded = performance.now() - mine.at;
    mine.done(true);
  }

  async function photo() { // until what is shown is decoded; another image may take its place meanwhile
    for (;;) {
      try {
        return await page.querySelector(".photo").decode();
      } catch (error) {
        if (error.name !== "EncodingError") throw error;
        await new Promise(requestAnimationFrame);
      }
    }
  }

  const watch = new MutationObserver(changed);
  const marks = ["data-image", "data-ready", "data-pending", "data-selected"];
  const observed = { subtree: true, attributes: true, attributeFilter: marks };
  const attach = Element.prototype.attachShadow;
  Element.prototype.attachShadow = function (options) {
    const root = attach.call(this, options);
    watch.observe(root, observed);
    return root;
  };
  watch.observe(document, observed);
  window.addEventListener("keydown", (event) => {
    lab.grid.pressed = event.timeStamp;
    if (event.repeat || !page || (key && !key.taken)) return; // not taken: its time runs on
    key = { at: event.timeStamp, image: page.dataset.image };
    key.there = new Promise((resolve) => { key.done = resolve; });
    lab.keys.push(key);
  }, true);
  for (const [id, event] of kept) note("found", id, event);
})();
