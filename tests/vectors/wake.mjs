// Wake handles, written down a second time.
import { H, Reader, ascii, boxPublic, join, must, same, sealOpen, sealWith, uint, unhex, zeros } from "./pss1.mjs";

export function openHandle(row) {
  const sealed = unhex(row.handle);
  must(sealed.length === 560, "length");
  const r = new Reader(sealOpen(unhex(row.gateway_sk), sealed));
  must(same(r.take(5), join(ascii("PSW1"), [1])), "magic or suite");
  const platform = r.int(1);
  must([1, 2, 255].includes(platform) && r.int(2) === 0, "platform or flags");
  must(same(r.take(16), H("pss1/audience", ascii(row.audience), 16)), "audience");
  const expires = r.int(8);
  must(expires > row.now_ms, "ended");
  const size = r.int(2);
  must(size >= 1 && size <= 478, "token length");
  const token = r.take(size);
  must(zeros(r.take(478 - size)), "padding");
  r.end();
  return { platform, expires, token };
}

export function sealHandle(row) {
  const token = unhex(row.token);
  const plain = join(
    ascii("PSW1"), [1, row.platform, 0, 0], H("pss1/audience", ascii(row.audience), 16),
    uint(row.expires_ms, 8), uint(token.length, 2), token, new Uint8Array(478 - token.length),
  );
  return { plain, handle: sealWith(unhex(row.esk), boxPublic(unhex(row.gateway_sk)), plain) };
}

export function checkHandle(row, equal) {
  const opened = openHandle(row);
  must(opened.platform === row.platform && opened.expires === row.expires_ms, "platform or end");
  equal("token", opened.token, row.token);
  equal("gateway_pk", boxPublic(unhex(row.gateway_sk)), row.gateway_pk);
  const again = sealHandle(row);
  equal("plain", again.plain, row.plain);
  equal("handle", again.handle, row.handle);
}
