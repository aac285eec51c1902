"use strict";
// Draw any picture (views/plots/marks.py) as SVG in the browser. Text becomes text nodes, never markup.
// Colors are CSS classes, so the style sheet handles light, dark and print.

const SVG = "http://www.w3.org/2000/svg";
const FONT = 6.1; // width of a character of a tick label
const CIVIDIS = [[0, 32, 77], [65, 77, 107], [124, 123, 120], [188, 175, 111], [255, 234, 70]];
const CROWDED = 60, REACH = 14;
let clips = 0;

function node(space, name, attributes, children) {
  const made = space ? document.createElementNS(space, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  made.append(...(children || []));
  return made;
}
const svg = (name, attributes, ...children) => node(SVG, name, attributes, children);
const html = (name, attributes, ...children) => node("", name, attributes, children);
const fixed = (value) => Math.round(Math.max(-1e5, Math.min(1e5, value)) * 10) / 10; // clamped values stay outside the axes
const finite = (values) => values.filter((v) => v !== null && v !== undefined && Math.abs(v) < 1e200);

function tick(value) {
  if (value === 0 || (Math.abs(value) >= 1e-3 && Math.abs(value) < 1e5)) {
    return String(Number(value.toPrecision(6))).replace("-", "−");
  }
  const [mantissa, exponent] = value.toExponential(3).split("e");
  const power = "10" + [...String(Number(exponent))].map((c) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[c] || "⁻").join("");
  return Number(mantissa) === 1 ? power : (Number(mantissa) + "×" + power).replace(/^-/, "−");
}

// Shorten a name to its end, the most specific part.
function tailed(name, width) {
  const room = Math.max(4, Math.floor(width / FONT + 0.01));
  return name.length > room ? "…" + name.slice(1 - room) : name;
}

function linearTicks(low, high, count) {
  const raw = (high - low) / Math.max(count, 1), power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((k) => k * power).find((s) => s >= raw * 0.999);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) found.push(i * step);
  return found;
}

function logTicks(low, high, count) {
  const first = Math.ceil(Math.log10(low) - 1e-9), last = Math.floor(Math.log10(high) + 1e-9), powers = last - first + 1;
  const digits = powers <= 2 ? [1, 2, 5] : [1], every = powers <= 2 ? 1 : Math.ceil(powers / Math.max(count, 2));
  const found = [];
  for (let e = powers <= 2 ? first - 1 : first; e <= last; e += every) {
    for (const d of digits) if (d * 10 ** e >= low * 0.999 && d * 10 ** e <= high * 1.001) found.push(d * 10 ** e);
  }
  return found.length > 1 ? found : linearTicks(low, high, count);
}

function scale(axis, values) {
  const log = axis.scale === "log", category = axis.scale === "category";
  if (axis.scale === "none") return { low: -1, high: 1, log, category, none: true, at: (v) => v };
  if (category) return { low: -0.6, high: axis.ticks.length - 0.4, log, category, at: (v) => v };
  const seen = finite(values).filter((v) => !log || v > 0);
  let low = axis.low ?? Math.min(...seen), high = axis.high ?? Math.max(...seen);
  if (!Number.isFinite(low)) low = log ? 1 : 0;
  if (!(high - low > 1e-9 * Math.abs(high))) [low, high] = log ? [low / 2, low * 2] : [low - (Math.abs(low) * 0.1 || 0.5), low + (Math.abs(low) * 0.1 || 0.5)];
  const move = log ? Math.log : (v) => v, back = log ? Math.exp : (v) => v;
  const pad = (move(high) - move(low)) * 0.05;
  if (axis.low === undefined) low = back(move(low) - pad);
  if (axis.high === undefined) high = back(move(high) + pad);
  return { low, high, log, category, at: log ? Math.log : (v) => v };
}

