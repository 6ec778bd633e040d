"use strict";
/* Runs the steps of a network on one image. No library: this is all of it. */
class Network {
  /** spec: classes, mean, std, side and steps; weights: float32, little endian, in base64. */
  constructor(spec, weights) {
    Object.assign(this, spec);
    const bytes = Uint8Array.from(atob(weights), (character) => character.charCodeAt(0));
    const view = new DataView(bytes.buffer);
    const numbers = new Float32Array(bytes.length / 4);
    for (let i = 0; i < numbers.length; i++) numbers[i] = view.getFloat32(4 * i, true);
    this.weight = ([offset, ...shape]) => numbers.subarray(offset, offset + count(shape));
  }

  /** Plain pixels, 0 to 255, to the values of all steps; the first is the image itself. */
  run(pixels) {
    const image = Float32Array.from(pixels, (pixel) => (pixel / 255 - this.mean) / this.std);
    const values = [image];
    const shapes = [[1, this.side, this.side]];
    for (const step of this.steps) {
      const made = new Float32Array(count(step.shape));
      const taken = step.from.map((number) => values[number]);
      const result = OPERATIONS[step.op].call(this, step, made, taken, shapes[step.from[0]]);
      values.push(result || made);
      shapes.push(step.shape);
    }
    return values;
  }

  /** Plain pixels, 0 to 255, to the probability of each class. */
  classify(pixels) {
    return softmax(this.run(pixels).pop());
  }
}

const count = (shape) => shape.reduce((product, side) => product * side, 1);

function softmax(logits) {
  const top = Math.max(...logits);
  const powers = Array.from(logits, (logit) => Math.exp(logit - top));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / sum);
}

const sigmoid = (x) => 1 / (1 + Math.exp(-x));

/** An operation that treats each number alike. */
const each = (change) => (step, made, [x]) => {
  for (let i = 0; i < x.length; i++) made[i] = change(x[i], step);
};

function conv2d(step, made, [x], [channels, height, width]) {
  const [outputs, rows, columns] = step.shape;
  const [, , , kernelRows, kernelColumns] = step.weight;
  const [down, right] = step.stride;
  const [top, left] = step.pad;
  const kernels = this.weight(step.weight);
  const bias = this.weight(step.bias);
  let k = 0;
  for (let output = 0; output < outputs; output++) {
    const plane = made.subarray(output * rows * columns, (output + 1) * rows * columns);
    plane.fill(bias[output]);
    for (let channel = 0; channel < channels; channel++) {
      for (let u = 0; u < kernelRows; u++) {
        for (let v = 0; v < kernelColumns; v++) {
          const factor = kernels[k++];
          // the columns whose pixel is in the image and not in the padding
          const first = Math.max(0, Math.ceil((left - v) / right));
          const last = Math.min(columns - 1, Math.floor((width - 1 + left - v) / right));
          for (let row = 0; row < rows; row++) {
            const y = row * down + u - top;
            if (y < 0 || y >= height) continue;
            const from = (channel * height + y) * width + v - left;
            const to = row * columns;
            for (let column = first; column <= last; column++) {
              plane[to + column] += factor * x[from + column * right];
            }
          }
        }
      }
    }
  }
}

/** A pool folds what its window sees, beginning with `start`; padding counts as `start`. */
const pool = (start, fold, finish) => (step, made, [x], [, height, width]) => {
  const [channels, rows, columns] = step.shape;
  const [kernelRows, kernelColumns] = step.kernel;
  let i = 0;
  for (let channel = 0; channel < channels; channel++) {
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        let folded = start;
        for (let u = 0; u < kernelRows; u++) {
          const y = row * step.stride[0] + u - step.pad[0];
          if (y < 0 || y >= height) continue;
          for (let v = 0; v < kernelColumns; v++) {
            const at = column * step.stride[1] + v - step.pad[1];
            if (at >= 0 && at < width) folded = fold(folded, x[(channel * height + y) * width + at]);
          }
        }
        made[i++] = finish(folded, kernelRows * kernelColumns);
      }
    }
  }
};

function linear(step, made, [x]) {
  const weight = this.weight(step.weight);
  const bias = this.weight(step.bias);
  const [, outputs, inputs] = step.weight;
  for (let first = 0; first < x.length; first += inputs) {
    for (let output = 0; output < outputs; output++) {
      let sum = bias[output];
      for (let i = 0; i < inputs; i++) sum += weight[output * inputs + i] * x[first + i];
      made[(first / inputs) * outputs + output] = sum;
    }
  }
}

function scale(step, made, [x]) {
  const weight = this.weight(step.weight);
  const bias = this.weight(step.bias);
  const size = x.length / weight.length;
  for (let i = 0; i < x.length; i++) {
    const channel = Math.floor(i / size);
    made[i] = x[i] * weight[channel] + bias[channel];
  }
}

