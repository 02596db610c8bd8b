// The pss1 formats, read from docs/protocol.md, 1, and written down a second time: nothing
// here is shared with the Python. What is wrong throws Refused.
import { createRequire } from "node:module";

const sodium = createRequire(import.meta.url)("libsodium-wrappers");
await sodium.ready;

export class Refused extends Error {}
export const refuse = (why) => { throw new Refused(why); };
export const must = (holds, why) => { if (!holds) refuse(why); };

// --- bytes

export const hex = (bytes) => sodium.to_hex(bytes);
export const unhex = (text) => sodium.from_hex(text ?? "");
export const ascii = (text) => new TextEncoder().encode(text);
export const join = (...parts) => Uint8Array.from(parts.flatMap((part) => [...part]));
export const same = (a, b) => a.length === b.length && a.every((byte, at) => byte === b[at]);
export const zeros = (bytes) => bytes.every((byte) => byte === 0);

export function uint(value, width) {
  const out = new Uint8Array(width);
  let rest = BigInt(value);
  for (let at = width - 1; at >= 0; at -= 1, rest >>= 8n) out[at] = Number(rest & 0xffn);
  return out;
}

export class Reader {
  constructor(bytes) { this.bytes = bytes; this.at = 0; }
  take(size) {
    must(this.at + size <= this.bytes.length, "cut off");
    this.at += size;
    return this.bytes.slice(this.at - size, this.at);
  }
  // Numbers up to 2^53 are exact; a larger one only has to stay different.
  int(width) { return this.take(width).reduce((sum, byte) => sum * 256 + byte, 0); }
  end() { must(this.at === this.bytes.length, "trailing bytes"); }
}

// --- primitives

const ds = (label) => join([label.length], ascii(label));
export const H = (label, message, size = 32) =>
  sodium.crypto_generichash(size, join(ds(label), message), null);
export const PRF = (key, label, message, size = 32) =>
  sodium.crypto_generichash(size, join(ds(label), message), key);
export const keypair = (seed) => sodium.crypto_sign_seed_keypair(seed);
export const SIG = (seed, label, message) =>
  sodium.crypto_sign_detached(join(ds(label), message), keypair(seed).privateKey);

export function verify(key, label, message, sig) {
  must(sig.length === 64 && key.length === 32, "signature length");
  must(sodium.crypto_sign_verify_detached(sig, join(ds(label), message), key), "signature");
}

function quietly(why, action) {
  try { return action(); } catch { return refuse(why); }
}

export const aeadSeal = (key, nonce, label, plain) =>
  sodium.crypto_aead_xchacha20poly1305_ietf_encrypt(plain, label, null, nonce, key);
export const aeadOpen = (key, nonce, ad, ct) => quietly("does not open", () =>
  sodium.crypto_aead_xchacha20poly1305_ietf_decrypt(null, ct, ad, nonce, key));
export const boxPublic = (secret) => sodium.crypto_scalarmult_base(secret);

export function refuseLowOrder(point) {
  const shared = quietly("low order", () => sodium.crypto_scalarmult(new Uint8Array(32).fill(1), point));
  must(!zeros(shared), "low order");
}

export function sealWith(ephemeral, recipient, plain) {
  const epk = boxPublic(ephemeral);
  const nonce = sodium.crypto_generichash(24, join(epk, recipient), null);
  return join(epk, sodium.crypto_box_easy(plain, nonce, recipient, ephemeral));
}

export const sealOpen = (secret, sealed) => quietly("sealed box", () =>
  sodium.crypto_box_seal_open(sealed, boxPublic(secret), secret));

// --- ids and epochs

export const deviceId = (ik) => H("pss1/device-id", ik, 16);
export const accountId = (genesis) => H("pss1/account-id", genesis);
export const ekCommit = (epoch, ek) => H("pss1/ek-commit", join(uint(epoch, 4), ek));

export function epochKeys(account, epoch, ek) {
  const context = join(account, uint(epoch, 4));
  const of = (label) => PRF(ek, label, context);
  return { account, epoch, ek, rec: of("pss1/k-record"), tag: of("pss1/k-tag"), nonce: of("pss1/k-nonce") };
}

const short = (bytes) => join(uint(bytes.length, 2), bytes);
export const recordTag = (keys, collection, key) =>
  PRF(keys.tag, "pss1/tag", join(short(collection), short(key)), 16);
export const controlTag = (keys, device) => PRF(keys.tag, "pss1/tag-control", device, 16);

// --- padding

const BUCKETS = [256, 512, 1024, 2048, 4096, 8192, 16384, 32768];
export const bucketOf = (size) => BUCKETS.find((bucket) => size + 4 <= bucket) ?? null;