// Return the values that a mark occupies on one axis.
function extent(mark, side) {
  if (mark.kind === "steps") return side === "x" ? mark.edges : mark.heights;
  if (mark.kind === "rule") return (mark.along || "y") === side ? [] : [mark.at];
  if (mark.kind === "cells" || mark.kind === "band" || mark.kind === "surface") return [];
  if (mark.kind === "field") {
    const at = mark[side], half = (at[1] - at[0]) / 2, last = mark.y[mark.y.length - 1];
    const [low, high] = side === "y" ? [0, 0] : [mark.y[0], last].map((y) => (mark.shear || 0) * y).sort((a, b) => a - b);
    return [at[0] - half + low, at[at.length - 1] + half + high];
  }
  return side === "x" ? mark.x : [...mark.y, ...(mark.low || []), ...(mark.high || [])];
}

const SHAPES = {
  circle: (x, y, r) => `M${fixed(x - r)} ${fixed(y)}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0`,
  square: (x, y, r) => `M${fixed(x - r * 0.9)} ${fixed(y - r * 0.9)}h${1.8 * r}v${1.8 * r}h${-1.8 * r}z`,
  diamond: (x, y, r) => `M${fixed(x)} ${fixed(y - 1.25 * r)}l${1.25 * r} ${1.25 * r}l${-1.25 * r} ${1.25 * r}l${-1.25 * r} ${-1.25 * r}z`,
  triangle: (x, y, r) => `M${fixed(x)} ${fixed(y - 1.2 * r)}l${1.15 * r} ${2 * r}h${-2.3 * r}z`,
  down: (x, y, r) => `M${fixed(x)} ${fixed(y + 1.2 * r)}l${1.15 * r} ${-2 * r}h${-2.3 * r}z`,
  cross: (x, y, r) => `M${fixed(x - r)} ${fixed(y - r)}l${2 * r} ${2 * r}m0 ${-2 * r}l${-2 * r} ${2 * r}`,
  tick: (x, y, r) => `M${fixed(x)} ${fixed(y - 1.5 * r)}v${3 * r}`,
};

const outline = (mark) => "steps pattern" + (mark.pattern || 0);
const dots = (mark) => "points" + (mark.hollow ? " hollow" : "") + (mark.grave ? " grave" : "");

// Return the RGB color for a share of the color scale; values beyond an end get the color of that end.
function cividis(share) {
  const at = Math.min(1, Math.max(0, share)) * (CIVIDIS.length - 1), k = Math.min(CIVIDIS.length - 2, Math.floor(at));
  return CIVIDIS[k].map((c, n) => Math.round(c + (CIVIDIS[k + 1][n] - c) * (at - k)));
}

