// Tasks, rounds, contributions and results of docs/aggregation.md, written down a second time.
import {
  H, PRF, Reader, SIG, ascii, boxPublic, hex, join, keypair, must, refuse, refuseLowOrder, same,
  sealOpen, uint, unhex, verify,
} from "./pss1.mjs";
import * as k from "./kinds.mjs";

// --- deterministic CBOR of maps, lists, texts, whole numbers and booleans

const INT_MAX = 2n ** 64n - 1n;

function head(major, value) {
  const n = BigInt(value);
  if (n < 24n) return Uint8Array.of((major << 5) | Number(n));
  const at = [1, 2, 4, 8].findIndex((width) => n < 1n << BigInt(8 * width));
  return join([(major << 5) | (24 + at)], uint(n, 1 << at));
}

export function cbor(value) {
  if (typeof value === "boolean") return Uint8Array.of(value ? 0xf5 : 0xf4);
  if (typeof value === "string") { const text = ascii(value); return join(head(3, text.length), text); }
  if (Array.isArray(value)) return join(head(4, value.length), ...value.map(cbor));
  if (typeof value === "object") {
    const rows = Object.entries(value).map(([key, inner]) => [cbor(key), cbor(inner)]);
    rows.sort(([a], [b]) => (hex(a) < hex(b) ? -1 : 1));
    return join(head(5, rows.length), ...rows.flat());
  }
  const n = BigInt(value);
  return n < 0n ? head(1, -1n - n) : head(0, n);
}

/** The value, if its bytes are its one deterministic form; large numbers stay BigInts. */
export function uncbor(bytes, depth = 4) {
  must(bytes.length <= 2 ** 18, "length");
  const r = new Reader(bytes);
  const value = item(r, depth);
  r.end();
  must(value !== null && typeof value === "object" && !Array.isArray(value), "not a map");
  must(same(cbor(value), bytes), "not its one form");
  return value;
}

function item(r, depth) {
  must(depth > 0, "too deep");
  const first = r.int(1);
  const [major, low] = [first >> 5, first & 31];
  if (major === 7) return { 20: false, 21: true }[low] ?? refuse("type");
  must(low < 28, "length that is not stated");
  const size = low < 24 ? BigInt(low) : BigInt(`0x${hex(r.take(1 << (low - 24)))}`);
  const number = (n) => (n >= -(2n ** 53n) && n <= 2n ** 53n ? Number(n) : n);
  switch (major) {
    case 0: return number(size);
    case 1: must(size <= INT_MAX, "range"); return number(-1n - size);
    case 3: return text(r.take(Number(size)));
    case 4: return Array.from({ length: count(r, size) }, () => item(r, depth - 1));
    case 5: return Object.fromEntries(Array.from({ length: count(r, size) }, () => {
      const key = item(r, 1);
      must(typeof key === "string", "key");
      return [key, item(r, depth - 1)];
    }));
    default: return refuse("type");
  }
}

function count(r, size) {
  must(size <= BigInt(r.bytes.length), "length");
  return Number(size);
}

function text(bytes) {
  try { return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes); } catch { return refuse("UTF-8"); }
}

// --- tasks

const DAY_MS = 86_400_000;
const fields = (map, names) => {
  must(map !== null && typeof map === "object" && !Array.isArray(map), "map");
  must(Object.keys(map).sort().join() === [...names].sort().join(), "fields");
};
const name = (value) => must(typeof value === "string" && /^[a-z0-9._/-]{1,128}$/.test(value), "name");

const TAILS = {
  none: [[], () => true],
  threshold: [["tau"], (tail, kind) => {
    must(["histogram", "multihot"].includes(kind.name), "tail of another kind");
    k.whole(tail.tau, 1, Number(kind.field.p / 2n), "tau");
  }],
  top: [["count"], (tail, kind) => {
    must(["histogram", "multihot"].includes(kind.name), "tail of another kind");
    k.whole(tail.count, 1, kind.d - 1, "count");
  }],
  quantile: [["at_micro"], (tail, kind) => {
    must(kind.name === "quantile", "tail of another kind");
    must(Array.isArray(tail.at_micro) && tail.at_micro.length >= 1 && tail.at_micro.length <= 99, "at_micro");
    tail.at_micro.forEach((at) => k.whole(at, 1, 999_999, "at_micro"));
    must(tail.at_micro.every((at, place) => place === 0 || tail.at_micro[place - 1] < at), "order");
  }],
  welch: [["alpha_micro"], (tail, kind) => {
    must(kind.name === "experiment", "tail of another kind");
    k.whole(tail.alpha_micro, 1, 500_000, "alpha_micro");
  }],
};

