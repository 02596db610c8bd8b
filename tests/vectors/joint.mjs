// What a file of vectors says of joint aggregates: parts of the section `more`, and negatives.
import { SIG, boxPublic, hex, join, keypair, must, sealWith, unhex } from "./pss1.mjs";
import * as a from "./aggregates.mjs";
import * as k from "./kinds.mjs";

export function joint(file, equal) {
  const at = (part, place) => { must(file.more[part][place], `no more.${part}[${place}]`); return file.more[part][place]; };
  const many = (rows) => rows.map(unhex);
  const equals = (what, got, stated) => equal(what, join(...got), stated.join(""));
  const kindOf = (row) => k.kindOf(row.of, row.field);
  const openTask = (row) => a.readTask(unhex(row.published), unhex(row.publisher_pk));
  const taskOf = (row) => openTask(at("tasks", row.of_task));
  const pinnedOf = (row) => row.pinned ?? row.parties.map((party) => party.ik_pk);
  const openRound = (row) => a.readRound(unhex(row.published), pinnedOf(row), taskOf(row));

  function roundOf(row) {
    const found = at("rounds", row.of_round);
    return { found, task: taskOf(found), round: a.readManifest(unhex(found.manifest)) };
  }

  const parts = {
    prg: (row) => {
      const field = k.fieldOf(row.field);
      equal("elements", k.toBytes(field, k.prg(field, unhex(row.seed), row.count)), row.elements);
    },

    sharings(row) {
      const [field, id] = [k.fieldOf(row.field), unhex(row.report_id)];
      const vector = k.fromBytes(field, unhex(row.values), row.values.length / 2 / field.width);
      const shares = a.split(field, vector, row, id, many(row.seeds));
      must(shares.length === row.shares.length, "number of shares");
      row.shares.forEach((stated, place) => {
        must(stated.party === place + 1 && stated.form === shares[place].form, "party or form");
        equal("payload", shares[place].payload, stated.payload);
      });
      // The last t + 1 of them give the vector back.
      const last = shares.map((share, place) => [place + 1, a.elementsOf(field, share, vector.length)]).slice(-row.t - 1);
      equal("values again", k.toBytes(field, k.interpolate(field, new Map(last), 0)), row.values);
    },

    encodings(row) {
      const kind = kindOf(row);
      const vector = k.encode(kind, row.value);
      equal("vector", k.toBytes(kind.field, vector), row.vector);
      must(vector.length === kind.length && kind.bits === row.bits, "length or bits");
      must(k.residues(kind, vector).every((one) => one === 0n), "an equation is broken");
    },

    checks(row) {
      const kind = kindOf(row);
      const rows = many(row.rows).map((bytes) => k.fromBytes(kind.field, bytes, kind.length));
      k.checks(kind, unhex(row.coin), row.kappa, rows).forEach((got, place) => {
        for (const name of ["D", "Q"]) equal(name, k.toBytes(kind.field, got[name]), row[name][place]);
      });
    },

    tasks(row) {
      const task = openTask(row);
      equal("task", task.bytes, row.task);
      equal("task again", a.makeTask(unhex(row.publisher_seed), row.fields), row.published);
      equal("spec_hash", task.specHash, row.spec_hash);
      equal("publisher_pk", keypair(unhex(row.publisher_seed)).publicKey, row.publisher_pk);
      must(task.kind.length === row.length && task.kind.d === row.outputs, "length or outputs");
      must(task.cost === BigInt(row.cost_micro_rho), `cost is ${task.cost}`);
    },

    rounds(row) {
      const [round, task] = [openRound(row), taskOf(row)];
      const manifest = a.makeManifest(row, task.specHash, task.t);
      equal("manifest", manifest, row.manifest);
      equal("round_digest", round.digest, row.round_digest);
      row.parties.forEach((party, place) => {
        equal("ik_pk", round.parties[place].ik, party.ik_pk);
        equal("box_pk", round.parties[place].box, party.box_pk);
      });
      const sigs = row.parties.map((party) => SIG(unhex(party.ik_seed), "pss1/round-sig", manifest));
      equal("published again", join(manifest, ...sigs), row.published);
    },

    contributions(row) {
      const { found, task, round } = roundOf(row);
      const [id, bytes, boxes] = [unhex(row.report_id), unhex(row.header), many(row.boxes)];
      const own = a.nullifier(unhex(row.aggregation_key), round.digest);
      equal("nullifier", own, row.nullifier);
      equal("header", a.makeHeader(round, id, own), row.header);
      const header = a.checkUpload(round, task, bytes, boxes);
      equal("report_hash", header.hash, row.report_hash);
      must(a.seeded(id, round.m, round.t).join() === row.seeded.join(), "seeded");
      const shares = a.split(task.kind.field, k.encode(task.kind, row.value), round, id, many(row.seeds));
      const plains = shares.map((share, place) => a.makeShare(round, task, header, place + 1, share));
      equals("shares", plains, row.shares);
      equals("boxes", plains.map((plain, place) =>
        sealWith(unhex(row.esks[place]), round.parties[place].box, plain)), row.boxes);
      must(bytes.length + boxes.reduce((size, box) => size + box.length, 0) === row.upload_bytes, "bytes");
      boxes.forEach((box, place) => {
        const secret = unhex(found.parties[place].box_sk);
        const opened = a.openBox(round, task, place + 1, secret, bytes, box);
        must(hex(opened.payload) === hex(shares[place].payload), "opened share");
      });
    },

    results(row) {
      const { found, task, round } = roundOf(row);
      const bytes = unhex(row.result);
      const said = a.readResult(round, task, bytes, row.sigs);
      equal("result again", a.cbor(row.fields), row.result);
      for (const name of ["reports", "inconsistent", "invalid", "refused", "noise_of", "checked"]) {
        must(JSON.stringify(said[name]) === JSON.stringify(row[name]), name);
      }
      const told = a.outcome(task, row.sums);
      if (told !== null) must(JSON.stringify(said.sums ?? said.bins) === JSON.stringify(told), "outcome");
      for (const [party, sig] of Object.entries(row.sigs)) {
        const seed = unhex(found.parties[party - 1].ik_seed);
        equal("signature again", SIG(seed, "pss1/result", join(round.digest, bytes)), sig);
      }
    },
  };

  const negatives = {
    kind: kindOf,
    value: (row) => k.encode(kindOf(row), row.value),
    task: openTask,
    round: openRound,
    upload(row) {
      const { round, task } = roundOf(row);
      a.checkUpload(round, task, unhex(row.header), many(row.boxes));
    },
    box(row) {
      const { found, task, round } = roundOf(row);
      const secret = unhex(found.parties[row.party - 1].box_sk);
      must(same(boxPublic(secret), round.parties[row.party - 1].box), "box key");
      a.openBox(round, task, row.party, secret, unhex(row.header), unhex(row.box));
    },
    result(row) {
      const { round, task } = roundOf(row);
      a.readResult(round, task, unhex(row.result), row.sigs);
    },
  };
  return { parts, negatives };
}

const same = (a_, b) => hex(a_) === hex(b);
