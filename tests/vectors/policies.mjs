// Policy bundles (docs/policy.md, "The form"), written down a second time.
import { H, PRF, SIG, ascii, hex, join, keypair, must, unhex, verify } from "./pss1.mjs";
import { cbor, uncbor } from "./aggregates.mjs";

const DEPTH = 10;
const NAME = /^[a-z0-9._\/-]{1,128}$/;
const HASH = /^[0-9a-f]{64}$/;
const NONE = "00".repeat(32);
const MICRO = 1_000_000n;
const DAY_MS = 86_400_000n;
const ROLES = ["anyone", "device", "publisher", "analyst", "party", "service", "operator", "policy"];

const isWhole = (value) => ["number", "bigint"].includes(typeof value);
const within = (value, low, high, what) => must(isWhole(value) && value >= low && value <= high, what);
const truth = (value, what) => must(typeof value === "boolean", what);
const named = (value) => must(typeof value === "string" && NAME.test(value), "name");
const known = (name, names, what) => must(names.includes(name), `${what} is not there`);
const apart = (values, what) => must(new Set(values).size === values.length, `${what} twice`);

function fields(map, needed, optional = []) {
  must(map !== null && typeof map === "object" && !Array.isArray(map), "a map");
  must(needed.split(" ").every((name) => name in map), "a field is missing");
  const all = [...needed.split(" "), ...optional];
  must(Object.keys(map).every((name) => all.includes(name)), "a field is unknown");
  return map;
}

const VALUES = {
  whole: ["low", "high"], number: ["low_micro", "high_micro"], choices: ["choices"], boolean: [],
  text: ["chars_max"], vector: ["size", "low_micro", "high_micro"],
  delta: ["low_micro", "high_micro", "cap_micro"], members: ["members_max"],
};
const STEPS = { bucket: ["edges_micro"], round: ["step_micro"], day: [], top_k: ["k"] };

function typed(map, table, what) {
  known(map.type, Object.keys(table), what);
  return fields(map, ["type", ...table[map.type]].join(" "));
}

function readSignal(one, purposes) {
  fields(one, "name kind collection keys values generalise purposes reach retention_days text", ["half_life_days"]);
  [one.name, one.collection, ...(one.keys[0] === "*" ? [] : one.keys)].forEach(named);
  known(one.reach, ["device", "sync", "aggregate"], "reach");
  within(one.retention_days, 1, 3660, "retention");
  const values = typed(one.values, VALUES, "values");
  for (const unit of ["", "_micro"]) {
    if (`low${unit}` in values) must(values[`low${unit}`] <= values[`high${unit}`], "range");
  }
  for (const step of one.generalise) {
    typed(step, STEPS, "generaliser");
    const edges = step.edges_micro ?? [];
    must(edges.every((edge, at) => at === 0 || edges[at - 1] < edge), "edges");
  }
  one.purposes.forEach((purpose) => known(purpose, purposes, "purpose"));
}

function readTask(one, signals, retention) {
  fields(one, "source signals purpose kind k_min_at_least micro_rho_at_most result_days text", [
    "cohort", "micro_rho_a_period", "period_days",
  ]);
  if ("period_days" in one || "micro_rho_a_period" in one) {
    within(one.period_days, 1, 3660, "period_days");
    within(one.micro_rho_a_period, one.micro_rho_at_most, 2 ** 53, "micro_rho_a_period");
  }
  within(one.result_days, 1, retention.result_days, "result_days");
  for (const name of one.signals) {
    const signal = signals.find((other) => other.name === name);
    must(signal !== undefined && signal.reach === "aggregate", "signal of a task");
    known(one.purpose, signal.purposes, "purpose of a signal");
  }
}

function readFlag(one, subjects) {
  fields(one, "name kind about on percent", ["cohort"]);
  truth(one.on, "on");
  within(one.percent, 0, 100, "percent");
  must(one.kind !== "kill" || (one.percent === 100 && !("cohort" in one)), "a kill is for all");
  if (one.about[0] !== "feature") known(one.about[1], subjects[one.about[0]] ?? [], one.about[0]);
}

export function readPolicy(row) {
  const raw = unhex(row.bundle);
  verify(unhex(row.publisher), "pss1/policy-sig", raw, unhex(row.sig));
  const b = fields(
    uncbor(raw, DEPTH),
    "version sequence previous title issued_ms purposes signals tasks flags access cohorts experiments"
      + " retention assessment",
  );
  must(b.version === 1, "version");
  within(b.sequence, 1, 2 ** 53, "sequence");
  must(HASH.test(b.previous) && HASH.test(b.assessment), "hashes");
  must((b.sequence === 1) === (b.previous === NONE), "previous");
  for (const purpose of b.purposes) truth(fields(purpose, "name text benefit intrusive").intrusive, "intrusive");
  const names = (part, key = "name") => b[part].map((one) => one[key]);
  for (const part of ["purposes", "signals", "flags", "cohorts", "experiments"]) apart(names(part), part);
  apart(names("tasks", "source"), "tasks");
  b.signals.forEach((one) => readSignal(one, names("purposes")));
  b.signals.forEach((one, at) => b.signals.slice(at + 1).forEach((other) => {
    const shared = one.keys[0] === "*" || other.keys[0] === "*" || one.keys.some((key) => other.keys.includes(key));
    must(one.collection !== other.collection || !shared, "overlap");
  }));
  b.tasks.forEach((one) => readTask(one, b.signals, b.retention));
  const subjects = { purpose: names("purposes"), signal: names("signals"), task: names("tasks", "source") };
  b.flags.forEach((one) => readFlag(one, subjects));
  const roles = [...ROLES, ...b.access.roles.map((one) => one.name)];
  b.access.grants.forEach((one) => known(fields(one, "role method purposes").role, roles, "role"));
  b.experiments.forEach((one) => known(one.task, subjects.task, "task"));
  const tests = b.cohorts.flatMap((rule) => rule.cohorts.flatMap((one) => one.all ?? one.any));
  tests.forEach((test) => known(test.signal, subjects.signal, "signal"));
  return { ...b, hash: H("pss1/policy", raw) };
}

export function checkPolicy(row, equal) {
  const b = readPolicy(row);
  must(b.sequence === row.sequence, "sequence");
  equal("hash", b.hash, row.hash);
  equal("bundle", cbor(row.fields), row.bundle);
  equal("publisher", keypair(unhex(row.seed)).publicKey, row.publisher);
  equal("sig", SIG(unhex(row.seed), "pss1/policy-sig", unhex(row.bundle)), row.sig);
  for (const { name, text, benefit } of b.purposes) {
    equal(name, H("pss1/purpose-text", cbor({ name, text, benefit })), row.text_hashes[name]);
  }
}

export function checkFlag(row) {
  const drawn = PRF(unhex(row.secret), "pss1/flag", ascii(row.name), 8);
  const on = BigInt(`0x${hex(drawn)}`) * 100n < BigInt(row.percent) << 64n;
  must(on === row.on, "flag");
}

export function checkValue({ step, value, becomes }) {
  const v = BigInt(value);
  const floor = (a, b) => (a - (((a % b) + b) % b)) / b;
  const coarser = {
    bucket: () => BigInt(step.edges_micro.findLast((edge) => BigInt(edge) <= v * MICRO) ?? step.edges_micro[0]) / MICRO,
    round: () => (floor(2n * v * MICRO + BigInt(step.step_micro), 2n * BigInt(step.step_micro))
      * BigInt(step.step_micro)) / MICRO,
    day: () => floor(v, DAY_MS) * DAY_MS,
  };
  must(coarser[step.type]() === BigInt(becomes), "value");
}
