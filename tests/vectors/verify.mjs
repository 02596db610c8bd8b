// Verifies a file of pss1 vectors: `node verify.mjs FILE`. Prints failures and the count.
// Positives must come out byte for byte; negatives must be refused; verdicts must agree.
import { readFileSync } from "node:fs";

import * as p from "./pss1.mjs";
import * as consents from "./consents.mjs";
import * as ondevice from "./ondevice.mjs";
import * as policies from "./policies.mjs";
import * as rest from "./rest.mjs";
import * as successions from "./successions.mjs";
import * as wake from "./wake.mjs";
import { joint } from "./joint.mjs";
import { Client, checkOp, rowsOf } from "./judge.mjs";

const { ascii, hex, join, must, unhex } = p;
const file = JSON.parse(readFileSync(process.argv[2], "utf8"));
const account = unhex(file.account_id);
let passed = 0;
const failures = [];

function holds(name, action) {
  try { action(); passed += 1; } catch (error) { failures.push(`${name}: ${error.stack}`); }
}

function refused(name, action) {
  try { action(); failures.push(`${name}: accepted`); } catch (error) {
    if (error instanceof p.Refused) passed += 1;
    else failures.push(`${name}: ${error.stack}`);
  }
}

const each = (section, rows, check) =>
  Object.entries(rows ?? {}).forEach(([at, row]) => holds(`${section} ${row.name ?? at}`, () => check(row, at)));
const equal = (what, got, stated) => must(hex(got) === stated, `${what} is ${hex(got).slice(0, 32)}`);
const keysOf = (epoch) => p.epochKeys(account, Number(epoch), unhex(file.epoch_key[epoch]));
const person = (name) => file.devices[name];

function boxSecrets(name) {
  const row = person(name);
  const later = Object.keys(row).filter((key) => /^bk_sk_gen\d+$/.test(key));
  later.sort((a, b) => Number(b.slice(9)) - Number(a.slice(9)));
  return [...later, "bk_sk"].map((key) => unhex(row[key]));
}

// --- positives

each("primitives", file.primitives, (row) => {
  const message = unhex(row.msg);
  const got = {
    H: () => p.H(row.label, message, row.n),
    PRF: () => p.PRF(unhex(row.key), row.label, message, row.n),
    SIG: () => p.SIG(unhex(row.seed), row.label, message),
  }[row.fn]();
  equal("out", got, row.out);
  if (row.fn === "SIG") p.verify(unhex(row.pk), row.label, message, got);
});

each("devices", file.devices, (row) => {
  const ik = p.keypair(unhex(row.ik_seed)).publicKey;
  equal("ik_pk", ik, row.ik_pk);
  equal("device_id", p.deviceId(ik), row.device_id);
  for (const key of Object.keys(row).filter((name) => name.startsWith("bk_sk"))) {
    const stated = row[key.replace("bk_sk", "bk_pk")];
    if (stated) equal(key, p.boxPublic(unhex(row[key])), stated);
  }
});

each("ek_commit", file.ek_commit, (stated, epoch) =>
  equal("ek_commit", p.ekCommit(epoch, unhex(file.epoch_key[epoch])), stated));
each("epoch_keys", file.epoch_keys, (row, epoch) => {
  const keys = keysOf(epoch);
  for (const name of ["rec", "tag", "nonce"]) equal(name, keys[name], row[name]);
});

each("tags", file.tags, (row) => {
  const keys = keysOf(row.epoch);
  equal("tag", row.device
    ? p.controlTag(keys, unhex(person(row.device).device_id))
    : p.recordTag(keys, ascii(row.collection), ascii(row.key)), row.tag);
});

const chains = [p.EMPTY];
each("links", file.links, (row, at) => {
  const chain = p.extend(chains[at], unhex(row.link), unhex(row.sig), unhex(row.pop));
  chains.push(chain);
  must(chain.hashes.at(-1) === row.link_hash, "link_hash");
  must(chain.epoch === row.epoch, "epoch");
  must(p.active(chain).map((device) => device.id).sort().join() === [...row.active].sort().join(), "active");
  must(p.readLink(unhex(row.link)).type === row.type, "type");
});
const chain = chains.at(-1);
holds("account_id", () => equal("account_id", p.accountId(unhex(file.links[0].link)), file.account_id));

function linkAt(seq) {
  must(file.links[seq], "no such link");
  return [p.readLink(unhex(file.links[seq].link)), chains[seq + 1]];
}

