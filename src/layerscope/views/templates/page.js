"use strict";
// Page behavior: data loading, the table (sort, filter, search, open), links between findings and layers, the theme.

const table = document.querySelector("#layers table"), body = table && table.tBodies[0];
const rows = body ? [...body.rows] : [];
const byRow = new Map(rows.map((row) => [Number(row.dataset.row), row]));
let lines = [], terms = null;

const broken = (error) => {
  for (const place of document.querySelectorAll("[data-charts]")) {
    place.replaceChildren(html("p", { class: "empty" }, "This browser could not unpack the plots (" + error.message + "). The table and the findings are complete."));
  }
};

async function unpacked() {
  const bytes = Uint8Array.from(atob(document.getElementById("page-data").textContent.trim()), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return (await new Response(stream).text()).split("\n");
}

const ready = unpacked().then((found) => {
  lines = found;
  terms = JSON.parse(lines[0]);
  for (const place of document.querySelectorAll("[data-charts]")) {
    const tall = Number(place.dataset.tall || 230);
    if ("slider" in place.dataset) {
      slider(place, terms.charts[place.dataset.charts], tall);
      continue;
    }
    place.append(...terms.charts[place.dataset.charts].map((picture) => chart(picture, open, tall)));
  }
}).catch(broken);

// Show one chart at a time, chosen by its training step.
function slider(place, steps, tall) {
  const range = html("input", { type: "range", id: "step", min: "0", max: String(steps.length - 1), value: String(steps.length - 1) });
  const output = html("output", { for: "step" }), holder = html("div", { class: "charts wide" });
  const show = () => {
    const { step, told: summary, picture } = steps[Number(range.value)];
    output.textContent = `step ${step}${summary ? ": " + summary : ""}`;
    holder.replaceChildren(chart(picture, open, tall));
  };
  range.addEventListener("input", show);
  place.append(html("p", { class: "slider" }, html("label", { for: "step" }, "Step "), range, output), holder);
  show();
}

// --- a layer, opened -------------------------------------------------------------------------------------------

function metrics(layer) {
  const known = html("dl", { class: "metrics" });
  for (const [name, value] of Object.entries(layer.metrics || {})) {
    const term = Object.hasOwn(terms.metrics, name) ? terms.metrics[name] : { unit: "", what: "" };
    known.append(html("div", {}, html("dt", { title: term.what }, name), html("dd", {}, typeof value === "number" ? tick(value) : value, html("span", { class: "unit" }, term.unit))));
  }
  const parts = [html("h3", {}, "All metrics"), known];
  const absent = Object.entries(layer.absent || {});
  if (absent.length) {
    const list = html("ul", {}, ...absent.map(([reason, names]) => html("li", {}, names.join(", ") + ": " + terms.reasons[reason])));
    parts.push(html("details", {}, html("summary", {}, "Metrics without a value, with the reason"), list));
  }
  return layer.metrics ? parts : [];
}

function detail(number) {
  const line = lines[terms.at[number]];
  const layer = line === undefined ? { name: byRow.get(number).querySelector("button").textContent } : JSON.parse(line);
  const inside = html("div", { class: "inside" });
  inside.append(html("p", { class: "full" }, layer.name));
  if (layer.how) inside.append(html("p", { class: "note" }, layer.how));
  if (layer.findings && layer.findings.length) {
    inside.append(html("ul", { class: "evidence" }, ...layer.findings.map(([code, title, severity, message]) =>
      html("li", { class: severity }, html("a", { href: "#verdict-" + code }, code), " " + title + ": " + message))));
  }
  if (layer.pictures) inside.append(html("div", { class: "charts" }, ...layer.pictures.map((picture) => chart(picture, () => {}, 210))));
  else inside.append(html("p", { class: "note" }, terms.unpictured));
  inside.append(...metrics(layer));
  return inside;
}

async function toggle(row, show) {
  await ready;
  const button = row.querySelector("button"), open = button.getAttribute("aria-expanded") === "true";
  if (!terms || open === show) return;
  button.setAttribute("aria-expanded", String(!open));
  if (open) {
    row.nextElementSibling.remove();
    return;
  }
  const number = Number(row.dataset.row), cell = html("td", { colspan: String(row.cells.length) }, detail(number));
  row.after(html("tr", { class: "detail", id: "detail-" + number }, cell));
  button.setAttribute("aria-controls", "detail-" + number);
}

async function open(number) {
  const row = byRow.get(number);
  if (!row) return;
  if (row.hidden) reset();
  await toggle(row, true);
  row.scrollIntoView({ block: "start", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
  row.querySelector("button").focus({ preventScroll: true });
}

// --- sort, filter, search --------------------------------------------------------------------------------------

const key = (row, column) => {
  const cell = row.cells[column], value = cell.dataset.v;
  return value === undefined ? cell.textContent.trim() : value === "" ? null : Number(value);
};

function sort(head) {
  const column = head.cellIndex, down = head.getAttribute("aria-sort") === "ascending", sign = down ? -1 : 1;
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const order = rows.map((row) => [key(row, column), row]).sort(([a], [b]) => {
    if (a === b) return 0;
    if (a === null || a === "") return 1; // absent values stay at the end in both directions
    if (b === null || b === "") return -1;
    return sign * (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
  });
  const sorted = document.createDocumentFragment();
  for (const [, row] of order) {
    const below = row.nextElementSibling;
    sorted.append(row);
    if (below && below.classList.contains("detail")) sorted.append(below);
  }
  body.append(sorted);
}

const search = document.getElementById("search"), count = document.getElementById("count");
const filters = [...document.querySelectorAll("select[data-filter]")];

function filter() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of rows) {
    const text = row.dataset.text;
    const fits = words.every((word) => text.includes(word)) && filters.every(({ value, dataset }) => {
      const has = row.dataset[dataset.filter];
      return !value || (value === "*" ? has !== "" : (" " + has + " ").includes(" " + value + " "));
    });
    row.hidden = !fits;
    const below = row.nextElementSibling;
    if (below && below.classList.contains("detail")) below.hidden = !fits;
    shown += fits;
  }
  count.textContent = shown === rows.length ? `${rows.length} rows` : `${shown} of ${rows.length} rows`;
}

function reset() {
  search.value = "";
  for (const select of filters) select.value = "";
  filter();
}

if (body) {
  for (const head of table.tHead.rows[0].cells) head.querySelector("button").addEventListener("click", () => sort(head));
  body.addEventListener("click", (event) => {
    const row = event.target.closest("tr[data-row]");
    if (row && !event.target.closest("a") && !String(getSelection())) toggle(row);
  });
  for (const row of rows) row.dataset.text = [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase();
  search.addEventListener("input", filter);
  for (const select of filters) select.addEventListener("change", filter);
  document.getElementById("reset").addEventListener("click", reset);
  filter();
}

// --- links, theme, print ---------------------------------------------------------------------------------------

function follow() {
  const found = /^#L(\d+)$/.exec(location.hash);
  if (found) open(Number(found[1]));
  const named = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
  if (named && named.matches("details")) named.open = true;
}
addEventListener("hashchange", follow);
document.addEventListener("click", (event) => { // clicking the same link again does not change the hash
  const link = event.target.closest('a[href^="#"]');
  if (link && link.getAttribute("href") === location.hash) follow();
});
follow();

const themes = ["auto", "light", "dark"], theme = document.getElementById("theme");
theme.addEventListener("click", () => {
  const next = themes[(themes.indexOf(document.documentElement.dataset.theme || "auto") + 1) % 3];
  document.documentElement.dataset.theme = next;
  theme.textContent = "Theme: " + next;
});

let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details[data-print]:not([open])")];
  for (const fold of folded) fold.open = true;
});
addEventListener("afterprint", () => { for (const fold of folded) fold.open = false; });