/** Gates in torch's order: input, forget, cell, output. */
function lstm(step, made, [x], [times]) {
  const states = [];
  const { directions } = step;
  for (let first = 0; first < step.weights.length; first += 4 * directions) {
    const inputs = x.length / times;
    const hidden = step.weights[first][1] / 4;
    const sequence = new Float32Array(times * directions * hidden);
    for (let direction = 0; direction < directions; direction++) {
      const [wIn, wState, bIn, bState] = step.weights.slice(first + 4 * direction).map(this.weight);
      let state = new Float32Array(hidden);
      const cell = new Float32Array(hidden);
      const gates = new Float64Array(4 * hidden);
      for (let t = 0; t < times; t++) {
        const time = direction ? times - 1 - t : t;
        for (let g = 0; g < gates.length; g++) {
          let sum = bIn[g] + bState[g];
          for (let i = 0; i < inputs; i++) sum += wIn[g * inputs + i] * x[time * inputs + i];
          for (let i = 0; i < hidden; i++) sum += wState[g * hidden + i] * state[i];
          gates[g] = sum;
        }
        state = new Float32Array(hidden);
        for (let h = 0; h < hidden; h++) {
          const [take, keep, fresh, show] = [0, 1, 2, 3].map((gate) => gates[gate * hidden + h]);
          cell[h] = sigmoid(keep) * cell[h] + sigmoid(take) * Math.tanh(fresh);
          state[h] = sigmoid(show) * Math.tanh(cell[h]);
        }
        sequence.set(state, (time * directions + direction) * hidden);
      }
      states.push(...state);
    }
    x = sequence;
  }
  made.set(step.output === "sequence" ? x : states);
}

/** Indices `first` to `last` of one axis. */
function part(step, made, [x], shape) {
  const inner = count(shape.slice(step.axis + 1));
  const length = shape[step.axis] * inner;
  const taken = (step.last - step.first) * inner;
  for (let outer = 0; outer * length < x.length; outer++) {
    const from = outer * length + step.first * inner;
    made.set(x.subarray(from, from + taken), outer * taken);
  }
}

function cat(step, made, parts) {
  const outer = count(step.shape.slice(0, step.axis));
  let at = 0;
  for (let i = 0; i < outer; i++) {
    for (const x of parts) {
      const size = x.length / outer;
      made.set(x.subarray(i * size, (i + 1) * size), at);
      at += size;
    }
  }
}

const OPERATIONS = {
  conv2d,
  max_pool2d: pool(-Infinity, Math.max, (folded) => folded),
  avg_pool2d: pool(0, (a, b) => a + b, (folded, size) => folded / size),
  linear,
  scale,
  lstm,
  part,
  cat,
  add: (step, made, [a, b]) => made.forEach((_, i) => (made[i] = a[i] + b[i])),
  reshape: (step, made, [x]) => x,
  relu: each((x) => Math.max(x, 0)),
  leaky_relu: each((x, { slope }) => (x > 0 ? x : slope * x)),
  tanh: each(Math.tanh),
  sigmoid: each(sigmoid),
  silu: each((x) => x * sigmoid(x)),
};

/**
 * A drawing made as MNIST's digits were: cropped, the longer side brought to 20 of 28 pixels
 * with grey levels, and moved so that its centre of mass is in the centre of the image. After
 * Y. LeCun et al., Proc. IEEE 86 (1998), p. 2287.
 *
 * ink: size × size numbers from 0 (paper) to 255, row by row. Returns side × side such numbers.
 */
function likeMnist(ink, size, side) {
  const pixels = new Uint8Array(side * side);
  let [top, bottom, left, right] = [size, -1, size, -1];
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      if (ink[y * size + x] > 16) {
        [top, bottom] = [Math.min(top, y), Math.max(bottom, y)];
        [left, right] = [Math.min(left, x), Math.max(right, x)];
      }
    }
  }
  if (bottom < 0) return pixels;
  const [height, width] = [bottom - top + 1, right - left + 1];
  const scaling = Math.round((side * 20) / 28) / Math.max(height, width);
  const rows = Math.max(1, Math.round(height * scaling));
  const columns = Math.max(1, Math.round(width * scaling));
  const small = new Float64Array(rows * columns);
  let [sum, massY, massX] = [0, 0, 0];
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const [y0, y1] = [top + (row * height) / rows, top + ((row + 1) * height) / rows];
      const [x0, x1] = [left + (column * width) / columns, left + ((column + 1) * width) / columns];
      let total = 0; // of the area that this pixel covers
      for (let y = Math.floor(y0); y < y1; y++) {
        const tall = Math.min(y + 1, y1) - Math.max(y, y0);
        for (let x = Math.floor(x0); x < x1; x++) {
          const wide = Math.min(x + 1, x1) - Math.max(x, x0);
          if (x < size && y < size) total += tall * wide * ink[y * size + x];
        }
      }
      const mean = total / ((y1 - y0) * (x1 - x0));
      small[row * columns + column] = mean;
      sum += mean;
      massY += mean * row;
      massX += mean * column;
    }
  }
  const place = (mass, length) => {
    const shift = Math.round(side / 2 - mass / sum);
    return Math.max(0, Math.min(side - length, shift)); // nothing is cut off
  };
  const [down, across] = [place(massY, rows), place(massX, columns)];
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      pixels[(row + down) * side + column + across] = Math.round(small[row * columns + column]);
    }
  }
  return pixels;
}
