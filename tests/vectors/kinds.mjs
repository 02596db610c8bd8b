// The fields and kinds of docs/aggregation.md, 4 and 5, written down a second time: elements
// are BigInts, vectors are plain arrays of them.
import { PRF, aeadSeal, must, refuse } from "./pss1.mjs";

const LIMIT = 2 ** 53;

// --- fields

export function fieldOf(bits) {
  must(bits === 31 || bits === 61, "field");
  return { bits, p: (1n << BigInt(bits)) - 1n, width: bits === 31 ? 4 : 8 };
}

export const mod = (f, x) => ((x % f.p) + f.p) % f.p;
const little = (bytes) => bytes.reduceRight((sum, byte) => (sum << 8n) | BigInt(byte), 0n);

export function toBytes(f, elements) {
  const out = new Uint8Array(elements.length * f.width);
  elements.forEach((element, at) => {
    for (let byte = 0, rest = element; byte < f.width; byte += 1, rest >>= 8n) {
      out[at * f.width + byte] = Number(rest & 0xffn);
    }
  });
  return out;
}

const wordsOf = (f, bytes) =>
  Array.from({ length: bytes.length / f.width }, (_, at) => little(bytes.slice(at * f.width, (at + 1) * f.width)));

export function fromBytes(f, bytes, count) {
  must(bytes.length === count * f.width, "length");
  const elements = wordsOf(f, bytes);
  must(elements.every((element) => element < f.p), "range");
  return elements;
}

export function prg(f, seed, count) {
  for (let wanted = count; ; wanted += 1) {
    const size = wanted * f.width;
    const stream = aeadSeal(seed, new Uint8Array(24), "", new Uint8Array(size)).slice(0, size);
    const below = wordsOf(f, stream).map((word) => word & f.p).filter((word) => word !== f.p);
    if (below.length >= count) return below.slice(0, count);
  }
}

function inverse(f, x) {
  let [result, base] = [1n, mod(f, x)];
  for (let power = f.p - 2n; power > 0n; power >>= 1n, base = (base * base) % f.p) {
    if (power & 1n) result = (result * base) % f.p;
  }
  return result;
}

/** The vector at `x` of the polynomial through the points, a Map from x to a vector. */
export function interpolate(f, points, x) {
  const xs = [...points.keys()];
  const weights = xs.map((own) => xs.filter((other) => other !== own).reduce(
    (product, other) => mod(f, product * BigInt(x - other) * inverse(f, BigInt(own - other))), 1n,
  ));
  return points.get(xs[0]).map((_, at) =>
    mod(f, xs.reduce((sum, own, place) => sum + weights[place] * points.get(own)[at], 0n)));
}

// --- kinds

const whole = (value, low, high, why) =>
  must(typeof value === "number" && Number.isInteger(value) && value >= low && value <= high, why);
const exactly = (params, names) =>
  must(Object.keys(params).sort().join() === ["name", ...names].sort().join(), "parameters");
export const isPrintable = (text) => /^(?: |[^\p{C}\p{Z}])*$/u.test(text);
const characters = (text) => [...text].length;

function checkLabels(labels, count) {
  must(Array.isArray(labels) && (labels.length === 0 || labels.length === count), "labels");
  for (const label of labels) {
    must(typeof label === "string" && isPrintable(label), "label");
    must(characters(label) >= 1 && characters(label) <= 64, "label");
  }
  must(new Set(labels).size === labels.length, "labels");
}

function range(low, high) {
  for (const bound of [low, high]) whole(bound, -LIMIT, LIMIT, "bounds");
  must(low < high, "bounds");
  const [from, width] = [BigInt(low), BigInt(high) - BigInt(low)];
  const bits = width.toString(2).length;
  const doubling = Array.from({ length: bits - 1 }, (_, at) => 1n << BigInt(at));
  const weights = [...doubling, width - doubling.reduce((a, b) => a + b, 0n)];
  const centre = (from + BigInt(high)) >> 1n;
  return {
    bits, centre, reach: BigInt(high) - centre,
    encode(value) {
      whole(value, low, high, "value");
      let rest = BigInt(value) - from;
      const top = rest >> BigInt(bits - 1);
      if (top) rest -= weights.at(-1);
      return [...doubling.map((_, at) => (rest >> BigInt(at)) & 1n), top];
    },
    number: (s) => weights.reduce((sum, weight, at) => sum + weight * s[at], from),
  };
}