/** Noise as section 2 has it: its reach, and what a round costs in micro-rho. */
function noiseOf(task, kind, { m, t }) {
  const { mechanism, sigma_milli: sigma } = task.noise;
  fields(task.noise, ["mechanism", "sigma_milli"]);
  must(mechanism === "gaussian" || mechanism === "laplace", "noise");
  k.whole(sigma, 1, 2 ** 53, "sigma");
  const square = BigInt(sigma) ** 2n; // in millionths
  if (mechanism === "gaussian") {
    must(square >= 4_000_000n * BigInt(m - t), "shares of noise are too narrow");
    const up = (a, b) => (a + b - 1n) / b;
    const reach = k.isqrt(up(square * BigInt(t + 1) * 170n, 1_000_000n)) + 1n;
    // 10^6 (l2 / 2 sigma^2 + (m - t - 1) d / 4 10^16)
    const apart = BigInt(m - t - 1) * BigInt(kind.d);
    const cost = up(kind.l2 * 10n ** 12n * 4n * 10n ** 10n + apart * 2n * square, 2n * square * 4n * 10n ** 10n);
    return { reach, cost };
  }
  const more = 1e6 / Number(square);
  const decay = Math.log1p(more + Math.sqrt(more * (more + 2)));
  return {
    reach: BigInt(Math.ceil((64 / 63) * (84 + 3.5 * (t + 1)) / decay)),
    cost: BigInt(Math.ceil(1e6 * (Number(kind.l1) * decay) ** 2 / 2)),
  };
}

export function checkTask(task) {
  must(task.version === 1, "version");
  fields(task, [
    "version", "id", "title", "purpose", "kind", "field", "kappa", "window_ms", "grace_ms", "reports_max",
    "k_min", "noise", "caps", "parties", "tail", "expires_ms",
  ]);
  name(task.id);
  name(task.purpose);
  must(typeof task.title === "string" && k.isPrintable(task.title), "title");
  must([...task.title].length >= 1 && [...task.title].length <= 200, "title");
  fields(task.parties, ["m", "t"]);
  fields(task.caps, ["device_micro_rho", "period_ms", "task_micro_rho"]);
  const [{ m, t }, kind] = [task.parties, k.kindOf(task.kind, task.field)];
  k.whole(t, 1, 16, "t");
  k.whole(m, 2 * t + 1, 16, "m");
  k.whole(task.kappa, task.field === 31 ? 2 : 1, task.field === 31 ? 4 : 2, "kappa");
  k.whole(task.window_ms, 1, 366 * DAY_MS, "window_ms");
  k.whole(task.grace_ms, 0, 30 * DAY_MS, "grace_ms");
  k.whole(task.reports_max, 2, 2 ** 32 - 1, "reports_max");
  k.whole(task.k_min, 2, task.reports_max, "k_min");
  k.whole(task.expires_ms, 1, 2 ** 53, "expires_ms");
  Object.values(task.caps).forEach((one) => k.whole(one, 1, 2 ** 53, "caps"));
  const [names, check] = TAILS[task.tail?.name] ?? refuse("tail");
  fields(task.tail, ["name", ...names]);
  check(task.tail, kind);
  const { reach, cost } = noiseOf(task, kind, { m, t });
  must(BigInt(task.reports_max) * kind.outputMax + reach <= kind.field.p / 2n, "sums could wrap");
  must(cost <= BigInt(Math.min(task.caps.device_micro_rho, task.caps.task_micro_rho)), "caps");
  return { ...task, ...task.parties, kind, cost };
}

export function readTask(published, publisher) {
  must(published.length > 64, "length");
  const [bytes, sig] = [published.slice(0, -64), published.slice(-64)];
  verify(publisher, "pss1/task-sig", bytes, sig);
  return { ...checkTask(uncbor(bytes)), bytes, specHash: H("pss1/task", bytes) };
}

export function makeTask(seed, map) {
  const bytes = cbor(map);
  return join(bytes, SIG(seed, "pss1/task-sig", bytes));
}

// --- rounds

export const roundDigest = (manifest) => H("pss1/round", manifest);

