// Successions of a service's identity key, written down a second time.
import { H, Reader, SIG, ascii, join, keypair, must, same, uint, unhex, verify, zeros } from "./pss1.mjs";

export function readSuccession(row) {
  const raw = unhex(row.succession);
  must(raw.length === 232, "length");
  const r = new Reader(raw);
  must(same(r.take(5), join(ascii("PSK1"), [1])) && zeros(r.take(3)), "form");
  must(same(r.take(16), H("pss1/audience", ascii(row.audience), 16)), "audience");
  const [oldKey, newKey] = [r.take(32), r.take(32)];
  const [made, until] = [r.int(8), r.int(8)];
  must(!same(oldKey, newKey) && until >= made, "keys or times");
  const body = raw.slice(0, 104);
  verify(oldKey, "pss1/succession-old", body, raw.slice(104, 168));
  verify(newKey, "pss1/succession-new", body, raw.slice(168));
  return { oldKey, newKey, made, until };
}

export function checkSuccession(row, equal) {
  const opened = readSuccession(row);
  equal("old_pk", opened.oldKey, row.old_pk);
  equal("new_pk", opened.newKey, row.new_pk);
  must(opened.made === row.made_ms && opened.until === row.until_ms, "times");
  const body = join(
    ascii("PSK1"), [1, 0, 0, 0], H("pss1/audience", ascii(row.audience), 16), unhex(row.old_pk),
    unhex(row.new_pk), uint(row.made_ms, 8), uint(row.until_ms, 8),
  );
  const again = join(
    body, SIG(unhex(row.old_seed), "pss1/succession-old", body),
    SIG(unhex(row.new_seed), "pss1/succession-new", body),
  );
  equal("succession", again, row.succession);
}