const PENS = {
  band(mark, X, Y, box) {
    const [low, high] = [mark.low ?? box.y.low, mark.high ?? box.y.high].map(Y);
    return [svg("rect", { class: "band", x: box.left, width: box.width, y: fixed(high), height: fixed(Math.max(0, low - high)) })];
  },
  rule(mark, X, Y, box) {
    const up = (mark.along || "y") === "y", at = fixed(up ? X(mark.at) : Y(mark.at));
    const d = up ? `M${at} ${box.top}V${box.top + box.height}` : `M${box.left} ${at}H${box.left + box.width}`;
    return [svg("path", { class: mark.dashed === false ? "rule" : "rule dotted", d })];
  },
  line(mark, X, Y) {
    let d = "", pen = "M";
    mark.x.forEach((x, i) => {
      if (mark.y[i] === null || !Number.isFinite(Y(mark.y[i]))) { pen = "M"; return; }
      d += pen + fixed(X(x)) + " " + fixed(Y(mark.y[i])); pen = "L";
    });
    return [svg("path", { class: mark.dashed ? "line dashed" : "line", d })];
  },
  steps(mark, X, Y, box) {
    const floor = box.top + box.height, y = (h) => (h > 0 ? fixed(Math.min(floor, Y(h))) : floor);
    let d = `M${fixed(X(mark.edges[0]))} ${floor}`;
    mark.heights.forEach((h, i) => { d += `V${y(h)}H${fixed(X(mark.edges[i + 1]))}`; });
    d += `V${floor}`;
    return [...(mark.filled === false ? [] : [svg("path", { class: "fill", d })]), svg("path", { class: outline(mark), d })];
  },
  points(mark, X, Y) {
    const r = (mark.x.length > CROWDED ? 2.4 : 3.6) * (mark.grave ? 1.35 : 1), shape = SHAPES[mark.shape || "circle"], made = [];
    if (mark.low) {
      const bars = mark.x.map((x, i) => (mark.low[i] === null ? "" : `M${fixed(X(x))} ${fixed(Y(mark.low[i]))}V${fixed(Y(mark.high[i]))}`));
      made.push(svg("path", { class: mark.x.length > CROWDED ? "bars thin" : "bars", d: bars.join("") }));
    }
    const d = mark.x.map((x, i) => shape(X(x), Y(mark.y[i]), r)).join("");
    return [...made, svg("path", { class: dots(mark), d })];
  },
  field(mark, X, Y) {
    const dx = (mark.x[1] - mark.x[0]) / 2, dy = (mark.y[1] - mark.y[0]) / 2, shear = mark.shear || 0;
    const corner = (x, y) => `${fixed(X(x + shear * y))} ${fixed(Y(y))}`, of = mark.log ? Math.log : (v) => v;
    const span = of(mark.most) - of(mark.least) || 1;
    return mark.values.flatMap((row, i) => row.map((value, j) => {
      const x = mark.x[j], y = mark.y[i], share = value === null ? 0 : (of(value) - of(mark.least)) / span;
      const d = `M${corner(x - dx, y - dy)}L${corner(x + dx, y - dy)}L${corner(x + dx, y + dy)}L${corner(x - dx, y + dy)}Z`;
      const fill = `rgb(${cividis(share)})`;
      return svg("path", value === null ? { class: "none", d } : { class: "patch", fill, stroke: fill, d });
    }));
  },
  surface(mark, X, Y, box) {
    const turn = ((mark.turn ?? 35) * Math.PI) / 180, tilt = ((mark.tilt ?? 30) * Math.PI) / 180;
    const size = Math.min(box.width, box.height) / 2, mx = box.left + box.width / 2, my = box.top + box.height / 2;
    const seen = (x, y, z) => {
      const across = x * Math.cos(turn) - y * Math.sin(turn), away = x * Math.sin(turn) + y * Math.cos(turn);
      return [mx + size * across, my - size * (away * Math.sin(tilt) + (z - 0.5) * Math.cos(tilt)), away];
    };
    const place = (at, k) => -0.6 + (1.2 * (at[k] - at[0])) / (at[at.length - 1] - at[0]);
    const of = mark.log ? Math.log : (v) => v, span = of(mark.most) - of(mark.least) || 1;
    const share = (v) => Math.min(1, Math.max(0, (of(v) - of(mark.least)) / span));
    const shape = (points) => "M" + points.map(([x, y]) => `${fixed(x)} ${fixed(y)}`).join("L") + "Z";
    const quads = [];
    for (let i = 0; i + 1 < mark.y.length; i++) for (let j = 0; j + 1 < mark.x.length; j++) {
      const ends = [[i, j], [i, j + 1], [i + 1, j + 1], [i + 1, j]], values = ends.map(([a, b]) => mark.values[a][b]);
      if (values.includes(null)) continue;
      const points = ends.map(([a, b], k) => seen(place(mark.x, b), place(mark.y, a), share(values[k])));
      quads.push([points.reduce((sum, p) => sum + p[2], 0), points, values.reduce((sum, v) => sum + share(v), 0) / 4]);
    }
    quads.sort((a, b) => b[0] - a[0]);
    const floor = svg("path", { class: "floor", d: shape([[-0.6, -0.6], [0.6, -0.6], [0.6, 0.6], [-0.6, 0.6]].map(([x, y]) => seen(x, y, 0))) });
    const near = [Math.cos(turn), Math.sin(turn)].map((side) => (side < 0 ? 0.7 : -0.7)); // the front edges
    const words = [[0, near[0]], [near[1], 0]].map(([x, y], k) => {
      const [px, py] = seen(x, y, 0);
      return svg("text", { class: "label middle", x: fixed(px), y: fixed(py + 10) }, mark.names[k]);
    });
    return [floor, ...quads.map(([, points, mean]) => svg("path", { class: "quad", d: shape(points), fill: `rgb(${cividis(mean)})` })), ...words];
  },
  cells(mark, X, Y, box) {
    const width = Math.abs(X(1) - X(0)), height = Math.abs(Y(1) - Y(0));
    return mark.values.flatMap((row, i) => row.flatMap((value, j) => {
      const least = mark.least || 0, share = value === null ? 0 : (value - least) / (mark.most - least || 1), rgb = cividis(share);
      const x = fixed(X(j) - width / 2), y = fixed(Y(i) - height / 2);
      const cell = svg("rect", { x, y, width: fixed(width), height: fixed(height), ...(value === null ? { class: "none" } : { fill: `rgb(${rgb})` }) });
      const shown = value === null ? "–" : value.toFixed(2);
      const ink = value === null ? "tick" : share > 0.5 ? "dark" : "light";
      return row.length > 12 ? [cell] : [cell, svg("text", { class: "cell " + ink, x: fixed(X(j)), y: fixed(Y(i) + 4) }, shown)];
    }));
  },
};

