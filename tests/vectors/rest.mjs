// Pairing, receipts, recovery and enrolment, written down a second time.
import {
  H, PRF, Reader, SIG, aeadOpen, aeadSeal, ascii, boxPublic, hex, join, keypair, must, readCert,
  refuse, same, uint, unhex, verify, zeros,
} from "./pss1.mjs";

const BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const BASE45 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ $%*+-./:";
const ds = (label) => join([label.length], ascii(label));

export function base32(bytes) {
  const bits = [...bytes].map((byte) => byte.toString(2).padStart(8, "0")).join("");
  return bits.match(/.{5}/g).map((five) => BASE32[parseInt(five, 2)]).join("");
}

function unbase32(text) {
  const bits = [...text].map((char) => {
    must(BASE32.includes(char), "not base32");
    return BASE32.indexOf(char).toString(2).padStart(5, "0");
  }).join("");
  return Uint8Array.from(bits.match(/.{8}/g).map((byte) => parseInt(byte, 2)));
}

export function base45(bytes) {
  let out = "";
  for (let at = 0; at < bytes.length; at += 2) {
    const pair = bytes.slice(at, at + 2);
    let number = pair.reduce((sum, byte) => sum * 256 + byte, 0);
    for (let digit = 0; digit <= pair.length; digit += 1, number = Math.floor(number / 45)) out += BASE45[number % 45];
  }
  return out;
}

// --- recovery

export function paper(secret) {
  const check = base32(H("pss1/recovery-check", secret, 5)).slice(0, 4);
  return (base32(secret) + check).match(/.{4}/g).join("-");
}

export function readPaper(text) {
  const typed = text.replace(/[\s-]/g, "").toUpperCase();
  must(typed.length === 36, "length");
  const secret = unbase32(typed.slice(0, 32));
  must(paper(secret).replaceAll("-", "") === typed, "check");
  return secret;
}

export function recoveryKeys(secret) {
  const root = H("pss1/recovery", secret);
  const none = new Uint8Array();
  const seed = PRF(root, "pss1/recovery-ik", none);
  return { ik: keypair(seed).publicKey, bk: boxPublic(PRF(root, "pss1/recovery-bk", none)) };
}

// --- pairing

export function readInvite(bytes) {
  must(bytes.length === 149, "length");
  const r = new Reader(bytes);
  must(same(r.take(5), join(ascii("PSP1"), [1])), "magic or suite");
  const [account, inviter, rendezvous, secret, expiry] = [32, 16, 16, 32, 8].map((size) => r.take(size));
  const okm = PRF(secret, "pss1/pair-keys", join(rendezvous, account, inviter, expiry), 64);
  return { secret, rendezvous, ne: okm.slice(0, 32), en: okm.slice(32) };
}

const context = (invite, which) => join(ds(`pss1/pair-${which}`), invite.rendezvous);
function openMessage(invite, which, message) {
  must(message.length >= 40, "length");
  const key = which === 2 ? invite.en : invite.ne;
  return aeadOpen(key, message.slice(0, 24), context(invite, which), message.slice(24));
}

export function readM1(invite, message) {
  const plain = openMessage(invite, 1, message);
  must(plain.length === 108, "length");
  readCert(plain.slice(0, 76));
  return { cert: plain.slice(0, 76), commitment: plain.slice(76) };
}

const ADD_BYTES = 208;

function readPolicyKeys(bytes) {
  if (bytes.length === 0) return [];
  const r = new Reader(bytes);
  must(same(r.take(4), ascii("PSG1")), "magic");
  const [count] = r.take(1);
  must(count >= 1 && count <= 4 && bytes.length === 5 + 32 * count, "number");
  const keys = Array.from({ length: count }, () => hex(r.take(32)));
  must(new Set(keys).size === count, "twice");
  return keys;
}

export function readM2(invite, message) {
  const plain = openMessage(invite, 2, message);
  must(plain.length >= 32 + ADD_BYTES, "length");
  const [link, policy] = [plain.slice(32, 32 + ADD_BYTES), plain.slice(32 + ADD_BYTES)];
  return { nonce: plain.slice(0, 32), link, policy, keys: readPolicyKeys(policy) };
}

export function readM3(invite, message, commitment) {
  const plain = openMessage(invite, 3, message);
  must(plain.length === 96, "length");
  must(same(H("pss1/pair-commit", plain.slice(0, 32)), commitment), "commitment");
  return { nonce: plain.slice(0, 32), pop: plain.slice(32) };
}

export function sealMessage(invite, which, nonce, plain) {
  const key = which === 2 ? invite.en : invite.ne;
  return join(nonce, aeadSeal(key, nonce, context(invite, which), plain));
}

export function code(invite, m1, eNonce, nNonce, policy) {
  const bound = policy.length ? H("pss1/pair-policy", policy) : [];
  const seed = join(H("pss1/pair-m1", m1), eNonce, nNonce, bound);
  const out = PRF(invite.secret, "pss1/pair-code", seed, 16).slice(0, 8);
  return String(BigInt(`0x${hex(out)}`) % 1000000n).padStart(6, "0");
}

// --- receipts

const receiptLabel = (row) => (row.deleted ? "pss1/receipt-deleted" : "pss1/receipt");

export function readReceipt(row) {
  const raw = unhex(row.receipt);
  must(raw.length === 200, "length");
  verify(unhex(row.server_pk), receiptLabel(row), raw.slice(0, 136), raw.slice(136));
  const r = new Reader(raw);
  must(same(r.take(5), join(ascii("PST1"), [1])) && zeros(r.take(3)), "form");
  const fields = [32, 8, 32, 32, 8].map((size) => r.take(size));
  must(same(r.take(16), unhex(row.nonce)), "nonce");
  return fields;
}

export function makeReceipt(row) {
  const body = join(
    ascii("PST1"), [1, 0, 0, 0], unhex(row.account_id), uint(row.chain_seq, 8), unhex(row.chain_head),
    unhex(row.heads_digest), uint(row.server_ms, 8), unhex(row.nonce),
  );
  return join(body, SIG(unhex(row.server_seed), receiptLabel(row), body));
}

// --- enrolment

export function readToken(row) {
  const raw = unhex(row.token);
  must(raw.length === 160, "length");
  const body = raw.slice(0, -64);
  verify(unhex(row.issuer_pk), "pss1/enrol-token", body, raw.slice(-64));
  const r = new Reader(body);
  must(same(r.take(5), join(ascii("PSE1"), [1])) && zeros(r.take(3)), "form");
  must(same(r.take(16), H("pss1/audience", ascii(row.audience), 16)), "audience");
  must(same(r.take(32), unhex(row.genesis)), "genesis");
  const [subject, expiry] = [r.take(32), r.int(8)];
  r.end();
  must(expiry > row.now_ms, "expired");
  return { subject, expiry };
}

export function makeToken(row, subject) {
  const body = join(
    ascii("PSE1"), [1, 0, 0, 0], H("pss1/audience", ascii(row.audience), 16), unhex(row.genesis),
    subject, uint(row.expiry_ms, 8),
  );
  return join(body, SIG(unhex(row.issuer_seed), "pss1/enrol-token", body));
}

export const subjectOf = (row) => PRF(unhex(row.salt), "pss1/subject", ascii(row.user_id));

export function checkWork(row) {
  const digest = H("pss1/enrol-pow", join(unhex(row.genesis), uint(row.hour, 8), uint(row.counter, 8)));
  if (BigInt(`0x${hex(digest)}`) >> BigInt(256 - row.bits) !== 0n) refuse("too weak");
}
