"use strict";
/* Runs a network, given as a list of steps, on one image, without a library. */
class Network {
  /** spec: classes, mean, std, side and steps; weights: little-endian float32 in base64. */
  constructor(spec, weights) {
    Object.assign(this, spec);
    this.weights = new Float32Array(decode(weights).buffer);
  }

  /** Outputs of all steps for pixels from 0 to 255; the first is the normalised image. */
  run(pixels) {
    const values = [Float32Array.from(pixels, (pixel) => (pixel / 255 - this.mean) / this.std)];
    const resolve = (argument) => {
      if (Array.isArray(argument)) return argument.map(resolve);
      if (!(argument instanceof Object)) return argument;
      const { value, offset, shape } = argument; // a step's output or weights, as this shape
      const data = values[value] || this.weights.subarray(offset, offset + product(shape));
      return { data, shape };
    };
    for (const { op, args, shape } of this.steps) {
      const named = Object.entries(args).map(([name, argument]) => [name, resolve(argument)]);
      const output = new Float32Array(product(shape));
      OPERATIONS[op](Object.fromEntries(named), output, shape);
      values.push(output);
    }
    return values;
  }

  /** The probability of each class for pixels from 0 to 255. */
  classify(pixels) {
    return softmax(this.run(pixels).pop());
  }
}

const decode = (base64) => Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));

const product = (shape) => shape.reduce((a, b) => a * b, 1);

function softmax(logits) {
  const max = Math.max(...logits);
  const exponentials = Array.from(logits, (logit) => Math.exp(logit - max));
  const sum = exponentials.reduce((a, b) => a + b, 0);
  return exponentials.map((exponential) => exponential / sum);
}

const sigmoid = (x) => 1 / (1 + Math.exp(-x));

/* ---- operations of ATen: (arguments by name, output, its shape) ---- */

const elementwise = (f) => (args, output) => {
  args.self.data.forEach((x, i) => (output[i] = f(x, args)));
};

function conv2d({ input, weight, bias, stride, padding }, output, [, filters, rows, columns]) {
  const [, channels, height, width] = input.shape;
  const kernel = weight.shape.slice(2);
  const [strideY, strideX = strideY] = stride;
  if (padding === "valid") padding = [0, 0];
  if (padding === "same") padding = kernel.map((side) => (side - 1) >> 1); // less in front
  const [top, left = top] = padding;
  let k = 0;
  for (let filter = 0; filter < filters; filter++) {
    const map = output.subarray(filter * rows * columns, (filter + 1) * rows * columns);
    if (bias) map.fill(bias.data[filter]);
    for (let channel = 0; channel < channels; channel++) {
      for (let u = 0; u < kernel[0]; u++) {
        for (let v = 0; v < kernel[1]; v++) {
          const w = weight.data[k++];
          // the output columns whose input pixel is not padding
          const first = Math.max(0, Math.ceil((left - v) / strideX));
          const last = Math.min(columns - 1, Math.floor((width - 1 + left - v) / strideX));
          for (let row = 0; row < rows; row++) {
            const y = row * strideY + u - top;
            if (y < 0 || y >= height) continue;
            const from = (channel * height + y) * width + v - left;
            const to = row * columns;
            for (let column = first; column <= last; column++) {
              map[to + column] += w * input.data[from + column * strideX];
            }
          }
        }
      }
    }
  }
}

/** Reduces each window of each map; `bounds` returns a window's first and last + 1 row. */
const pool = (bounds, reduce) => (args, output, [, channels, ...size]) => {
  const { data, shape } = args.self;
  const windows = [0, 1].map((axis) =>
    Array.from({ length: size[axis] }, (_, i) => bounds(i, axis, args, shape[axis + 2], size[axis])),
  );
  let i = 0;
  for (let channel = 0; channel < channels; channel++) {
    for (const [top, bottom] of windows[0]) {
      for (const [left, right] of windows[1]) {
        const values = [];
        for (let y = Math.max(0, top); y < Math.min(bottom, shape[2]); y++) {
          const row = (channel * shape[2] + y) * shape[3];
          for (let x = Math.max(0, left); x < Math.min(right, shape[3]); x++) {
            values.push(data[row + x]);
          }
        }
        output[i++] = reduce(values, args.count_include_pad && (bottom - top) * (right - left));
      }
    }
  }
};

