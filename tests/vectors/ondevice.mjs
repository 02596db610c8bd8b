// What devices of an account agree on (docs/on-device.md, "Form of what devices agree on"), written down a second time.
import { PRF, ascii, hex, must, unhex } from "./pss1.mjs";

export function checkVariant(row) {
  const drawn = PRF(unhex(row.secret), "pss1/experiment", ascii(row.name), 32);
  const [place, draw] = [drawn.slice(0, 8), drawn.slice(8, 16)].map((one) => BigInt(`0x${hex(one)}`));
  const isIn = place * 100n < BigInt(row.percent) << 64n;
  must(isIn === ("variant" in row), "taking part");
  must(!isIn || Number((draw * BigInt(row.variants)) >> 64n) === row.variant, "variant");
}

const isNumber = (value) => typeof value === "number";

function top(values) {
  const numbers = Object.entries(values).filter(([, value]) => isNumber(value));
  numbers.sort(([a, x], [b, y]) => y - x || (a < b ? -1 : 1));
  return numbers[0]?.[0];
}

function holds(test, values) {
  const all = Object.values(values);
  if ("count_at_least" in test) return all.length >= test.count_at_least;
  if ("top_in" in test) return test.top_in.includes(top(values));
  if (!("key" in test) && all.length !== 1) return false;
  const value = "key" in test ? values[test.key] : all[0];
  if ("is" in test) return value === test.is;
  if ("in" in test) return test.in.includes(value);
  if ("at_least" in test) return isNumber(value) && value >= test.at_least;
  return isNumber(value) && value < test.below;
}

export function checkCohort({ rule, signals, label }) {
  const one = (test) => holds(test, signals[test.signal] ?? {});
  const found = rule.cohorts.find((entry) => (entry.all ? entry.all.every(one) : entry.any.some(one)));
  must((found?.label ?? rule.otherwise) === label, "label");
}