export function pad(plain, bucket) {
  const out = new Uint8Array(bucket);
  out.set(uint(plain.length, 4));
  out.set(plain, 4);
  return out;
}

export function unpad(padded) {
  must(BUCKETS.includes(padded.length), "bucket");
  const size = new Reader(padded).int(4);
  must(size + 4 <= padded.length && zeros(padded.slice(4 + size)), "padding");
  return padded.slice(4, 4 + size);
}

// --- certificates and links

export function readCert(bytes) {
  must(bytes.length === 76, "certificate length");
  const r = new Reader(bytes);
  const cert = { ik: r.take(32), bk: r.take(32), gen: r.int(4), role: r.int(1) };
  must(cert.role === 1 || cert.role === 2, "role");
  must(r.int(1) === 0, "KEM");
  must(zeros(r.take(6)), "reserved");
  refuseLowOrder(cert.bk);
  return { ...cert, id: deviceId(cert.ik) };
}

export const TYPES = [null, "GENESIS", "ADD", "ROTATE", "REBOX"];

export function readLink(raw) {
  const r = new Reader(raw);
  must(same(r.take(4), ascii("PSL1")) && r.int(1) === 1, "magic or suite");
  const type = TYPES[r.int(1)] ?? refuse("type");
  must(r.int(2) === 0, "flags");
  const link = {
    raw, type, account: r.take(32), seq: r.int(8), prev: r.take(32), signer: r.take(16),
    hash: H("pss1/link-hash", raw),
  };
  if (type === "GENESIS" || type === "ADD") {
    Object.assign(link, { cert: readCert(r.take(76)), epoch: r.int(4) });
    link[type === "ADD" ? "digest" : "commit"] = r.take(32);
    must(type === "ADD" || link.epoch === 1, "genesis epoch");
  } else if (type === "ROTATE") {
    Object.assign(link, { epoch: r.int(4), commit: r.take(32), digest: r.take(32) });
    const count = r.int(1);
    link.cuts = Array.from({ length: count }, () => ({ id: hex(r.take(16)), seq: r.int(8), head: hex(r.take(32)) }));
    must(link.cuts.every((cut, at) => at === 0 || link.cuts[at - 1].id < cut.id), "order of cuts");
  } else {
    Object.assign(link, { bk: r.take(32), gen: r.int(4) });
    refuseLowOrder(link.bk);
  }
  r.end();
  return link;
}

// A chain is a plain value; `extend` gives a new one.
export const EMPTY = { account: null, hashes: [], devices: [], epoch: 0, commits: {}, boxKeys: [] };
export const find = (chain, id) => chain.devices.find((device) => device.id === id);
export const active = (chain) => chain.devices.filter((device) => !device.cut);

export function extend(chain, raw, sig, pop) {
  const link = readLink(raw);
  must(sig.length === 64, "signature length");
  must(pop.length === 0 || (link.type === "ADD" && pop.length === 64), "pop");
  if (chain.hashes.length === 0) return begin(link, sig);
  must(link.type !== "GENESIS", "second genesis");
  must(link.seq === chain.hashes.length, "seq");
  must(same(link.account, chain.account), "account");
  must(same(link.prev, unhex(chain.hashes.at(-1))), "prev");
  const signer = find(chain, hex(link.signer));
  must(signer && !signer.cut, "signer");
  verify(signer.ik, "pss1/link", raw, sig);
  const rules = { ADD: add, ROTATE: rotate, REBOX: rebox };
  const after = rules[link.type](chain, link, signer, pop);
  return { ...after, hashes: [...chain.hashes, hex(link.hash)] };
}

function newDevice(link, index) {
  const { ik, bk, gen, role, id } = link.cert;
  return { index, id: hex(id), ik, bk, gen, role, addedSeq: link.seq, cut: null };
}

function begin(link, sig) {
  must(link.type === "GENESIS", "no genesis");
  must(link.seq === 0 && zeros(link.account) && zeros(link.prev), "genesis fields");
  must(link.cert.role === 1 && link.cert.gen === 1, "genesis certificate");
  must(same(link.signer, link.cert.id), "signer");
  verify(link.cert.ik, "pss1/link", link.raw, sig);
  return {
    account: accountId(link.raw), hashes: [hex(link.hash)], devices: [newDevice(link, 0)],
    epoch: 1, commits: { 1: link.commit }, boxKeys: [hex(link.cert.bk)],
  };
}

function add(chain, link, signer, pop) {
  verify(link.cert.ik, "pss1/link-pop", link.raw, pop);
  must(chain.devices.length < 255, "devices ever");
  must(link.epoch === chain.epoch && link.cert.gen === 1, "epoch or generation");
  must(!find(chain, hex(link.cert.id)), "device again");
  must(!chain.boxKeys.includes(hex(link.cert.bk)), "box key again");
  return {
    ...chain, devices: [...chain.devices, newDevice(link, chain.devices.length)],
    boxKeys: [...chain.boxKeys, hex(link.cert.bk)],
  };
}