export function readManifest(bytes) {
  const r = new Reader(bytes);
  must(same(r.take(5), join(ascii("PSM1"), [1])), "magic or suite");
  const [m, t, zero] = [r.int(1), r.int(1), r.int(1)];
  must(zero === 0 && t >= 1 && m >= 2 * t + 1 && m <= 16, "parties");
  const round = {
    m, t, id: r.take(16), specHash: r.take(32), open: r.int(8), close: r.int(8), kMin: r.int(4),
  };
  round.parties = Array.from({ length: m }, () => ({ ik: r.take(32), box: r.take(32) }));
  r.end();
  must(round.open < round.close, "window");
  must(new Set(round.parties.flatMap(({ ik, box }) => [hex(ik), hex(box)])).size === 2 * m, "keys");
  round.parties.forEach(({ box }) => refuseLowOrder(box));
  return { ...round, digest: roundDigest(bytes) };
}

export function readRound(published, pinned, task) {
  const size = 76 + 64 * pinned.length;
  must(published.length === size + 64 * pinned.length, "length");
  const bytes = published.slice(0, size);
  const round = readManifest(bytes);
  must(round.parties.map(({ ik }) => hex(ik)).join() === pinned.join(), "parties that are pinned");
  round.parties.forEach(({ ik }, at) =>
    verify(ik, "pss1/round-sig", bytes, published.slice(size + 64 * at, size + 64 * (at + 1))));
  must(same(round.specHash, task.specHash), "another task");
  must(round.m === task.m && round.t === task.t, "parties of the task");
  must(round.close - round.open === task.window_ms, "window of the task");
  must(round.kMin === task.k_min && round.close <= task.expires_ms, "k_min or expiry");
  return { ...round, bytes };
}

export function makeManifest(row, specHash, t) {
  return join(
    ascii("PSM1"), [1, row.parties.length, t, 0], unhex(row.round_id), specHash, uint(row.open_ms, 8),
    uint(row.close_ms, 8), uint(row.k_min, 4),
    ...row.parties.flatMap((party) => [keypair(unhex(party.ik_seed)).publicKey, boxPublic(unhex(party.box_sk))]),
  );
}

// --- contributions

export const nullifier = (key, digest) => PRF(key, "pss1/nullifier", digest);
const rotation = (reportId, m) => Number(BigInt(`0x${hex(reportId)}`) % BigInt(m));
export const seeded = (reportId, m, t) =>
  Array.from({ length: t }, (_, step) => 1 + ((rotation(reportId, m) + step) % m)).sort((a, b) => a - b);

/** Every party's (form, payload); `seeds` in the order of the parties that get them. */
export function split(field, vector, { m, t }, reportId, seeds) {
  const points = new Map([[0, vector]]);
  const own = new Map(seeded(reportId, m, t).map((party, at) => [party, seeds[at]]));
  own.forEach((seed, party) => points.set(party, k.prg(field, seed, vector.length)));
  return Array.from({ length: m }, (_, at) => (own.has(at + 1)
    ? { form: 1, payload: own.get(at + 1) }
    : { form: 0, payload: k.toBytes(field, k.interpolate(field, points, at + 1)) }));
}

export const elementsOf = (field, { form, payload }, length) =>
  (form === 1 ? k.prg(field, payload, length) : k.fromBytes(field, payload, length));

export const makeHeader = (round, reportId, own) =>
  join(ascii("PSA1"), [1, 1, round.m, 0], round.digest, reportId, own);

export function readHeader(round, bytes) {
  must(bytes.length === 88, "length");
  must(same(bytes.slice(0, 8), join(ascii("PSA1"), [1, 1, round.m, 0])), "form");
  must(same(bytes.slice(8, 40), round.digest), "another round");
  return { reportId: bytes.slice(40, 56), hash: H("pss1/report", bytes) };
}

const payloadBytes = (task, form) => (form === 1 ? 32 : task.kind.length * task.kind.field.width);
const formOf = (round, header, party) => Number(seeded(header.reportId, round.m, round.t).includes(party));

export function checkUpload(round, task, bytes, boxes) {
  const header = readHeader(round, bytes);
  must(boxes.length === round.m, "number of boxes");
  boxes.forEach((box, at) =>
    must(box.length === 48 + 46 + payloadBytes(task, formOf(round, header, at + 1)), "size of a box"));
  return header;
}

const shareHead = (round, task, header, party, form) => join(
  ascii("PSS1"), [1, party, round.m, round.t], header.hash, [form, task.kind.field.bits],
  uint(task.kind.length, 4),
);

export const makeShare = (round, task, header, party, { form, payload }) =>
  join(shareHead(round, task, header, party, form), payload);

