"use strict";
/* The page: what is drawn becomes pixels, the pixels go through the network, and all is shown. */
const spec = JSON.parse(document.getElementById("network").textContent);
const network = new Network(spec, document.getElementById("weights").textContent.trim());
const side = spec.side;
const paper = document.getElementById("paper");
const pen = paper.getContext("2d", { willReadFrequently: true });
const size = paper.width;
const seen = document.getElementById("seen");

/* What was done, each a line of points or a whole image; undo takes the last one back. */
const history = [];
let line = null; // that is being drawn
let answered = null;

/** Probabilities of side × side plain pixels, 0 to 255, row by row, light on dark. */
function classify(pixels) {
  return network.classify(pixels);
}

/** Put side × side plain pixels on the paper as they are; returns their probabilities. */
function show(pixels) {
  history.push({ pixels: Uint8Array.from(pixels) });
  return look();
}

/** Look at the paper: returns the probabilities, after all views show it. */
function look() {
  const done = current();
  redraw(done);
  const pixels =
    done.length === 1 && done[0].pixels ? done[0].pixels : likeMnist(readInk(), size, side);
  const blank = pixels.every((pixel) => pixel === 0);
  const values = network.run(pixels);
  const probabilities = softmax(values[values.length - 1]);
  paint(seen, pixels, side, side, 255);
  for (const view of views) view.update(blank ? null : values[view.number]);
  showBars(blank ? null : probabilities);
  document.body.classList.toggle("blank", blank);
  undo.disabled = history.length === 0;
  clear.disabled = blank;
  return probabilities;
}

/** What is on the paper: the last whole image and the lines after it. */
function current() {
  let first = history.length - 1;
  while (first > 0 && !history[first].pixels) first--;
  return history.slice(Math.max(first, 0));
}

function redraw(done) {
  pen.clearRect(0, 0, size, size);
  const ink = colour("--ink");
  pen.strokeStyle = pen.fillStyle = `rgb(${ink})`;
  pen.lineWidth = size / 13;
  pen.lineCap = pen.lineJoin = "round";
  for (const { pixels, points } of done) {
    if (pixels) {
      const cell = size / side;
      pixels.forEach((pixel, i) => {
        if (!pixel) return;
        pen.globalAlpha = pixel / 255;
        pen.fillRect((i % side) * cell, Math.floor(i / side) * cell, cell, cell);
      });
      pen.globalAlpha = 1;
    } else {
      pen.beginPath();
      const [[x, y], ...rest] = points;
      pen.moveTo(x, y);
      if (!rest.length) pen.lineTo(x, y + 0.1);
      rest.forEach(([x1, y1], i) => {
        const [x2, y2] = rest[i + 1] || [x1, y1]; // through the middles, so that corners are round
        pen.quadraticCurveTo(x1, y1, (x1 + x2) / 2, (y1 + y2) / 2);
      });
      pen.stroke();
    }
  }
}

function readInk() {
  const { data } = pen.getImageData(0, 0, size, size);
  const ink = new Uint8Array(size * size);
  for (let i = 0; i < ink.length; i++) ink[i] = data[4 * i + 3];
  return ink;
}

/* Colours come from the style sheet, so that light and dark are its business alone. */
let colours = {};
function colour(name) {
  colours[name] ||= getComputedStyle(document.body).getPropertyValue(name).trim();
  return colours[name];
}

/** Numbers as colours: one hue above zero, another below, paler the nearer. */
function paint(canvas, values, width, height, limit, first = 0, gamma = 1) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const [above, below] = ["--above", "--below"].map((name) => colour(name).split(",").map(Number));
  for (let i = 0; i < width * height; i++) {
    const value = values ? values[first + i] : 0;
    const [red, green, blue] = value < 0 ? below : above;
    image.data.set([red, green, blue, 255 * (Math.abs(value) / limit) ** gamma], 4 * i);
  }
  context.putImageData(image, 0, 0);
}

const make = (tag, parent, text = "", name = "") => {
  const element = parent.appendChild(document.createElement(tag));
  element.textContent = text;
  if (name) element.className = name;
  return element;
};

/* ---- the layers ---- */

const GAMMA = 0.7; // makes small numbers of a layer visible beside its largest
const COLUMNS = 42; // of a layer without rows and columns of its own
const CELL = 24;
const QUIET = ["reshape", "part", "cat"]; // what changes no number
const ACTIVATIONS = ["relu", "leaky_relu", "tanh", "sigmoid", "silu"];

/** The steps worth seeing: an activation is shown with what it is applied to. */
function visible() {
  const found = [];
  const steps = spec.steps.slice(0, -1); // the last one's numbers are the bars
  steps.forEach((step, i) => {
    const before = found[found.length - 1];
    const follows = before && step.from.length === 1 && step.from[0] === before.number;
    if (QUIET.includes(step.op)) return;
    if (follows && (ACTIVATIONS.includes(step.op) || step.op === "scale")) {
      before.number = i + 1;
      before.types.push(step.type || step.op);
    } else {
      const types = [step.type || step.op];
      found.push({ name: step.name || step.op, types, number: i + 1, shape: step.shape });
    }
  });
  return found;
}