each("grants", file.grants, (row) => {
  const [link, after] = linkAt(row.link_seq);
  const id = unhex(person(row.recipient).device_id);
  const boxPk = hex(p.find(after, hex(id)).bk);
  const secret = boxSecrets(row.recipient).find((candidate) => hex(p.boxPublic(candidate)) === boxPk);
  const opened = p.openGrant(secret, id, unhex(row.sealed), link, after);
  equal("ek", opened.ek, row.ek);
  equal("plain", opened.plain, row.plain);
  equal("sealed again", p.sealWith(unhex(row.esk), unhex(boxPk), opened.plain), row.sealed);
});

const asOp = (row) => p.readOp(unhex(row.header), unhex(row.ct), unhex(row.sig));

each("ops", file.ops, (row) => {
  const op = asOp(row);
  const author = person(row.author);
  p.verifyOp(op, unhex(author.ik_pk));
  must(op.device === author.device_id && op.hash === row.op_hash, "author or op_hash");
  const opened = p.openOp(op, keysOf(row.epoch));
  equal("plain", opened.plain, row.plain);
  equal("tag", op.tag, row.tag);
  const again = p.sealOp(unhex(author.ik_seed), keysOf(row.epoch), {
    ...row, prev: op.prev, bucket: op.size - 16,
  });
  for (const name of ["plain", "header", "ct", "sig"]) equal(name, again[name], row[name]);
  if (row.stub) equal("stub", join(op.header, op.ctHash, op.sig), row.stub);
});

each("padding", file.padding, (row) => {
  must(p.bucketOf(row.len) === row.bucket, "bucket");
  if (row.padded) equal("padded", p.pad(ascii("p".repeat(row.len)), row.bucket), row.padded);
});

function header(fields) {
  return p.requestHeader(unhex(fields.account_id ?? file.account_id), unhex(person(fields.device).device_id), fields);
}

each("requests", file.requests ?? [file.request], (row) => {
  equal("header", header(row), row.header);
  equal("sig", p.SIG(unhex(person(row.device).ik_seed), "pss1/req", unhex(row.header)), row.sig);
  p.verify(unhex(person(row.device).ik_pk), "pss1/req", unhex(row.header), unhex(row.sig));
});

// --- the section `more`

const together = joint(file, equal);
const parts = {
  ...together.parts,
  recovery(row) {
    const secret = unhex(row.secret);
    must(rest.paper(secret) === row.paper, "paper");
    equal("secret", rest.readPaper(row.paper), row.secret);
    const keys = rest.recoveryKeys(secret);
    equal("ik_pk", keys.ik, row.ik_pk);
    equal("bk_pk", keys.bk, row.bk_pk);
  },
  pairing(row) {
    must(rest.base45(unhex(row.invite)) === row.text, "text");
    const invite = rest.readInvite(unhex(row.invite));
    const m1 = rest.readM1(invite, unhex(row.m1));
    const m2 = rest.readM2(invite, unhex(row.m2));
    const m3 = rest.readM3(invite, unhex(row.m3), m1.commitment);
    equal("cert", m1.cert, row.cert);
    equal("link", m2.link, row.link);
    must(m2.keys.join() === (row.policy_keys ?? []).join(), "policy keys");
    equal("pop", m3.pop, row.pop);
    must(rest.code(invite, unhex(row.m1), m2.nonce, m3.nonce, m2.policy) === row.code, "code");
    const plains = [join(m1.cert, m1.commitment), join(m2.nonce, m2.link, m2.policy), join(m3.nonce, m3.pop)];
    plains.forEach((plain, at) => {
      const stated = row[`m${at + 1}`];
      equal(`m${at + 1}`, rest.sealMessage(invite, at + 1, unhex(stated).slice(0, 24), plain), stated);
    });
  },
  receipts(row) {
    rest.readReceipt(row);
    must(p.headsDigest(row.heads) === row.heads_digest, "heads digest");
    equal("receipt", rest.makeReceipt(row), row.receipt);
  },
  checkpoints(row) {
    p.readCheckpoint(unhex(row.value));
    equal("value", p.checkpointValue(row.epoch, row.heads, row.winners), row.value);
  },
  tokens(row) {
    const subject = rest.subjectOf(row);
    equal("subject", rest.readToken(row).subject, hex(subject));
    equal("token", rest.makeToken(row, subject), row.token);
  },
  work: rest.checkWork,
  successions: (row) => successions.checkSuccession(row, equal),
  consents: (row) => consents.checkConsent(row, equal),
  policies: (row) => policies.checkPolicy(row, equal),
  policy_flags: policies.checkFlag,
  policy_values: policies.checkValue,
  variants: ondevice.checkVariant,
  cohorts: ondevice.checkCohort,
  wake_handles: (row) => wake.checkHandle(row, equal),
  grant_sets: (row) => p.checkGrants(...linkAt(row.link_seq), row.grants),
};
Object.entries(file.more ?? {}).forEach(([part, rows]) => each(`more.${part}`, rows, parts[part]));

