"use strict";
/* The page: turns the drawing into pixels, runs the network on them and shows every layer. */
const spec = JSON.parse(document.getElementById("network").textContent);
const network = new Network(spec, document.getElementById("weights").textContent.trim());
const side = spec.side;
const [drawing, input, undo, clear] = ["drawing", "input", "undo", "clear"].map((id) =>
  document.getElementById(id),
);
const context = drawing.getContext("2d", { willReadFrequently: true });
const size = drawing.width;

/* The user's actions in order, for undo: strokes, as lists of points, and images. */
const actions = [];
let stroke = null; // the one being drawn

/** Returns class probabilities for side × side pixels from 0 to 255, row by row, light on dark. */
const classify = (pixels) => network.classify(pixels);

/** Replaces the drawing with side × side pixels; returns the class probabilities. */
function show(pixels) {
  actions.push({ pixels: Uint8Array.from(pixels) });
  return update();
}

/** Runs the network on the drawing and updates the page; returns the class probabilities. */
function update() {
  const visible = visibleActions();
  redraw(visible);
  const image = visible.length === 1 && visible[0].pixels;
  const pixels = image || preprocess(readDrawing(), size, side);
  const blank = pixels.every((pixel) => pixel === 0);
  const values = network.run(pixels);
  const probabilities = softmax(values.at(-1));
  paint(input, pixels, 255);
  const shown = blank ? values.map(({ length }) => new Float32Array(length)) : values;
  for (const view of views) view(shown);
  showPrediction(blank ? null : probabilities);
  document.body.classList.toggle("blank", blank);
  undo.disabled = actions.length === 0;
  clear.disabled = blank;
  return probabilities;
}

/** The last image and the strokes after it. */
function visibleActions() {
  return actions.slice(Math.max(actions.findLastIndex(({ pixels }) => pixels), 0));
}

function redraw(visible) {
  context.clearRect(0, 0, size, size);
  context.strokeStyle = context.fillStyle = `rgb(${colours.stroke})`;
  context.lineWidth = size / 13;
  context.lineCap = context.lineJoin = "round";
  for (const { pixels, points } of visible) {
    if (pixels) {
      const cell = size / side;
      pixels.forEach((pixel, i) => {
        if (!pixel) return;
        context.globalAlpha = pixel / 255;
        context.fillRect((i % side) * cell, Math.floor(i / side) * cell, cell, cell);
      });
      context.globalAlpha = 1;
    } else {
      context.beginPath();
      const [[x, y], ...rest] = points;
      context.moveTo(x, y);
      if (!rest.length) context.lineTo(x, y + 0.1);
      rest.forEach(([x1, y1], i) => {
        const [x2, y2] = rest[i + 1] || [x1, y1]; // curves between midpoints have no corners
        context.quadraticCurveTo(x1, y1, (x1 + x2) / 2, (y1 + y2) / 2);
      });
      context.stroke();
    }
  }
}

/** The drawing as size × size values from 0 (background) to 255. */
function readDrawing() {
  const { data } = context.getImageData(0, 0, size, size);
  const values = new Uint8Array(size * size);
  for (let i = 0; i < values.length; i++) values[i] = data[4 * i + 3];
  return values;
}

/* Red, green and blue, from the style sheet, which has them for light and dark mode. */
const colours = {};

/** Paints values as colours: the sign is the hue, the absolute value the opacity. */
function paint(canvas, values, limit, gamma = 1) {
  const target = canvas.getContext("2d");
  const image = target.createImageData(canvas.width, canvas.height);
  values.forEach((value, i) => {
    const colour = value < 0 ? colours.negative : colours.positive;
    image.data.set([...colour, 255 * (Math.abs(value) / limit) ** gamma], 4 * i);
  });
  target.putImageData(image, 0, 0);
}

const append = (tag, parent, properties) =>
  Object.assign(parent.appendChild(document.createElement(tag)), properties);

/* ---- layers ---- */

const GAMMA = 0.7; // makes small values visible next to large ones
const COLUMNS = 42; // per row, for a layer without spatial dimensions
const CELL = 24;
const SELECTING = ["select", "slice", "unbind_item", "cat"]; // not shown: they change no values
const ACTIVATIONS = ["relu", "leaky_relu", "tanh", "sigmoid", "silu"];

/** The layers to show; activations and batch norms are merged into the preceding layer. */
function findLayers() {
  const layers = [];
  const steps = spec.steps.slice(0, -1); // the last step computes the logits
  steps.forEach((step, i) => {
    const previous = layers.at(-1);
    const [input] = Object.values(step.args);
    const follows = previous && input.value === previous.index;
    if (SELECTING.includes(step.op)) return;
    if (follows && [...ACTIVATIONS, "batch_norm"].includes(step.op)) {
      previous.index = i + 1;
      previous.types.push(step.type || step.op);
    } else {
      const types = [step.type || step.op];
      const batch = step.shape.indexOf(1); // the first axis, but the second of an LSTM's states
      const shape = step.shape.filter((_, axis) => axis !== batch);
      layers.push({ name: step.name || step.op, types, index: i + 1, shape });
    }
  });
  return layers;
}