function rotate(chain, link, signer) {
  must(link.epoch === chain.epoch + 1, "epoch");
  for (const cut of link.cuts) {
    const target = find(chain, cut.id);
    must(target && !target.cut, "revokes whom?");
    must(target !== signer, "revokes itself");
    must(target.role === 1 || signer.role === 2, "revokes the recovery key");
  }
  const devices = chain.devices.map((device) => {
    const cut = link.cuts.find((candidate) => candidate.id === device.id);
    return cut ? { ...device, cut } : device;
  });
  must(devices.some((device) => !device.cut && device.role === 1), "last device");
  return { ...chain, devices, epoch: link.epoch, commits: { ...chain.commits, [link.epoch]: link.commit } };
}

function rebox(chain, link, signer) {
  must(signer.role === 1 && link.gen === signer.gen + 1, "role or generation");
  must(!chain.boxKeys.includes(hex(link.bk)), "box key again");
  const devices = chain.devices.map((device) =>
    (device === signer ? { ...device, bk: link.bk, gen: link.gen } : device));
  return { ...chain, devices, boxKeys: [...chain.boxKeys, hex(link.bk)] };
}

// --- grants

export function openGrant(boxSecret, ownId, sealed, link, after) {
  must(sealed.length === 292, "sealed length");
  const plain = sealOpen(boxSecret, sealed);
  must(plain.length === 244, "plain length");
  const r = new Reader(plain);
  must(same(r.take(8), join(ascii("PSG1"), [1, 1, 0, 0])), "form");
  const [account, epoch, sender, recipient] = [r.take(32), r.int(4), r.take(16), r.take(16)];
  const [bk, seq, prev, ek, sig] = [r.take(32), r.int(8), r.take(32), r.take(32), r.take(64)];
  must(same(sender, link.signer), "sender");
  verify(find(after, hex(sender)).ik, "pss1/grant", plain.slice(0, 180), sig);
  must(same(recipient, ownId) && same(bk, boxPublic(boxSecret)), "recipient");
  must(same(account, after.account), "account");
  must(seq === link.seq && same(prev, link.prev), "link");
  const live = { ROTATE: [link.epoch], ADD: [link.epoch, link.epoch - 1] }[link.type] ?? [];
  must(live.includes(epoch), "epoch");
  must(after.commits[epoch] && same(after.commits[epoch], ekCommit(epoch, ek)), "commitment");
  return { plain, epoch, ek };
}

export function grantsDigest(grants) {
  const rows = grants
    .map((row) => hex(join(unhex(row.recipient_id), uint(row.epoch, 4), H("pss1/grant-ct", unhex(row.sealed)))))
    .sort();
  return H("pss1/grants", join(uint(rows.length, 2), ...rows.map(unhex)));
}

export function checkGrants(link, after, grants) {
  const got = grants.map((row) => `${row.recipient_id}/${row.epoch}`).sort();
  const whole = {
    ROTATE: () => [active(after).map((device) => `${device.id}/${link.epoch}`)],
    ADD: () => {
      const [now, before] = [link.epoch, link.epoch - 1].map((epoch) => `${hex(link.cert.id)}/${epoch}`);
      return link.epoch > 1 ? [[now], [before, now]] : [[now]];
    },
  }[link.type]?.() ?? [[]];
  must(whole.some((rows) => rows.sort().join() === got.join()), "missing or surplus grants");
  must(!link.digest || same(link.digest, grantsDigest(grants)), "grants digest");
}

// --- ops

export function readHeader(header) {
  must(header.length === 184, "header length");
  const r = new Reader(header);
  must(same(r.take(4), ascii("PSO1")) && r.int(1) === 1, "magic or suite");
  const kind = r.int(1);
  must((kind === 1 || kind === 2) && r.int(2) === 0, "kind or flags");
  const fields = {
    kind, account: r.take(32), epoch: r.int(4), device: hex(r.take(16)), seq: r.int(8),
    prev: hex(r.take(32)), lamport: r.int(8), tag: r.take(16), nonce: r.take(24), kc: r.take(32),
    size: r.int(4),
  };
  must(fields.epoch >= 1 && fields.seq >= 1 && fields.lamport >= 1, "zero");
  must(BUCKETS.includes(fields.size - 16), "bucket");
  return fields;
}