// --- negatives

const known = rowsOf(file.ops);

function refusedOp(row, opened) {
  const op = asOp(row);
  const author = person(row.author);
  must(op.device === author.device_id, "author");
  p.verifyOp(op, unhex(author.ik_pk));
  const payload = opened ? p.openOp(op, keysOf(row.epoch)) : null;
  checkOp(op, payload, chain, known, must);
}

function pairingMessage(row) {
  const invite = rest.readInvite(unhex(row.invite));
  const read = {
    invite: () => null,
    m1: () => rest.readM1(invite, unhex(row.m1)),
    m2: () => rest.readM2(invite, unhex(row.m2)),
    m3: () => rest.readM3(invite, unhex(row.m3), unhex(row.commitment)),
  };
  read[row.message]();
}

const kinds = {
  ...together.negatives,
  "op-server": (row) => refusedOp(row, false),
  "op-client": (row) => refusedOp(row, true),
  chain: (row) => p.extend(chains[row.prefix], unhex(row.link), unhex(row.sig), unhex(row.pop)),
  grant(row) {
    const id = unhex(person(row.recipient).device_id);
    p.openGrant(boxSecrets(row.recipient)[0], id, unhex(row.sealed), ...linkAt(row.link_seq));
  },
  request(row) {
    const fields = { ...(file.request ?? {}), ...row, kind: row.call_kind ?? file.request.kind };
    equal("header", header(fields), row.header);
    p.verify(unhex(person(fields.device).ik_pk), "pss1/req", unhex(row.header), unhex(row.sig));
  },
  cert: (row) => p.readCert(unhex(row.cert)),
  recovery: (row) => rest.readPaper(row.paper),
  pairing: pairingMessage,
  receipt: rest.readReceipt,
  succession: successions.readSuccession,
  checkpoint: (row) => p.readCheckpoint(unhex(row.value)),
  token: rest.readToken,
  work: rest.checkWork,
  consent: consents.readConsent,
  policy: policies.readPolicy,
  "wake-handle": wake.openHandle,
  "grant-set": (row) => p.checkGrants(...linkAt(row.link_seq), row.grants),
};

function everyBit(row) {
  const whole = join(unhex(row.header), unhex(row.ct), unhex(row.sig));
  const ik = unhex(person(row.author).ik_pk);
  for (let bit = 0; bit < 8 * whole.length; bit += 1) {
    whole[bit >> 3] ^= 0x80 >> (bit & 7);
    let accepted = true;
    try {
      p.verifyOp(p.readOp(whole.slice(0, 184), whole.slice(184, -64), whole.slice(-64)), ik);
    } catch (error) {
      if (!(error instanceof p.Refused)) throw error;
      accepted = false;
    }
    if (accepted) throw new Error(`accepted with bit ${bit} flipped`);
    whole[bit >> 3] ^= 0x80 >> (bit & 7);
  }
}

for (const row of file.negatives ?? []) {
  if (row.kind === "op-bitflip") holds(row.name, () => everyBit(row));
  else if (kinds[row.kind]) refused(row.name, () => kinds[row.kind](row));
  else failures.push(`${row.name}: unknown kind ${row.kind}`);
}

// --- scenarios

each("scenarios", file.scenarios, (row) => {
  const keys = Object.fromEntries(Object.keys(file.epoch_key).map((epoch) => [epoch, keysOf(epoch)]));
  const client = new Client(chains[row.chain_links], keys);
  row.deliver.forEach((item, at) => {
    const [got, stated] = [client.deliver(item), row.expect[at].split(":")[0]];
    must(got === stated, `item ${at} is ${got}, the file says ${row.expect[at]}`);
  });
});

for (const failure of failures) console.log(`FAILED ${failure}`);
console.log(`${passed} passed, ${failures.length} failed`);
process.exitCode = failures.length ? 1 : 0;