function swatch(mark) {
  const box = svg("svg", { class: "swatch t-" + mark.tone, width: 22, height: 12, "aria-hidden": "true" });
  const drawn = {
    points: () => svg("path", { class: dots(mark), d: SHAPES[mark.shape || "circle"](11, 6, 3.6) }),
    steps: () => svg("path", { class: outline(mark) + (mark.filled === false ? "" : " fill-too"), d: "M1 11V3H21V11" }),
    line: () => svg("path", { class: mark.dashed ? "line dashed" : "line", d: "M1 6H21" }),
    rule: () => svg("path", { class: "rule dotted", d: "M1 6H21" }),
    band: () => svg("rect", { class: "band", x: 1, y: 1, width: 20, height: 10 }),
  }[mark.kind];
  if (drawn) box.append(drawn());
  return box;
}

function panel(root, picture, axis, marks, box, last) {
  const X = (v) => box.left + box.width * (box.x.at(v) - box.x.at(box.x.low)) / (box.x.at(box.x.high) - box.x.at(box.x.low));
  const turned = marks.some((mark) => mark.kind === "cells");
  const up = (v) => (box.y.at(v) - box.y.at(box.y.low)) / (box.y.at(box.y.high) - box.y.at(box.y.low));
  const Y = (v) => box.top + box.height * (turned ? up(v) : 1 - up(v));
  const grid = svg("g", { class: "grid" }), words = svg("g", { class: "ticks" });
  for (const v of box.yTicks) {
    if (!turned) grid.append(svg("path", { d: `M${box.left} ${fixed(Y(v))}h${box.width}` }));
    words.append(svg("text", { class: "tick end", x: box.left - 6, y: fixed(Y(v) + 4) }, box.y.category ? tailed(axis.ticks[v], box.left - 30) : tick(v)));
  }
  for (const v of box.xTicks) {
    if (!turned) grid.append(svg("path", { d: `M${fixed(X(v))} ${box.top}v${box.height}` }));
    if (!last) continue;
    const x = fixed(X(v)), y = box.top + box.height + 14, name = box.x.category ? picture.x.ticks[v] : tick(v);
    const shown = box.slanted ? tailed(name, x / 0.79) : name;
    words.append(svg("text", box.slanted ? { class: "tick end", transform: `translate(${x + 4} ${y - 2}) rotate(-38)` } : { class: "tick middle", x, y }, shown));
  }
  const clip = `clip${++clips}`;
  root.append(svg("clipPath", { id: clip }, svg("rect", { x: box.left - 4, y: box.top - 4, width: box.width + 8, height: box.height + 8 })));
  const drawn = svg("g", { "clip-path": `url(#${clip})` });
  for (const mark of marks) drawn.append(svg("g", { class: "t-" + mark.tone }, ...PENS[mark.kind](mark, X, Y, box)));
  words.append(svg("text", { class: "label middle", transform: `translate(12 ${fixed(box.top + box.height / 2)}) rotate(-90)` }, axis.label || ""));
  root.append(grid, ...(box.y.none ? [] : [svg("path", { class: "frame", d: `M${box.left} ${box.top}v${box.height}h${box.width}` })]), drawn, words);
  return marks.filter((m) => m.kind === "points" && m.notes).flatMap((m) => m.x.map((x, i) => (
    { x: X(x), y: Y(m.y[i]), note: m.notes[i], row: m.rows && m.rows[i] >= 0 ? m.rows[i] : undefined })));
}

