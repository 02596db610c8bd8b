// Consent: entries and receipts, written down a second time.
import { H, PRF, Reader, SIG, ascii, hex, join, keypair, must, same, uint, unhex, verify, zeros } from "./pss1.mjs";
import { cbor, uncbor } from "./aggregates.mjs";

const NAME = /^[a-z0-9._\/-]{1,128}$/;
const HEX = /^[0-9a-f]{64}$/;
const FIELDS = "account at_ms blind granted policy prev purpose text version";

function readEntry(raw) {
  must(raw.length === 144, "length");
  const r = new Reader(raw);
  must(same(r.take(5), join(ascii("PSN1"), [1])), "magic or suite");
  const state = r.int(1);
  must(state <= 1 && r.int(2) === 0, "state or flags");
  const account = r.take(32);
  const seq = r.int(8);
  const [prev, tag, receiptHash] = [r.take(32), r.take(32), r.take(32)];
  must(seq >= 1 && (seq === 1) === zeros(prev), "seq and prev");
  return { account, seq, prev, tag, receiptHash, granted: state === 1, hash: H("pss1/consent-hash", raw) };
}

function readReceipt(raw) {
  must(raw.length <= 1024, "length");
  const said = uncbor(raw);
  must(Object.keys(said).sort().join(" ") === FIELDS && said.version === 1, "fields");
  for (const name of ["account", "text", "prev", "blind"]) must(HEX.test(said[name]), name);
  must(NAME.test(said.purpose) && typeof said.granted === "boolean", "purpose or state");
  must(Number.isInteger(Number(said.policy)) && said.policy >= 1 && said.at_ms >= 0, "numbers");
  return { ...said, hash: H("pss1/consent-receipt", raw) };
}

const saltOf = (key, purpose) => PRF(key, "pss1/consent-salt", ascii(purpose));
const tagOf = (account, salt, purpose) => H("pss1/consent-tag", join(account, salt, ascii(purpose)));

const NOTHING = { seq: 0, hash: new Uint8Array(32), receiptHash: new Uint8Array(32) };
const entryBefore = (row) => (row.before ? readEntry(unhex(row.before)) : NOTHING);

export function readConsent(row) {
  const raw = unhex(row.entry);
  const entry = readEntry(raw);
  verify(unhex(row.ik_pk), "pss1/consent", raw, unhex(row.sig));
  const receipt = readReceipt(unhex(row.receipt));
  const last = entryBefore(row);
  must(hex(entry.account) === receipt.account, "account");
  must(!row.before || same(entry.account, last.account), "account before");
  must(entry.seq === last.seq + 1 && same(entry.prev, last.hash), "place");
  must(same(entry.receiptHash, receipt.hash) && entry.granted === receipt.granted, "receipt");
  must(receipt.prev === hex(last.receiptHash), "receipt before");
  const salt = saltOf(unhex(row.aggregation_key), receipt.purpose);
  must(same(entry.tag, tagOf(entry.account, salt, receipt.purpose)), "tag");
  return { entry, receipt, salt };
}

export function checkConsent(row, equal) {
  const { entry, receipt, salt } = readConsent(row);
  equal("entry_hash", entry.hash, row.entry_hash);
  equal("receipt_hash", receipt.hash, row.receipt_hash);
  equal("salt", salt, row.salt);
  equal("tag", entry.tag, row.tag);
  equal("ik_pk", keypair(unhex(row.seed)).publicKey, row.ik_pk);
  const last = entryBefore(row);
  const again = cbor({
    version: 1, account: row.account, purpose: row.purpose, policy: row.policy, text: row.text,
    granted: row.granted, at_ms: row.at_ms, prev: hex(last.receiptHash), blind: row.blind,
  });
  equal("receipt", again, row.receipt);
  const raw = join(
    ascii("PSN1"), [1, row.granted ? 1 : 0, 0, 0], unhex(row.account), uint(row.seq, 8), last.hash,
    unhex(row.tag), H("pss1/consent-receipt", again),
  );
  equal("entry", raw, row.entry);
  equal("sig", SIG(unhex(row.seed), "pss1/consent", raw), row.sig);
}