function strided(i, axis, { kernel_size: kernel, stride, padding }) {
  const at = (list) => list[axis] ?? list[0];
  const first = i * at(stride.length ? stride : kernel) - at(padding);
  return [first, first + at(kernel)];
}

const adaptive = (i, axis, args, length, count) =>
  [Math.floor((i * length) / count), Math.ceil(((i + 1) * length) / count)];

const maximum = (values) => Math.max(...values);

const mean = (values, count) => values.reduce((a, b) => a + b, 0) / (count || values.length);

function linear({ input, weight, bias }, output) {
  const [outputs, inputs] = weight.shape;
  for (let k = 0; k < output.length; k++) {
    const [from, j] = [Math.floor(k / outputs) * inputs, k % outputs];
    let sum = bias ? bias.data[j] : 0;
    for (let i = 0; i < inputs; i++) sum += weight.data[j * inputs + i] * input.data[from + i];
    output[k] = sum;
  }
}

function batch_norm({ input, weight, bias, running_mean, running_var, eps }, output, [, channels]) {
  const size = output.length / channels;
  input.data.forEach((x, i) => {
    const c = Math.floor(i / size);
    const scaled = (x - running_mean.data[c]) / Math.sqrt(running_var.data[c] + eps);
    output[i] = scaled * (weight ? weight.data[c] : 1) + (bias ? bias.data[c] : 0);
  });
}

/** The gates are in PyTorch's order: input, forget, cell, output. */
function lstm({ input, params, bidirectional, index }, output) {
  const times = input.shape[1];
  const directions = bidirectional ? 2 : 1;
  const [states, cells] = [[], []];
  let x = input.data;
  for (let first = 0; first < params.length; first += 4 * directions) {
    const inputs = x.length / times;
    const hidden = params[first].shape[0] / 4;
    const sequence = new Float32Array(times * directions * hidden);
    for (let direction = 0; direction < directions; direction++) {
      const [wInput, wState, bInput, bState] = params
        .slice(first + 4 * direction)
        .map(({ data }) => data);
      let state = new Float32Array(hidden);
      const cell = new Float32Array(hidden);
      const gates = new Float64Array(4 * hidden);
      for (let t = 0; t < times; t++) {
        const time = direction ? times - 1 - t : t;
        for (let g = 0; g < gates.length; g++) {
          let sum = bInput[g] + bState[g];
          for (let i = 0; i < inputs; i++) sum += wInput[g * inputs + i] * x[time * inputs + i];
          for (let i = 0; i < hidden; i++) sum += wState[g * hidden + i] * state[i];
          gates[g] = sum;
        }
        state = new Float32Array(hidden);
        for (let h = 0; h < hidden; h++) {
          const [i, f, g, o] = [0, 1, 2, 3].map((gate) => gates[gate * hidden + h]);
          cell[h] = sigmoid(f) * cell[h] + sigmoid(i) * Math.tanh(g);
          state[h] = sigmoid(o) * Math.tanh(cell[h]);
        }
        sequence.set(state, (time * directions + direction) * hidden);
      }
      states.push(...state);
      cells.push(...cell);
    }
    x = sequence;
  }
  output.set([x, states, cells][index]);
}