function draw(picture, width, least) {
  const rows = Math.max(0, ...picture.marks.map((mark) => (mark.kind === "cells" ? mark.values.length : 0)));
  const tall = Math.max(least, 15 * rows);
  const count = picture.panels.length, each = tall / (count > 1 ? count * 0.62 : 1);
  const root = svg("svg", { role: "img", class: "chart" });
  const marksOf = (i) => picture.marks.filter((mark) => (mark.panel || 0) === i);
  const x = scale(picture.x, picture.marks.flatMap((mark) => extent(mark, "x")));
  const ys = picture.panels.map((axis, i) => scale(axis, marksOf(i).flatMap((mark) => extent(mark, "y"))));
  const yTicks = ys.map((y, i) => (y.none ? [] : y.category ? picture.panels[i].ticks.map((_, k) => k) : (y.log ? logTicks : linearTicks)(y.low, y.high, Math.max(3, each / 40))));
  const longest = Math.max(...yTicks.flatMap((ticks, i) => ticks.map((v) => (ys[i].category ? picture.panels[i].ticks[v] : tick(v)).length)), 3);
  const left = Math.min(width * 0.4, 30 + longest * FONT), right = 14, wide = width - left - right;
  const whole = (ticks) => (picture.x.whole ? ticks.filter(Number.isInteger) : ticks);
  let xTicks = x.none ? [] : x.category ? picture.x.ticks.map((_, k) => k) : (x.log ? logTicks : linearTicks)(x.low, x.high, wide / 70);
  xTicks = whole(xTicks).filter((v) => v >= x.low && v <= x.high);
  const widest = x.category ? Math.max(...picture.x.ticks.map((t) => t.length)) * FONT : 0;
  const slanted = x.category && widest > wide / Math.max(xTicks.length, 1);
  const foot = 34 + (slanted ? Math.min(110, widest * 0.64) : 0);
  let top = 10;
  const spots = [];
  picture.panels.forEach((axis, i) => {
    const box = { left, width: wide, top, height: each, x, y: ys[i], xTicks, yTicks: yTicks[i].filter((v) => v >= ys[i].low && v <= ys[i].high), slanted };
    spots.push(...panel(root, picture, axis, marksOf(i), box, i === count - 1));
    top += each + (i === count - 1 ? 0 : 18);
  });
  const height = Math.round(top + foot);
  root.append(svg("text", { class: "label middle", x: fixed(left + wide / 2), y: height - 4 }, picture.x.label || ""));
  root.setAttribute("viewBox", `0 0 ${Math.round(width)} ${height}`);
  return { root, spots };
}

