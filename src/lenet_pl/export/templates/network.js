"use strict";
/* Runs a network, given as a list of steps, on one image, without a library. */
class Network {
  /** spec: classes, mean, std, side and steps; weights: little-endian float32 in base64. */
  constructor(spec, weights) {
    Object.assign(this, spec);
    const bytes = decode(weights);
    const view = new DataView(bytes.buffer);
    const numbers = new Float32Array(bytes.length / 4);
    for (let i = 0; i < numbers.length; i++) numbers[i] = view.getFloat32(4 * i, true);
    this.weight = ([offset, ...shape]) => numbers.subarray(offset, offset + product(shape));
  }

  /** Outputs of all steps for pixels from 0 to 255; the first is the normalised image. */
  run(pixels) {
    const image = Float32Array.from(pixels, (pixel) => (pixel / 255 - this.mean) / this.std);
    const values = [image];
    const shapes = [[1, 1, this.side, this.side]];
    for (const step of this.steps) {
      const output = new Float32Array(product(step.shape));
      const inputs = step.inputs.map((index) => values[index]);
      const shape = shapes[step.inputs[0]];
      values.push(OPERATIONS[step.op].call(this, step, output, inputs, shape) || output);
      shapes.push(step.shape);
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

/* ---- operations: (step, output, inputs, shape of the first input) ---- */

const elementwise = (f) => (step, output, [x]) => {
  for (let i = 0; i < x.length; i++) output[i] = f(x[i], step);
};

function conv2d(step, output, [x], [, channels, height, width]) {
  const [, filters, rows, columns] = step.shape;
  const [, , , kernelRows, kernelColumns] = step.weight;
  const [strideY, strideX] = step.stride;
  const [top, left] = step.padding;
  const kernels = this.weight(step.weight);
  const bias = this.weight(step.bias);
  let k = 0;
  for (let filter = 0; filter < filters; filter++) {
    const map = output.subarray(filter * rows * columns, (filter + 1) * rows * columns);
    map.fill(bias[filter]);
    for (let channel = 0; channel < channels; channel++) {
      for (let u = 0; u < kernelRows; u++) {
        for (let v = 0; v < kernelColumns; v++) {
          const weight = kernels[k++];
          // the output columns whose input pixel is not padding
          const first = Math.max(0, Math.ceil((left - v) / strideX));
          const last = Math.min(columns - 1, Math.floor((width - 1 + left - v) / strideX));
          for (let row = 0; row < rows; row++) {
            const y = row * strideY + u - top;
            if (y < 0 || y >= height) continue;
            const from = (channel * height + y) * width + v - left;
            const to = row * columns;
            for (let column = first; column <= last; column++) {
              map[to + column] += weight * x[from + column * strideX];
            }
          }
        }
      }
    }
  }
}

/** Reduces the pixels of each window, starting from `initial`, which is also the padding. */
const pool = (initial, reduce, finish) => (step, output, [x], [, , height, width]) => {
  const [, channels, rows, columns] = step.shape;
  const [kernelRows, kernelColumns] = step.kernel;
  let i = 0;
  for (let channel = 0; channel < channels; channel++) {
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        let value = initial;
        for (let u = 0; u < kernelRows; u++) {
          const y = row * step.stride[0] + u - step.padding[0];
          if (y < 0 || y >= height) continue;
          for (let v = 0; v < kernelColumns; v++) {
            const z = column * step.stride[1] + v - step.padding[1];
            if (z >= 0 && z < width) value = reduce(value, x[(channel * height + y) * width + z]);
          }
        }
        output[i++] = finish(value, kernelRows * kernelColumns);
      }
    }
  }
};

function linear(step, output, [x]) {
  const weight = this.weight(step.weight);
  const bias = this.weight(step.bias);
  const [, outputs, inputs] = step.weight;
  for (let row = 0; row < x.length / inputs; row++) {
    for (let j = 0; j < outputs; j++) {
      let sum = bias[j];
      for (let i = 0; i < inputs; i++) sum += weight[j * inputs + i] * x[row * inputs + i];
      output[row * outputs + j] = sum;
    }
  }
}

function scale(step, output, [x]) {
  const weight = this.weight(step.weight);
  const bias = this.weight(step.bias);
  const size = x.length / weight.length;
  for (let i = 0; i < x.length; i++) {
    const channel = Math.floor(i / size);
    output[i] = x[i] * weight[channel] + bias[channel];
  }
}

/** The gates are in PyTorch's order: input, forget, cell, output. */
function lstm(step, output, [x], [, times]) {
  const states = [];
  const { directions } = step;
  for (let first = 0; first < step.weights.length; first += 4 * directions) {
    const inputs = x.length / times;
    const hidden = step.weights[first][1] / 4;
    const sequence = new Float32Array(times * directions * hidden);
    for (let direction = 0; direction < directions; direction++) {
      const [wInput, wState, bInput, bState] = step.weights
        .slice(first + 4 * direction)
        .map(this.weight);
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
    }
    x = sequence;
  }
  output.set(step.output === "sequence" ? x : states);
}

/** Selects the indices from `start` up to `end`, exclusive, of one axis. */
function narrow(step, output, [x], shape) {
  const inner = product(shape.slice(step.axis + 1));
  const length = shape[step.axis] * inner;
  const size = (step.end - step.start) * inner;
  for (let outer = 0; outer * length < x.length; outer++) {
    const offset = outer * length + step.start * inner;
    output.set(x.subarray(offset, offset + size), outer * size);
  }
}

function cat(step, output, inputs) {
  const outer = product(step.shape.slice(0, step.axis));
  let offset = 0;
  for (let i = 0; i < outer; i++) {
    for (const x of inputs) {
      const size = x.length / outer;
      output.set(x.subarray(i * size, (i + 1) * size), offset);
      offset += size;
    }
  }
}

const OPERATIONS = {
  conv2d,
  max_pool2d: pool(-Infinity, Math.max, (value) => value),
  avg_pool2d: pool(0, (a, b) => a + b, (value, size) => value / size),
  linear,
  scale,
  lstm,
  narrow,
  cat,
  add: (step, output, [a, b]) => output.forEach((_, i) => (output[i] = a[i] + b[i])),
  reshape: (step, output, [x]) => x,
  relu: elementwise((x) => Math.max(x, 0)),
  leaky_relu: elementwise((x, { slope }) => (x > 0 ? x : slope * x)),
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
