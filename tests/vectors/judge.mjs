// A fresh client's verdicts (docs/protocol.md, 3), written down a second time.
import {
  Refused, headsDigest, openOp, opInit, readOp, same, unhex, verifyOp,
} from "./pss1.mjs";

const NAME = /^[a-z0-9._/-]{1,128}$/;
const PART = /^[a-z0-9._/-]{1,128}(#(0|[1-9][0-9]?|1[0-9]{2}|2[0-4][0-9]|25[0-4]))?$/;
const text = (bytes) => String.fromCharCode(...bytes);
export const allowed = (payload) => NAME.test(text(payload.collection)) && PART.test(text(payload.key));

function attempt(action) {
  try { return action(); } catch (error) {
    if (error instanceof Refused) return null;
    throw error;
  }
}

export class Client {
  constructor(chain, keys) {
    this.chain = chain;
    this.keys = keys;
    this.lamport = 0;
    this.logs = chain.devices.map((device) => ({ hashes: [opInit(chain.account, device.id)], fork: Infinity }));
  }

  // Verdict on one op. Authentic ops in their place count as held, whatever is in them.
  op(header, ct, sig) {
    const op = attempt(() => readOp(header, ct, sig));
    if (!op || !same(op.account, this.chain.account)) return "REJECT";
    const device = this.chain.devices.find((candidate) => candidate.id === op.device);
    if (!device) return this.stranger(op);
    if (device.role !== 1 || attempt(() => (verifyOp(op, device.ik), true)) === null) return "REJECT";
    const log = this.logs[device.index];
    return this.place(op, device, log) ?? this.take(op, device, log);
  }

  // An op may come before the link that adds its author: then its keys open it all the same.
  stranger(op) {
    const keys = this.keys[op.epoch];
    const payload = keys && attempt(() => openOp(op, keys));
    const later = payload && payload.chainSeq >= this.chain.hashes.length;
    return later || op.epoch > this.chain.epoch ? "HOLD" : "REJECT";
  }

  place(op, device, log) {
    const held = log.hashes.length - 1;
    if (device.cut && op.seq > device.cut.seq) return "REJECT";
    if (device.cut && op.seq === device.cut.seq && op.hash !== device.cut.head) return "FORK";
    if (op.seq >= log.fork) return "FORK";
    if (op.seq <= held) {
      if (log.hashes[op.seq] === op.hash) return "DUP";
      return this.forked(log, op.seq);
    }
    if (op.seq > held + 1) return "HOLD";
    if (op.prev !== log.hashes[held]) return this.forked(log, held);
    return op.epoch > this.chain.epoch || !this.keys[op.epoch] ? "HOLD" : null;
  }

  forked(log, seq) {
    log.fork = Math.max(seq, 1);
    log.hashes.length = log.fork;
    return "FORK";
  }

  take(op, device, log) {
    let verdict = this.content(op, device);
    if (verdict === "HOLD") return verdict;
    if (op.lamport > this.lamport + 4096) verdict = "REJECT";
    if (verdict !== "REJECT") this.lamport = Math.max(this.lamport, op.lamport);
    log.hashes.push(op.hash);
    return verdict;
  }

  content(op, device) {
    const payload = attempt(() => openOp(op, this.keys[op.epoch]));
    if (!payload || (op.kind === 1 && !allowed(payload))) return "REJECT";
    if (payload.chainSeq >= this.chain.hashes.length) return "HOLD";
    if (payload.chainHead !== this.chain.hashes[payload.chainSeq]) return "FORK";
    const own = payload.vec.find(([index]) => index === device.index)?.[1] ?? 0;
    if (own !== op.seq - 1) return "REJECT";
    return this.vector(payload);
  }

  vector(payload) {
    const rows = [];
    let verdict = "OK";
    let complete = true;
    for (const [index, seq] of payload.vec) {
      const device = this.chain.devices[index];
      if (!device || seq < 1 || device.addedSeq > payload.chainSeq) return "REJECT";
      const log = this.logs[index];
      if (seq >= log.fork || (device.cut && seq > device.cut.seq)) complete = false;
      else if (seq >= log.hashes.length) verdict = "HOLD";
      else rows.push([index, seq, log.hashes[seq]]);
    }
    if (verdict === "HOLD" || !complete) return verdict;
    return headsDigest(rows) === payload.digest ? "OK" : "FORK";
  }

  // Verdict on the heads that the service says it holds.
  receipt(rows) {
    const said = new Map(rows.map(([index, seq, hash]) => [index, { seq, hash }]));
    const verdicts = this.logs.map((log, index) => {
      const { seq, hash } = said.get(index) ?? { seq: 0, hash: "" };
      const held = log.hashes.length - 1;
      const { cut } = this.chain.devices[index];
      if (seq >= log.fork || (cut && seq > cut.seq)) return "OK";
      if (seq > held) return "HOLD";
      return seq < held || (seq && log.hashes[seq] !== hash) ? "FORK" : "OK";
    });
    if ([...said.keys()].some((index) => index >= this.logs.length)) verdicts.push("HOLD");
    return ["FORK", "HOLD"].find((verdict) => verdicts.includes(verdict)) ?? "OK";
  }

  deliver(item) {
    if (item.receipt) return this.receipt(item.receipt);
    return this.op(unhex(item.header), unhex(item.ct), unhex(item.sig));
  }
}

// What an op and the file's other ops show, of an op that no client has to place.
export function checkOp(op, payload, chain, known, must) {
  const before = op.seq === 1 ? opInit(op.account, op.device) : known.get(`${op.device}/${op.seq - 1}`);
  must(!before || op.prev === before, "prev");
  const author = chain.devices.find((device) => device.id === op.device);
  must(author && author.role === 1, "author");
  must(!author.cut || op.seq <= author.cut.seq, "cut");
  if (!payload) return;
  must(op.kind === 2 || allowed(payload), "name");
  must(payload.vec.every(([, seq]) => seq >= 1), "vector");
  const head = chain.hashes[payload.chainSeq];
  must(!head || head === payload.chainHead, "chain head");
  must((payload.vec.find(([index]) => index === author.index)?.[1] ?? 0) === op.seq - 1, "own row");
  const rows = payload.vec.map(([index, seq]) =>
    [index, seq, known.get(`${chain.devices[index]?.id}/${seq}`)]);
  must(rows.some(([, , hash]) => !hash) || headsDigest(rows) === payload.digest, "heads digest");
}

export const rowsOf = (ops) => new Map(ops.map((row) => {
  const op = readOp(unhex(row.header), unhex(row.ct), unhex(row.sig));
  return [`${op.device}/${op.seq}`, op.hash];
}));