// Create a figure: caption, legend, drawing, notes. Clicking a point of a layer calls `open(row)`.
function chart(picture, open, tall = 230) {
  const title = html("strong", {}, picture.title), about = html("span", { class: "about" }, picture.about);
  const figure = html("figure", { class: "picture", "data-name": picture.name }, html("figcaption", {}, title, about));
  if (picture.empty) {
    figure.append(html("p", { class: "empty" }, picture.empty));
    return figure;
  }
  const scaled = (mark) => ["cells", "field", "surface"].includes(mark.kind); // drawn with a color scale, not a single color
  const entries = picture.marks.filter((mark) => mark.label && !scaled(mark));
  if (entries.length) {
    figure.append(html("ul", { class: "legend" }, ...entries.map((mark) => html("li", {}, swatch(mark), mark.label))));
  }
  const room = html("div", { class: "room" }), tip = html("div", { class: "tip", "aria-hidden": "true", hidden: "" });
  figure.append(room);
  const short = (value) => Number(value.toPrecision(3));
  const scales = picture.marks.filter((mark) => scaled(mark) && mark.label).map((mark) => (
    mark.kind !== "cells" ? `${mark.label}: ${short(mark.least || 0)} (dark) to ${short(mark.most)} (light)${mark.log ? ", logarithmic scale" : ""}` : mark.label));
  for (const note of [...scales, ...(picture.notes || [])]) figure.append(html("p", { class: "note" }, note));
  let spots = [], before = 0;
  const nearest = (event) => {
    const frame = room.firstChild.getBoundingClientRect(), zoom = before / frame.width;
    const [px, py] = [(event.clientX - frame.left) * zoom, (event.clientY - frame.top) * zoom];
    let best, least = REACH * REACH;
    for (const spot of spots) {
      const far = (spot.x - px) ** 2 + (spot.y - py) ** 2;
      if (far < least) [best, least] = [spot, far];
    }
    return best;
  };
  room.addEventListener("pointermove", (event) => {
    const spot = nearest(event);
    tip.hidden = !spot;
    room.classList.toggle("pointing", Boolean(spot && spot.row !== undefined));
    if (!spot) return;
    tip.textContent = spot.note;
    tip.style.left = Math.min(Math.max(0, spot.x - 40), Math.max(0, before - tip.offsetWidth - 4)) + "px";
    tip.style.top = spot.y + 12 + "px";
  });
  room.addEventListener("pointerleave", () => { tip.hidden = true; });
  room.addEventListener("click", (event) => {
    const spot = nearest(event);
    if (spot && spot.row !== undefined) open(spot.row);
  });
  const description = `${picture.title}${picture.of ? " of " + picture.of : ""}; ${picture.about}. ${entries.map((mark) => mark.label).join("; ")}`;
  const redraw = () => {
    const drawn = draw(picture, before, tall);
    drawn.root.setAttribute("aria-label", description);
    spots = drawn.spots;
    room.replaceChildren(drawn.root, tip);
  };
  new ResizeObserver(([entry]) => {
    const width = Math.round(entry.contentRect.width);
    if (width < 40 || width === before) return;
    before = width;
    redraw();
  }).observe(room);
  const solid = picture.marks.find((mark) => mark.kind === "surface");
  if (solid) turning(solid, room, redraw, figure);
  return figure;
}

// Rotate a surface by dragging it, or with the arrow keys while it has the focus.
function turning(mark, room, redraw, figure) {
  const turn = (across, up) => {
    mark.turn = (mark.turn ?? 35) + across;
    mark.tilt = Math.min(90, Math.max(0, (mark.tilt ?? 30) + up));
    redraw();
  };
  let held = null;
  room.classList.add("solid");
  room.setAttribute("tabindex", "0");
  room.setAttribute("role", "application");
  room.setAttribute("aria-label", "Surface plot: rotate it with the arrow keys");
  room.addEventListener("pointerdown", (event) => { held = [event.clientX, event.clientY]; room.setPointerCapture(event.pointerId); });
  room.addEventListener("pointermove", (event) => {
    if (!held) return;
    turn((event.clientX - held[0]) * -0.5, (event.clientY - held[1]) * 0.5);
    held = [event.clientX, event.clientY];
  });
  room.addEventListener("pointerup", () => { held = null; });
  room.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [10, 0], ArrowRight: [-10, 0], ArrowUp: [0, 10], ArrowDown: [0, -10] }[event.key];
    if (!step) return;
    event.preventDefault();
    turn(...step);
  });
  figure.append(html("p", { class: "note" }, "Drag the surface to rotate it, or use the arrow keys."));
}