export function openBox(round, task, party, secret, bytes, box) {
  const header = readHeader(round, bytes);
  const plain = sealOpen(secret, box);
  const form = formOf(round, header, party);
  must(plain.length === 46 + payloadBytes(task, form), "length");
  must(same(plain.slice(0, 46), shareHead(round, task, header, party, form)), "head of the share");
  const share = { form, payload: plain.slice(46) };
  elementsOf(task.kind.field, share, task.kind.length);
  return share;
}

// --- results

const quorum = (m, t) => Math.max(t + 1, Math.floor(m / 2) + 1);
const OUTCOMES = { none: "sums", threshold: "bins", top: "bins", quantile: "quantiles", welch: "comparisons" };

export function readResult(round, task, bytes, sigs) {
  must(Object.keys(sigs).length >= quorum(round.m, round.t), "signatures");
  for (const [party, sig] of Object.entries(sigs)) {
    must(round.parties[party - 1], "party");
    verify(round.parties[party - 1].ik, "pss1/result", join(round.digest, bytes), unhex(sig));
  }
  const said = uncbor(bytes);
  must(said.version === 1, "version");
  const told = said.undecided === true && task.tail.name !== "none" ? "undecided" : OUTCOMES[task.tail.name];
  fields(said, [
    "version", "reports", "valid", "inconsistent", "invalid", "refused", "noise_of", "checked",
    "sigma_milli", "micro_rho", "tail", told,
  ]);
  must(said.sigma_milli === task.noise.sigma_milli && BigInt(said.micro_rho) === task.cost, "noise or cost");
  must(said.tail === task.tail.name && typeof said.checked === "boolean", "tail or checked");
  k.whole(said.reports, 0, task.reports_max, "reports");
  k.whole(said.inconsistent, 0, said.reports, "inconsistent");
  k.whole(said.invalid, 0, said.reports - said.inconsistent, "invalid");
  must(said.valid === said.reports - said.inconsistent - said.invalid && said.valid >= task.k_min, "valid");
  checkParties(round, said);
  if (told !== "undecided") checkOutcome(task, told, said[told]);
  return said;
}

function checkParties({ m, t }, said) {
  must(Array.isArray(said.refused) && said.refused.length === m, "refused");
  for (const one of said.refused) {
    fields(one, Object.keys(one));
    must(Object.keys(one).length <= 32, "rules");
    for (const [rule, times] of Object.entries(one)) {
      must(/^[ -~]{1,32}$/.test(rule), "rule");
      k.whole(times, 1, 2 ** 53, "refused");
    }
  }
  must(Array.isArray(said.noise_of) && said.noise_of.length >= quorum(m, t), "noise_of");
  said.noise_of.forEach((party, at) => k.whole(party, at ? said.noise_of[at - 1] + 1 : 1, m, "noise_of"));
}

function checkOutcome(task, told, rows) {
  const [reach, { d }] = [Number(task.kind.field.p / 2n), task.kind];
  const of = (low, high) => must(Array.isArray(rows) && rows.length >= low && rows.length <= high, "length");
  const wide = (row, size) => must(Array.isArray(row) && row.length === size, "row");
  if (told === "sums") {
    of(d, d);
    rows.forEach((one) => k.whole(one, -reach, reach, "sum"));
  } else if (told === "bins") {
    of(0, task.tail.count ?? d);
    rows.forEach((row) => {
      wide(row, 2);
      k.whole(row[0], 0, d - 1, "bin");
      k.whole(row[1], -reach, reach, "count");
    });
    must(new Set(rows.map(([bin]) => bin)).size === rows.length, "a bin twice");
  } else if (told === "quantiles") {
    of(task.tail.at_micro.length, task.tail.at_micro.length);
    rows.forEach((row) => { wide(row, 3); row.forEach((bin) => k.whole(bin, 0, d - 1, "bin")); });
  } else {
    of(d / 3 - 1, d / 3 - 1);
    rows.forEach(([verdict, ...numbers]) => {
      must(["higher", "lower", "undecided"].includes(verdict), "verdict");
      wide(numbers, 4);
      numbers.forEach((one) => must(Number.isInteger(Number(one)), "number"));
    });
  }
}

/** What `none`, `threshold` and `top` give of the noised sums; null for the others. */
export function outcome(task, sums) {
  const bins = sums.map((value, bin) => [bin, value]);
  switch (task.tail.name) {
    case "none": return sums;
    case "threshold": return bins.filter(([, value]) => value >= task.tail.tau);
    case "top": return bins.sort((a, b) => b[1] - a[1] || a[0] - b[0]).slice(0, task.tail.count);
    default: return null;
  }
}