function binOf(value, bins) {
  whole(value, 0, bins - 1, "bin");
  return value;
}
const ones = (length, chosen) => Array.from({ length }, (_, at) => (chosen.includes(at) ? 1n : 0n));
const sum = (s) => s.reduce((a, b) => a + b, 0n);
const isqrt = (square) => {
  let root = BigInt(Math.floor(Math.sqrt(Number(square))));
  while (root * root > square) root -= 1n;
  while ((root + 1n) * (root + 1n) <= square) root += 1n;
  return root;
};
const upwards = (square) => { const root = isqrt(square); return root * root === square ? root : root + 1n; };
const least = (...values) => values.reduce((a, b) => (a < b ? a : b));
const most = (...values) => values.reduce((a, b) => (a > b ? a : b));

// Each gives d, length, bits (that must be 0 or 1), rest(s) (the residues beyond theirs),
// encode(value), and what the table of section 4 says of magnitudes.
const KINDS = {
  count(p) {
    exactly(p, []);
    return {
      d: 1, length: 1, bits: 1, rest: () => [], equationMax: 1n, outputMax: 1n, l1: 1n, l2: 1n,
      encode(value) { must(typeof value === "boolean", "value"); return [value ? 1n : 0n]; },
    };
  },
  histogram(p) {
    exactly(p, ["bins", "labels"]);
    whole(p.bins, 2, 4096, "bins");
    checkLabels(p.labels, p.bins);
    return { ...oneOf(p.bins), encode: (value) => ones(p.bins, [binOf(value, p.bins)]) };
  },
  multihot(p) {
    exactly(p, ["bins", "most", "labels"]);
    whole(p.bins, 2, 4096, "bins");
    whole(p.most, 1, p.bins, "most");
    checkLabels(p.labels, p.bins);
    const slack = range(0, p.most);
    const l1 = least(2n * BigInt(p.most), BigInt(p.bins));
    return {
      d: p.bins, length: p.bins + slack.bits, bits: p.bins + slack.bits,
      equationMax: BigInt(p.bins + p.most), outputMax: 1n, l1, l2: l1,
      rest: (s) => [sum(s.slice(0, p.bins)) + slack.number(s.slice(p.bins)) - BigInt(p.most)],
      encode(value) {
        must(Array.isArray(value) && value.length <= p.most, "value");
        value.forEach((one) => binOf(one, p.bins));
        must(new Set(value).size === value.length, "a bin twice");
        return [...ones(p.bins, value), ...slack.encode(p.most - value.length)];
      },
    };
  },
  sum(p) {
    exactly(p, ["low", "high"]);
    const bounds = range(p.low, p.high);
    return { ...ofRange(bounds, p), encode: bounds.encode, rest: () => [] };
  },
  mean(p) {
    exactly(p, ["low", "high", "variance"]);
    must(typeof p.variance === "boolean", "variance");
    const bounds = range(p.low, p.high);
    if (!p.variance) return { ...ofRange(bounds, p), encode: bounds.encode, rest: () => [] };
    const square = bounds.reach ** 2n;
    return {
      d: 2, length: bounds.bits + 1, bits: bounds.bits, equationMax: square, outputMax: square,
      l1: (9n * square + 3n) / 4n, l2: 4n * square ** 2n,
      rest: (s) => [(bounds.number(s) - bounds.centre) ** 2n - s[bounds.bits]],
      encode: (value) => [...bounds.encode(value), (BigInt(value) - bounds.centre) ** 2n],
    };
  },
  vector(p) {
    exactly(p, ["size", "bits", "norm2_max"]);
    whole(p.size, 1, 4096, "size");
    whole(p.bits, 2, 24, "bits");
    const half = 2 ** (p.bits - 1);
    whole(p.norm2_max, 1, p.size * half * half, "norm2_max");
    const [coordinate, slack] = [range(-half, half - 1), range(0, p.norm2_max)];
    const [bound, size, wide] = [BigInt(p.norm2_max), BigInt(p.size), 2n ** BigInt(p.bits) - 1n];
    const length = p.size * p.bits + slack.bits;
    const numbers = (s) => Array.from({ length: p.size }, (_, at) =>
      coordinate.number(s.slice(at * p.bits, (at + 1) * p.bits)));
    const squares = (all) => sum(all.map((one) => one * one));
    return {
      d: p.size, length, bits: length,
      equationMax: size * BigInt(half) ** 2n + bound, outputMax: least(BigInt(half), isqrt(bound)),
      l1: least(upwards(4n * bound * size), size * wide), l2: least(4n * bound, size * wide ** 2n),
      rest: (s) => [squares(numbers(s)) + slack.number(s.slice(p.size * p.bits)) - bound],
      encode(value) {
        must(Array.isArray(value) && value.length === p.size, "value");
        value.forEach((one) => whole(one, -half, half - 1, "coordinate"));
        const norm2 = Number(squares(value.map(BigInt)));
        must(norm2 <= p.norm2_max, "too long");
        return [...value.flatMap((one) => coordinate.encode(one)), ...slack.encode(p.norm2_max - norm2)];
      },
    };
  },
  experiment(p) {
    exactly(p, ["variants", "labels", "low", "high"]);
    whole(p.variants, 2, 64, "variants");
    checkLabels(p.labels, p.variants);
    const bounds = range(p.low, p.high);
    const [bits, square] = [p.variants + bounds.bits, bounds.reach ** 2n];
    return {
      d: 3 * p.variants, length: bits + 2 * p.variants, bits,
      equationMax: most(BigInt(p.variants), square), outputMax: square, l1: 6n * square, l2: 6n * square ** 2n,
      rest(s) {
        const c = bounds.number(s.slice(p.variants)) - bounds.centre;
        const each = Array.from({ length: p.variants }, (_, at) => {
          const [z, w] = [s[bits + at], s[bits + p.variants + at]];
          return [s[at] * c - z, z * z - w];
        });
        return [sum(s.slice(0, p.variants)) - 1n, ...each.flat()];
      },
      encode(value) {
        must(Array.isArray(value) && value.length === 2, "value");
        const chosen = ones(p.variants, [binOf(value[0], p.variants)]);
        const encoded = bounds.encode(value[1]);
        const c = BigInt(value[1]) - bounds.centre;
        return [...chosen, ...encoded, ...chosen.map((one) => one * c), ...chosen.map((one) => one * c * c)];
      },
    };
  },
  quantile(p) {
    exactly(p, ["edges"]);
    must(Array.isArray(p.edges) && p.edges.length >= 3 && p.edges.length <= 4097, "edges");
    p.edges.forEach((edge) => whole(edge, -LIMIT, LIMIT, "edge"));
    must(p.edges.every((edge, at) => at === 0 || p.edges[at - 1] < edge), "order of edges");
    return {
      ...oneOf(p.edges.length - 1),
      encode(value) {
        whole(value, p.edges[0], p.edges.at(-1) - 1, "value");
        return ones(p.edges.length - 1, [p.edges.findLastIndex((edge) => edge <= value)]);
      },
    };
  },
};