export function readOp(header, ct, sig) {
  const fields = readHeader(header);
  must(ct.length === fields.size && sig.length === 64, "length");
  const ctHash = H("pss1/op-ct", ct);
  return { ...fields, header, ct, sig, ctHash, hash: hex(H("pss1/op-hash", join(header, ctHash))) };
}

export const verifyOp = (op, ik) => verify(ik, "pss1/op", join(op.header, op.ctHash), op.sig);
export const opInit = (account, device) => hex(H("pss1/op-init", join(account, unhex(device))));

export function openOp(op, keys) {
  must(same(keys.account, op.account) && keys.epoch === op.epoch, "other keys");
  const okm = PRF(keys.rec, "pss1/op-key", op.header.slice(0, 148), 64);
  must(same(okm.slice(32), op.kc), "key commitment");
  const plain = unpad(aeadOpen(okm.slice(0, 32), op.nonce, op.header, op.ct));
  const p = readPlain(plain);
  must((p.verb <= 2) === (op.kind === 1), "kind");
  const tag = op.kind === 1 ? recordTag(keys, p.collection, p.key) : controlTag(keys, unhex(op.device));
  must(same(tag, op.tag), "tag");
  return { ...p, plain };
}

function readPlain(plain) {
  const r = new Reader(plain);
  must(r.int(1) === 1, "version");
  const verb = r.int(1);
  must(verb >= 1 && verb <= 4, "verb");
  const p = { verb, wall: r.int(8), chainSeq: r.int(8), chainHead: hex(r.take(32)) };
  const count = r.int(1);
  p.vec = Array.from({ length: count }, () => [r.int(1), r.int(8)]);
  must(ascending(p.vec.map(([index]) => index)), "vector");
  p.digest = hex(r.take(32));
  for (const [name, width] of [["collection", 2], ["key", 2], ["value", 4]]) p[name] = r.take(r.int(width));
  r.end();
  return p;
}

const ascending = (indices) =>
  indices.every((index, at) => index < 255 && (at === 0 || indices[at - 1] < index));
const headRows = (rows) => join(
  [rows.length],
  ...rows.map(([index, seq, hash]) => join([index], uint(seq, 8), unhex(hash))),
);
export const headsDigest = (rows) => hex(H("pss1/heads", headRows(rows)));

export function sealOp(seed, keys, f) {
  const plain = join(
    [1, f.verb], uint(f.wall, 8), uint(f.chain_seq, 8), unhex(f.chain_head), [f.vec.length],
    ...f.vec.map(([index, seq]) => join([index], uint(seq, 8))), unhex(headsDigest(f.vec)),
    short(unhex(f.collection)), short(unhex(f.key)), uint(f.value.length / 2, 4), unhex(f.value),
  );
  const padded = pad(plain, f.bucket);
  const device = deviceId(keypair(seed).publicKey);
  const tag = f.kind === 1 ? recordTag(keys, unhex(f.collection), unhex(f.key)) : controlTag(keys, device);
  const draft = join(
    ascii("PSO1"), [1, f.kind, 0, 0], keys.account, uint(keys.epoch, 4), device,
    uint(f.dev_seq, 8), unhex(f.prev), uint(f.lamport, 8), tag,
  );
  const nonce = PRF(keys.nonce, "pss1/op-nonce", join(unhex(f.rnd), draft, H("pss1/op-pt", padded)), 24);
  const okm = PRF(keys.rec, "pss1/op-key", join(draft, nonce), 64);
  const header = join(draft, nonce, okm.slice(32), uint(padded.length + 16, 4));
  const ct = aeadSeal(okm.slice(0, 32), nonce, header, padded);
  const sig = SIG(seed, "pss1/op", join(header, H("pss1/op-ct", ct)));
  return { header, ct, sig, plain };
}

// --- requests

export function requestHeader(account, device, f) {
  return join(
    ascii("PSR1"), [1, f.kind ?? 1, 0, 0], H("pss1/method", ascii(f.method), 16),
    H("pss1/audience", ascii(f.audience), 16), account, device, uint(f.ts_ms, 8), unhex(f.nonce),
    H("pss1/body", unhex(f.payload)),
  );
}

// --- checkpoints

export function checkpointValue(epoch, heads, winners) {
  const rows = winners.map((pair) => pair.join("")).sort();
  const state = H("pss1/state", join(...rows.map(unhex)));
  return join(ascii("PSC1"), uint(epoch, 4), headRows(heads), uint(rows.length, 4), state);
}

export function readCheckpoint(value) {
  const r = new Reader(value);
  must(same(r.take(4), ascii("PSC1")), "magic");
  r.int(4);
  const count = r.int(1);
  must(ascending(Array.from({ length: count }, () => { const index = r.int(1); r.take(40); return index; })), "heads");
  r.take(36);
  r.end();
}