/** The views of one layer: a canvas for each map, or one for numbers that have no place. */
function view({ name, types, number, shape }) {
  const layer = make("article", document.getElementById("layers"), "", "layer");
  const label = make("header", layer);
  make("h3", label, name);
  make("p", label, types.join(" + "));
  make("p", label, shape.join(" × "));
  const maps = make("div", layer, "", "maps");
  const flat = shape.filter((length) => length > 1).length < 2;
  const [height, width] = flat ? [1, 1] : shape.slice(-2);
  const total = shape.reduce((a, b) => a * b, 1);
  const canvases = [];
  if (flat) {
    const canvas = make("canvas", maps, "", "cells");
    canvas.width = CELL * Math.min(total, COLUMNS);
    canvas.height = CELL * Math.ceil(total / COLUMNS);
    canvases.push(canvas);
  } else {
    const wide = Math.round(48 + 2.3 * height) * (width / height);
    if (total > 8 * height * width) maps.style.maxWidth = `${8 * (wide + 5)}px`; // rows of eight
    for (let i = 0; i < total / (height * width); i++) {
      const canvas = make("canvas", maps, "", "map");
      [canvas.width, canvas.height] = [width, height];
      canvas.style.setProperty("--width", `${wide}px`);
      canvases.push(canvas);
    }
  }
  maps.setAttribute("role", "img");
  maps.setAttribute("aria-label", `what ${name} computes`);

  return {
    number,
    update(values) {
      const limit = values ? values.reduce((top, value) => Math.max(top, Math.abs(value)), 1e-9) : 1;
      if (flat) return cells(canvases[0], values, total, limit);
      canvases.forEach((canvas, i) =>
        paint(canvas, values, width, height, limit, i * width * height, GAMMA),
      );
    },
  };
}

/** Numbers without a place, as rows of squares. */
function cells(canvas, values, total, limit) {
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  for (let i = 0; i < total; i++) {
    const value = values ? values[i] : 0;
    const [x, y] = [CELL * (i % COLUMNS), CELL * Math.floor(i / COLUMNS)];
    const strength = (Math.abs(value) / limit) ** GAMMA;
    context.fillStyle = `rgb(${colour("--empty")})`;
    context.fillRect(x, y, CELL - 4, CELL - 4);
    context.fillStyle = `rgba(${colour(value < 0 ? "--below" : "--above")}, ${strength})`;
    context.fillRect(x, y, CELL - 4, CELL - 4);
  }
}

/* ---- the answer ---- */

const bars = spec.classes.map((name) => {
  const row = make("li", document.getElementById("bars"));
  make("span", row, name, "name");
  const fill = make("span", make("span", row, "", "track"), "", "fill");
  return { row, fill, share: make("span", row, "", "share") };
});

const percent = (share) => `${(100 * share).toFixed(1)} %`;

function showBars(probabilities) {
  const best = probabilities ? probabilities.indexOf(Math.max(...probabilities)) : -1;
  bars.forEach(({ row, fill, share }, i) => {
    const value = probabilities ? probabilities[i] : 0;
    fill.style.transform = `scaleX(${value})`;
    share.textContent = probabilities ? percent(value) : "–";
    row.classList.toggle("best", i === best);
  });
  const answer = probabilities ? spec.classes[best] : "";
  document.getElementById("verdict").textContent = answer || "?";
  document.getElementById("sure").textContent = answer ? percent(probabilities[best]) : "";
  clearTimeout(answered); // told to those who listen once the pen rests
  answered = setTimeout(() => {
    document.getElementById("spoken").textContent = answer
      ? `${answer}, ${percent(probabilities[best])}`
      : "";
  }, 700);
}

/* ---- pen, buttons and keys ---- */

function point(event) {
  const box = paper.getBoundingClientRect();
  const scale = size / box.width;
  return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
}

let due = false;
function soon() {
  if (due) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    look();
  });
}

paper.addEventListener("pointerdown", (event) => {
  if (event.button !== 0 || line) return;
  event.preventDefault();
  paper.setPointerCapture(event.pointerId);
  line = { id: event.pointerId, points: [point(event)] };
  history.push(line);
  soon();
});
paper.addEventListener("pointermove", (event) => {
  if (!line || event.pointerId !== line.id) return;
  const all = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
  line.points.push(...(all.length ? all : [event]).map(point));
  soon();
});
for (const name of ["pointerup", "pointercancel"]) {
  paper.addEventListener(name, (event) => {
    if (line && event.pointerId === line.id) line = null;
  });
}
paper.addEventListener("touchstart", (event) => event.preventDefault(), { passive: false });

const undo = document.getElementById("undo");
const clear = document.getElementById("clear");
undo.addEventListener("click", () => {
  history.pop();
  look();
});
clear.addEventListener("click", () => show(new Uint8Array(side * side)));
document.addEventListener("keydown", (event) => {
  if (event.key.toLowerCase() === "z" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    undo.click();
  } else if (["Escape", "Delete", "Backspace"].includes(event.key)) {
    event.preventDefault();
    clear.click();
  }
});

/* ---- test images to begin with ---- */

const drawer = document.getElementById("samples");
const thumbnails = spec.samples.map(({ label, pixels }) => {
  const button = make("button", drawer);
  const data = Uint8Array.from(atob(pixels), (character) => character.charCodeAt(0));
  const canvas = make("canvas", button);
  canvas.width = canvas.height = side;
  button.title = `a test image of ${label}`;
  button.setAttribute("aria-label", button.title);
  button.addEventListener("click", () => show(data));
  return () => paint(canvas, data, side, side, 255);
});

const views = visible().map(view);

function start() {
  colours = {};
  thumbnails.forEach((repaint) => repaint());
  look();
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", start);
start();