const oneOf = (d) => ({
  d, length: d, bits: d, equationMax: BigInt(d), outputMax: 1n, l1: 2n, l2: 2n, rest: (s) => [sum(s) - 1n],
});
function ofRange(bounds, p) {
  const width = BigInt(p.high) - BigInt(p.low);
  return {
    d: 1, length: bounds.bits, bits: bounds.bits, equationMax: 1n, outputMax: bounds.reach,
    l1: width, l2: width * width,
  };
}

export function kindOf(params, bits) {
  const field = fieldOf(bits);
  must(params !== null && typeof params === "object" && Object.hasOwn(KINDS, params.name), "kind");
  const kind = KINDS[params.name](params);
  must(kind.length >= 1 && kind.length <= 65536, "elements of a vector");
  must(kind.equationMax < field.p, "an equation could wrap");
  return { ...kind, name: params.name, field };
}

export const encode = (kind, value) => kind.encode(value).map((element) => mod(kind.field, element));

// --- what a party computes of a share

export const residues = (kind, s) =>
  [...s.slice(0, kind.bits).map((x) => x * (x - 1n)), ...kind.rest(s)].map((x) => mod(kind.field, x));

/** D and Q of each row, repetition by repetition. */
export function checks(kind, coin, kappa, rows) {
  const count = kind.bits + kind.rest(rows[0]).length;
  const expand = (label, size) => {
    const all = prg(kind.field, PRF(coin, label, ""), kappa * size);
    return Array.from({ length: kappa }, (_, k) => all.slice(k * size, (k + 1) * size));
  };
  const [q, r] = [expand("pss1/verify-q", kind.length), expand("pss1/verify-r", count)];
  const dot = (a, b) => mod(kind.field, a.reduce((total, x, at) => total + x * b[at], 0n));
  return rows.map((s) => ({
    D: q.map((own) => dot(own, s)),
    Q: r.map((own) => dot(own, residues(kind, s))),
  }));
}

export { isqrt, whole, refuse };