/** Creates the canvases of a layer; returns a function that paints the outputs of all steps. */
function createView({ name, types, index, shape }) {
  const layer = append("article", document.getElementById("layers"), { className: "layer" });
  const label = append("header", layer);
  append("h3", label, { textContent: name });
  append("p", label, { textContent: types.join(" + ") });
  append("p", label, { textContent: shape.join(" × ") });
  const description = { className: "maps", role: "img", ariaLabel: `output of ${name}` };
  const maps = append("div", layer, description);
  const total = product(shape);
  if (shape.filter((length) => length > 1).length < 2) {
    const [columns, rows] = [Math.min(total, COLUMNS), Math.ceil(total / COLUMNS)];
    const size = { width: CELL * columns, height: CELL * rows };
    const canvas = append("canvas", maps, { className: "cells", ...size });
    return (outputs) => paintCells(canvas, outputs[index]);
  }
  const [height, width] = shape.slice(-2);
  const size = height * width;
  const canvases = Array.from({ length: total / size }, () =>
    append("canvas", maps, { className: "map", width, height }),
  );
  const displayWidth = Math.round(48 + 2.3 * height) * (width / height);
  maps.style.setProperty("--width", `${displayWidth}px`);
  // more than eight maps are shown in rows of eight
  if (canvases.length > 8) maps.style.maxWidth = `${8 * (displayWidth + 5)}px`;
  return (outputs) => {
    const limit = largest(outputs[index]);
    canvases.forEach((canvas, i) =>
      paint(canvas, outputs[index].subarray(i * size, (i + 1) * size), limit, GAMMA),
    );
  };
}

/** The largest absolute value, to divide by. */
const largest = (values) => values.reduce((top, value) => Math.max(top, Math.abs(value)), 1e-9);

/** Paints a vector as rows of squares. */
function paintCells(canvas, values) {
  const target = canvas.getContext("2d");
  const limit = largest(values);
  values.forEach((value, i) => {
    const [x, y] = [CELL * (i % COLUMNS), CELL * Math.floor(i / COLUMNS)];
    const opacity = (Math.abs(value) / limit) ** GAMMA;
    target.fillStyle = `rgb(${colours.empty})`;
    target.fillRect(x, y, CELL - 4, CELL - 4);
    target.fillStyle = `rgba(${value < 0 ? colours.negative : colours.positive}, ${opacity})`;
    target.fillRect(x, y, CELL - 4, CELL - 4);
  });
}

/* ---- prediction ---- */

const bars = spec.classes.map((name) => {
  const row = append("li", document.getElementById("probabilities"));
  append("span", row, { className: "name", textContent: name });
  const fill = append("span", append("span", row, { className: "track" }), { className: "fill" });
  return { row, fill, percentage: append("span", row, { className: "percentage" }) };
});

const percent = (fraction) => `${(100 * fraction).toFixed(1)} %`;

let announcement = null; // a timer
function showPrediction(probabilities) {
  const best = probabilities ? probabilities.indexOf(Math.max(...probabilities)) : -1;
  bars.forEach(({ row, fill, percentage }, i) => {
    fill.style.transform = `scaleX(${probabilities ? probabilities[i] : 0})`;
    percentage.textContent = probabilities ? percent(probabilities[i]) : "–";
    row.classList.toggle("best", i === best);
  });
  const name = probabilities ? spec.classes[best] : "?";
  const confidence = probabilities ? percent(probabilities[best]) : "– %";
  document.getElementById("prediction").textContent = name;
  document.getElementById("confidence").textContent = confidence;
  clearTimeout(announcement); // screen readers announce the prediction after a pause
  announcement = setTimeout(() => {
    document.getElementById("announcement").textContent = probabilities ? `${name}, ${confidence}` : "";
  }, 700);
}

/* ---- pen, buttons and keys ---- */

function position(event) {
  const box = drawing.getBoundingClientRect();
  const scale = size / box.width;
  return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
}

let frame = 0;
function scheduleUpdate() {
  cancelAnimationFrame(frame); // at most one update per frame
  frame = requestAnimationFrame(update);
}

drawing.addEventListener("pointerdown", (event) => {
  if (event.button !== 0 || stroke) return;
  event.preventDefault();
  drawing.setPointerCapture(event.pointerId);
  stroke = { id: event.pointerId, points: [position(event)] };
  actions.push(stroke);
  scheduleUpdate();
});
drawing.addEventListener("pointermove", (event) => {
  if (event.pointerId !== stroke?.id) return;
  const events = event.getCoalescedEvents?.() ?? [];
  stroke.points.push(...(events.length ? events : [event]).map(position));
  scheduleUpdate();
});
for (const name of ["pointerup", "pointercancel"]) {
  drawing.addEventListener(name, (event) => {
    if (event.pointerId === stroke?.id) stroke = null;
  });
}
drawing.addEventListener("touchstart", (event) => event.preventDefault(), { passive: false });

undo.addEventListener("click", () => {
  actions.pop();
  update();
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

/* ---- examples ---- */

const thumbnails = spec.examples.map(({ label, pixels }) => {
  const [data, title] = [decode(pixels), `example of class ${label}`];
  const button = append("button", document.getElementById("examples"), { title, ariaLabel: title });
  const canvas = append("canvas", button, { width: side, height: side });
  button.addEventListener("click", () => show(data));
  return () => paint(canvas, data, 255);
});

const views = findLayers().map(createView);

function start() {
  const style = getComputedStyle(document.body);
  for (const name of ["stroke", "positive", "negative", "empty"]) {
    colours[name] = style.getPropertyValue(`--${name}`).split(",").map(Number);
  }
  thumbnails.forEach((repaint) => repaint());
  update();
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", start);
start();