/** Selects one index of an axis, or those from `start` up to `end`, exclusive. */
function narrow({ self, dim, index, start, end }, output) {
  const axis = dim < 0 ? dim + self.shape.length : dim;
  const length = self.shape[axis];
  const inner = product(self.shape.slice(axis + 1));
  const limit = (i) => Math.max(0, Math.min(i < 0 ? i + length : i, length));
  const first = limit(index ?? start ?? 0);
  const last = index === undefined ? limit(end ?? length) : first + 1;
  const size = (last - first) * inner;
  for (let outer = 0; outer * size < output.length; outer++) {
    const offset = (outer * length + first) * inner;
    output.set(self.data.subarray(offset, offset + size), outer * size);
  }
}

function cat({ tensors, dim }, output, shape) {
  const outer = product(shape.slice(0, dim < 0 ? dim + shape.length : dim));
  let offset = 0;
  for (let i = 0; i < outer; i++) {
    for (const { data } of tensors) {
      const size = data.length / outer;
      output.set(data.subarray(i * size, (i + 1) * size), offset);
      offset += size;
    }
  }
}

const OPERATIONS = {
  conv2d,
  max_pool2d: pool(strided, maximum),
  avg_pool2d: pool(strided, mean),
  adaptive_avg_pool2d: pool(adaptive, mean),
  linear,
  batch_norm,
  lstm_item: lstm,
  select: narrow,
  slice: narrow,
  unbind_item: narrow,
  cat,
  add: ({ self, other }, output) => output.forEach((_, i) => (output[i] = self.data[i] + other.data[i])),
  relu: elementwise((x) => Math.max(x, 0)),
  leaky_relu: elementwise((x, { negative_slope }) => (x > 0 ? x : negative_slope * x)),
  tanh: elementwise(Math.tanh),
  sigmoid: elementwise(sigmoid),
  silu: elementwise((x) => x * sigmoid(x)),
};

/**
 * Preprocesses a drawing like the digits of MNIST: crops it, scales its longer side to 20 of 28
 * pixels by area averaging, and centres it by its centre of mass (LeCun et al., Proc. IEEE 86
 * (1998), p. 2287).
 *
 * drawing: size × size values from 0 (background) to 255, row by row; returns side × side.
 */
function preprocess(drawing, size, side) {
  const pixels = new Uint8Array(side * side);
  let [top, bottom, left, right] = [size, -1, size, -1];
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      if (drawing[y * size + x] > 16) {
        [top, bottom] = [Math.min(top, y), Math.max(bottom, y)];
        [left, right] = [Math.min(left, x), Math.max(right, x)];
      }
    }
  }
  if (bottom < 0) return pixels;
  const [height, width] = [bottom - top + 1, right - left + 1];
  const factor = Math.round((side * 20) / 28) / Math.max(height, width);
  const rows = Math.max(1, Math.round(height * factor));
  const columns = Math.max(1, Math.round(width * factor));
  const scaled = new Float64Array(rows * columns);
  let [mass, momentY, momentX] = [0, 0, 0];
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const [y0, y1] = [top + (row * height) / rows, top + ((row + 1) * height) / rows];
      const [x0, x1] = [left + (column * width) / columns, left + ((column + 1) * width) / columns];
      let total = 0; // over the area of this pixel
      for (let y = Math.floor(y0); y < y1; y++) {
        const h = Math.min(y + 1, y1) - Math.max(y, y0);
        for (let x = Math.floor(x0); x < x1; x++) {
          const w = Math.min(x + 1, x1) - Math.max(x, x0);
          if (x < size && y < size) total += h * w * drawing[y * size + x];
        }
      }
      const mean = total / ((y1 - y0) * (x1 - x0));
      scaled[row * columns + column] = mean;
      mass += mean;
      momentY += mean * row;
      momentX += mean * column;
    }
  }
  const shift = (moment, length) => {
    const centred = Math.round(side / 2 - moment / mass);
    return Math.max(0, Math.min(side - length, centred)); // keeps the drawing in the image
  };
  const [down, across] = [shift(momentY, rows), shift(momentX, columns)];
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      pixels[(row + down) * side + column + across] = Math.round(scaled[row * columns + column]);
    }
  }
  return pixels;
}
