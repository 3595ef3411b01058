// The page of an audit. The data files call audit.receive: data/index.js once, with the rows in the order of doubt, and
// each data/chunk_N.js with the pictures and masks of its rows. Text of the data is only ever set as text, never as HTML.
"use strict";

const PAGE = 48; // rows that are in the document at once
const COLORS = { mask: "#00e5ff", other: "#ff5ec4", others: "#ffffff", point: "#ffd400" };
const NAMES = { accept: "accepted", reject: "rejected", other: "other mask", class: "class" };
const $ = (id) => document.getElementById(id);

const audit = (() => {
  let data; // what data/index.js says
  let decisions = {}; // by row name: {decision, class}
  let shown = []; // numbers of the rows that the filters let through
  let chosen = 0; // place in `shown`
  const chunks = new Map(); // number -> promise of the rows' parts
  const waiting = new Map(); // number -> function that ends the promise

  function receive(first, parts) {
    if (parts) waiting.get(first)(parts);
    else start(first);
  }

  function part(row) {
    const number = Math.floor(row / data.chunk);
    if (!chunks.has(number)) {
      if (chunks.size > 60) chunks.clear(); // What was looked at long ago need not stay in memory.
      chunks.set(number, new Promise((resolve) => {
        const script = document.createElement("script");
        script.src = `data/chunk_${number}.js`;
        waiting.set(number, (parts) => { script.remove(); waiting.delete(number); resolve(parts); });
        document.head.append(script);
      }));
    }
    return chunks.get(number).then((parts) => parts[row % data.chunk]);
  }

  const address = (told) => `data:image/jpeg;base64,${told.picture}`;

  function element(tag, text, className) {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  }

  // ---- decisions -------------------------------------------------------------------------------------------------
  const storageKey = () => `audit ${data.source}`;

  function readStored() {
    try {
      decisions = JSON.parse(localStorage.getItem(storageKey())) || {};
    } catch {
      decisions = {};
    }
  }

  function keep() {
    try {
      localStorage.setItem(storageKey(), JSON.stringify(decisions));
      return "";
    } catch {
      return " This browser does not keep decisions: save review.json before you close the page.";
    }
  }

  function describe(decision) {
    if (!decision) return "";
    return decision.decision === "class" ? `class ${decision.class}` : NAMES[decision.decision];
  }

  function decide(kind, label) {
    if (!shown.length) return;
    const row = shown[chosen];
    const name = data.rows.name[row];
    if (kind === "other" && $("blend-row").hidden) return;
    if (kind) decisions[name] = label === undefined ? { decision: kind } : { decision: kind, class: data.classes[label] };
    else delete decisions[name];
    const problem = keep();
    markCard(row);
    progress();
    $("status").textContent = `Row ${chosen + 1}: ${describe(decisions[name]) || "open"}.${problem}`;
    if (kind && chosen + 1 < shown.length) choose(chosen + 1);
    else showDetail();
  }

  function progress() {
    const count = data.rows.name.length;
    const done = Object.keys(decisions).length;
    $("progress").max = count || 1;
    $("progress").value = done;
    $("progress-text").textContent = `${done} of ${count} decided`;
  }

  function save() {
    const content = { source: data.source, decisions };
    const link = element("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(content, null, 1)], { type: "application/json" }));
    link.download = "review.json";
    link.click();
    URL.revokeObjectURL(link.href);
    $("status").textContent = `review.json is saved with ${Object.keys(decisions).length} decisions.`;
  }

  async function load(file) {
    try {
      const content = JSON.parse(await file.text());
      if (content.source !== data.source) throw new Error("it is a review of other labels");
      decisions = { ...decisions, ...content.decisions };
      $("status").textContent = `${file.name} is loaded.${keep()}`;
      refilter();
    } catch (error) {
      $("status").textContent = `${file.name} is not loaded: ${error.message}.`;
    }
  }

  // ---- the list --------------------------------------------------------------------------------------------------
  function fits(row) {
    const [label, reason, wanted] = ["label", "reason", "decision"].map((key) => $(`filter-${key}`).value);
    const { decision } = decisions[data.rows.name[row]] || {};
    return (label === "" || data.rows.label[row] === Number(label))
      && (reason === "" || data.rows.reasons[row].includes(Number(reason)))
      && (wanted === "" || wanted === decision || (wanted === "open" && !decision) || (wanted === "decided" && decision));
  }

  function refilter() {
    shown = [...data.rows.name.keys()].filter(fits);
    $("empty").hidden = shown.length > 0;
    $("detail").hidden = shown.length === 0;
    $("pages").textContent = pageCount();
    $("page").max = pageCount();
    progress();
    showPage(0);
  }

  const pageCount = () => Math.max(1, Math.ceil(shown.length / PAGE));
  const currentPage = () => Math.floor(chosen / PAGE);

  function showPage(page) {
    const first = Math.min(Math.max(page, 0), pageCount() - 1) * PAGE;
    $("cards").replaceChildren(...shown.slice(first, first + PAGE).map((row, place) => card(row, first + place)));
    $("list").scrollTop = 0;
    chosen = first;
    if (shown.length) choose(first, true);
    $("page").value = currentPage() + 1;
    $("page-back").disabled = currentPage() === 0;
    $("page-on").disabled = currentPage() === pageCount() - 1;
  }

  function card(row, place) {
    const button = element("button");
    const frame = element("div", undefined, "frame");
    const picture = element("img");
    const canvas = element("canvas");
    picture.alt = "";
    frame.append(picture, canvas);
    const reasons = data.rows.reasons[row].map((reason) => data.reasons[reason]).join(", ");
    button.type = "button";
    button.dataset.row = row;
    button.append(frame, element("strong", data.classes[data.rows.label[row]]),
      element("small", `${data.rows.doubt[row].toFixed(2)} ${reasons}`), element("small", "", "decision"));
    button.onclick = () => choose(place);
    part(row).then((told) => {
      picture.src = address(told);
      clear(canvas, told, 160);
      draw(canvas, told, told.mask ? "mask" : "other");
    });
    const item = element("li");
    item.append(button);
    mark(button, row);
    return item;
  }

  function mark(button, row) {
    const decision = decisions[data.rows.name[row]];
    const text = button.querySelector(".decision, .accept, .reject, .other, .class");
    text.className = decision ? decision.decision : "decision";
    text.textContent = describe(decision);
  }

  const cardOf = (row) => $("cards").querySelector(`[data-row="${row}"]`);

  function markCard(row) {
    const button = cardOf(row);
    if (button) mark(button, row);
  }

  // ---- the chosen row --------------------------------------------------------------------------------------------
  function choose(place, stay) {
    if (place < 0 || place >= shown.length) return;
    if (!stay && Math.floor(place / PAGE) !== currentPage()) showPage(Math.floor(place / PAGE));
    $("cards").querySelector("[aria-current]")?.removeAttribute("aria-current");
    chosen = place;
    const button = cardOf(shown[place]);
    button.setAttribute("aria-current", "true");
    if (!stay) button.scrollIntoView({ block: "nearest" });
    showDetail();
  }

  async function showDetail() {
    const row = shown[chosen];
    const decision = decisions[data.rows.name[row]];
    $("detail-label").textContent = data.classes[data.rows.label[row]];
    $("detail-decision").textContent = describe(decision);
    $("detail-decision").className = `badge ${decision ? decision.decision : ""}`;
    for (const button of document.querySelectorAll("[data-decision]")) {
      if (button.dataset.decision) button.setAttribute("aria-pressed", String(decision?.decision === button.dataset.decision));
    }
    $("new-label").value = decision?.decision === "class" ? data.classes.indexOf(decision.class) : data.rows.label[row];
    const told = await part(row);
    if (shown[chosen] !== row) return; // Another row was chosen meanwhile.
    $("picture").src = address(told);
    for (const key of ["others", "other", "mask"]) {
      clear($(`layer-${key}`), told, 560);
      draw($(`layer-${key}`), told, key);
    }
    const both = Boolean(told.mask && told.other);
    $("blend-row").hidden = !both;
    document.querySelector('[data-decision="other"]').hidden = !both;
    $("only").hidden = both || !(told.mask || told.other);
    $("only").className = told.mask ? "mask" : "other";
    $("only").textContent = told.mask ? data.texts.mask : data.texts.other;
    blend(both ? $("blend").value / 100 : null);
    const reasons = data.rows.reasons[row].map((reason) => data.reasons[reason]).join(", ");
    const facts = { doubt: data.rows.doubt[row].toFixed(2), reasons, image: data.images[data.rows.image[row]],
      row: `${chosen + 1} of ${shown.length}`, ...told.facts };
    $("facts").replaceChildren(...Object.entries(facts).flatMap(([key, value]) => [element("dt", key), element("dd", value)]));
    $("file").href = told.file;
  }

  function blend(share) {
    $("layer-mask").style.opacity = share === null ? 1 : share;
    $("layer-other").style.opacity = share === null ? 1 : 1 - share;
  }

  // ---- masks -----------------------------------------------------------------------------------------------------
  // COCO's RLE: a run is written in characters of 5 bits, the lowest first; from the fourth on as a difference.
  function decode(text, count) {
    const pixels = new Uint8Array(count); // column by column
    const runs = [];
    let at = 0;
    for (let i = 0; i < text.length;) {
      let run = 0;
      let shift = 0;
      let code;
      do {
        code = text.charCodeAt(i++) - 48;
        run |= (code & 31) << shift;
        shift += 5;
      } while (code & 32);
      if (code & 16) run |= -1 << shift;
      if (runs.length > 2) run += runs[runs.length - 2];
      if (runs.length % 2) pixels.fill(1, at, at + run);
      at += run;
      runs.push(run);
    }
    return pixels;
  }

  function clear(canvas, { size: [width, height] }, side) {
    const zoom = Math.max(1, Math.ceil(side / Math.max(width, height)));
    canvas.width = width * zoom;
    canvas.height = height * zoom;
    canvas.getContext("2d").setTransform(zoom, 0, 0, zoom, 0, 0);
  }

  // Fill a mask softly, and draw its outline along the edges of its pixels.
  function draw(canvas, told, key) {
    const context = canvas.getContext("2d");
    const [width, height] = told.size;
    const line = width / canvas.width;
    if (key === "mask" && told.point) {
      context.strokeStyle = COLORS.point;
      context.lineWidth = 2 * line;
      context.beginPath();
      context.arc(told.point[0], told.point[1], 14 * line, 0, 2 * Math.PI);
      context.stroke();
    }
    if (!told[key]) return;
    context.strokeStyle = context.fillStyle = COLORS[key];
    const pixels = decode(told[key], width * height);
    const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && pixels[x * height + y] === 1;
    context.beginPath();
    for (let x = -1; x < width; x++) {
      for (let y = -1; y < height; y++) {
        if (inside(x, y) !== inside(x + 1, y)) {
          context.moveTo(x + 1, y);
          context.lineTo(x + 1, y + 1);
        }
        if (inside(x, y) !== inside(x, y + 1)) {
          context.moveTo(x, y + 1);
          context.lineTo(x + 1, y + 1);
        }
      }
    }
    context.lineWidth = (key === "others" ? 1 : 2.5) * line;
    context.globalAlpha = key === "others" ? 0.6 : 1;
    context.stroke();
    context.globalAlpha = key === "others" ? 0 : 0.2;
    for (let x = 0; x < width; x++) {
      for (let y = 0; y < height; y++) if (pixels[x * height + y]) context.fillRect(x, y, 1, 1);
    }
    context.globalAlpha = 1;
  }

  // ---- start -----------------------------------------------------------------------------------------------------
  function fillSelect(select, names, first) {
    if (first !== undefined) select.append(new Option(first, ""));
    names.forEach((name, number) => select.append(new Option(name, number)));
  }

  const KEYS = {
    j: () => choose(chosen + 1), ArrowRight: () => choose(chosen + 1),
    k: () => choose(chosen - 1), ArrowLeft: () => choose(chosen - 1),
    n: () => turn(1), p: () => turn(-1),
    a: () => decide("accept"), r: () => decide("reject"), o: () => decide("other"), u: () => decide(""),
    c: () => $("new-label").focus(),
    h: () => ["others", "other", "mask"].forEach((key) => $(`layer-${key}`).toggleAttribute("hidden")),
    b: () => document.body.classList.toggle("bright"),
    " ": () => { $("blend").value = $("blend").value > 50 ? 0 : 100; $("blend").oninput(); },
    "?": () => $("help").showModal(),
  };

  function turn(pages) {
    const page = currentPage() + pages;
    if (page >= 0 && page < pageCount()) showPage(page);
  }

  function press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
    const { tagName, type } = event.target;
    const typing = tagName === "SELECT" || (tagName === "INPUT" && type !== "range");
    const own = (tagName === "INPUT" && event.key.startsWith("Arrow")) || (tagName === "BUTTON" && event.key === " ");
    if (typing || own) return;
    const label = Number(event.key) - 1;
    if (label >= 0 && label < Math.min(9, data.classes.length)) decide("class", label);
    else if (Object.hasOwn(KEYS, event.key)) KEYS[event.key]();
    else return;
    event.preventDefault();
  }

  function start(index) {
    data = index;
    readStored();
    document.title = $("title").textContent = data.title;
    for (const key of ["mask", "other", "take"]) $(`text-${key}`).textContent = data.texts[key];
    fillSelect($("filter-label"), data.classes, "all");
    fillSelect($("filter-reason"), data.reasons, "all");
    fillSelect($("new-label"), data.classes.map((name, number) => (number < 9 ? `${number + 1} ${name}` : name)));
    $("class-row").hidden = data.classes.length < 2;
    for (const key of ["label", "reason", "decision"]) $(`filter-${key}`).onchange = refilter;
    for (const button of document.querySelectorAll("[data-decision]")) button.onclick = () => decide(button.dataset.decision);
    $("new-label").onchange = () => { decide("class", Number($("new-label").value)); $("new-label").blur(); };
    $("blend").oninput = () => blend($("blend").value / 100);
    $("page-back").onclick = () => turn(-1);
    $("page-on").onclick = () => turn(1);
    $("page").onchange = () => showPage($("page").value - 1);
    $("save").onclick = save;
    $("load").onchange = () => { load($("load").files[0]); $("load").value = ""; };
    $("help-open").onclick = () => $("help").showModal();
    document.addEventListener("keydown", press);
    refilter();
  }

  return { receive };
})();
