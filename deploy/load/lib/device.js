// One virtual user is one device: it does what its plan says, when the plan says it.
//
// k6 can't sign for a device (no Ed25519, no BLAKE2b), so every request comes from the plan
// with its signatures, each good for two minutes about its moment and for one attempt.
import grpc from 'k6/net/grpc';
import encoding from 'k6/encoding';
import exec from 'k6/execution';
import { SharedArray } from 'k6/data';
import { Counter, Rate, Trend } from 'k6/metrics';

const SYNC = 'rookery.v1.Sync/';
const OK = grpc.StatusOK;
const RETRIED = [grpc.StatusUnavailable, grpc.StatusResourceExhausted];
const SIGNATURE_MS = 75_000;
const STREAM_TRIES = 12;

// One line for all, then one for each device. Objects: k6 takes ages over long strings.
const plan = new SharedArray('plan', () =>
  open(__ENV.PLAN).trimEnd().split('\n').map((line) => JSON.parse(line)),
);
const head = plan[0];

// From the moment that the plan names, so that a late answer makes the next one late, too.
const push_ms = new Trend('push_ms', true);
const pull_ms = new Trend('pull_ms', true);
// The same of pushes and pulls outside a spike and the seconds in which it is worked off.
const calm_ms = new Trend('calm_ms', true);
// From the moment a push was sent to its ops on the device's own stream.
const delivery_ms = new Trend('delivery_ms', true);
// From the wish for a stream to EVENT_CAUGHT_UP, refusals and waits included.
const stream_ms = new Trend('stream_ms', true);
// Of all attempts: refused early, in words, with a time to come again.
const refused = new Rate('refused');
// Of all that was planned: done in the end.
const done = new Rate('done');
// Refused without RetryInfo, or cut off in the middle; no connection; anything else.
const bare = new Counter('bare_refusals');
const unreachable = new Counter('unreachable');
const unexpected = new Counter('unexpected');

const client = new grpc.Client();
client.load([__ENV.PROTO], 'rookery/v1/sync.proto');

// Options of a scenario with these thresholds; SLO replaces some: {"push_ms": ["p(95)<99"]}.
export function options(thresholds) {
  return {
    scenarios: {
      devices: {
        executor: 'per-vu-iterations',
        vus: plan.length - 1,
        iterations: 1,
        maxDuration: `${head.seconds + 120}s`,
      },
    },
    thresholds: Object.assign({}, thresholds, JSON.parse(__ENV.SLO || '{}')),
    summaryTrendStats: ['avg', 'med', 'p(95)', 'p(99)', 'max', 'count'],
  };
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, Math.max(0, ms)));
const now = () => Date.now() - head.start_ms;

function metadata(auth) {
  return { metadata: { 'rookery-auth-bin': new Uint8Array(encoding.b64decode(auth)) } };
}

// The next signature of [[moment, value], ...] that the service would still take.
function sign(signatures) {
  while (signatures.length) {
    const [at, auth] = signatures.shift();
    if (Math.abs(now() - at) < SIGNATURE_MS) {
      return auth;
    }
  }
  return null;
}

// How long to wait before the next attempt; null if the call would fail again.
function verdict(error, tries) {
  const jitter = Math.random() * Math.min(10_000, 200 * 2 ** tries);
  const code = error.code;
  const hint = (error.details || []).find((row) => row.retryDelay !== undefined);
  refused.add(RETRIED.includes(code) && hint !== undefined);
  if (RETRIED.includes(code) && hint !== undefined) {
    return 1000 * parseFloat(hint.retryDelay) + jitter;
  }
  if (code === grpc.StatusUnavailable && !(error.details || []).length) {
    unreachable.add(1);
    return jitter;
  }
  if (RETRIED.includes(code) || code === grpc.StatusCanceled) {
    bare.add(1);
    return jitter;
  }
  unexpected.add(1);
  console.error(`${exec.vu.idInTest}: ${JSON.stringify(error)}`);
  return null;
}

class Device {
  constructor({ calls, streams, subscribe }) {
    // What is shared is frozen; signatures are used up.
    this.calls = [...calls].reverse();
    this.streams = [...streams];
    this.wish = subscribe;
    this.connected = false;
    this.stream = null;
    this.sent = 0;
    this.over = false;
  }

  async run() {
    const calls = this.calls;
    while (calls.length) {
      const call = calls.pop();
      await pause(call.at - now());
      const began = Math.max(0, call.at);
      if (call.method === 'Subscribe') {
        done.add(await this.subscribe(began));
        continue;
      }
      const success = await this.call(call);
      done.add(success);
      if (success) {
        (call.method === 'Push' ? push_ms : pull_ms).add(now() - began);
        if (began < head.spike[0] || began > head.spike[1]) {
          calm_ms.add(now() - began);
        }
      } else if (call.method === 'Push') {
        // Its ops are a chain: what follows a gap would be refused.
        calls.filter((later) => later.method === 'Push').forEach(() => done.add(false));
        calls.splice(0, calls.length, ...calls.filter((later) => later.method !== 'Push'));
      }
    }
    await pause(1000 * head.seconds - now());
    this.over = true;
    this.drop();
  }

  async call(call) {
    const signatures = [...call.auth];
    for (let tries = 1; ; tries++) {
      const auth = sign(signatures);
      if (auth === null) {
        return false;
      }
      let wait;
      if (this.connect()) {
        if (call.method === 'Push') {
          this.sent = Date.now();
        }
        const answer = await client.asyncInvoke(SYNC + call.method, call.body, metadata(auth));
        if (answer.status === OK) {
          refused.add(false);
          return true;
        }
        wait = verdict(answer.error, tries);
      } else {
        wait = verdict({ code: grpc.StatusUnavailable }, tries);
      }
      if (wait === null) {
        return false;
      }
      await pause(wait);
    }
  }

  // Gives the connection up, if there is one, and opens a stream on a new one.
  async subscribe(began) {
    this.drop();
    for (let tries = 1; tries <= STREAM_TRIES; tries++) {
      const auth = sign(this.streams);
      if (auth === null) {
        return false;
      }
      const error = this.connect() ? await this.open(auth) : { code: grpc.StatusUnavailable };
      if (error === null) {
        refused.add(false);
        stream_ms.add(now() - began);
        return true;
      }
      const wait = verdict(error, tries);
      if (wait === null) {
        return false;
      }
      await pause(wait);
    }
    return false;
  }

  // One attempt: null once the stream has caught up, or the error that it ended with.
  open(auth) {
    return new Promise((resolve) => {
      const stream = new grpc.Stream(client, SYNC + 'Subscribe', metadata(auth));
      let live = false;
      this.stream = stream;
      stream.on('data', (frame) => {
        if (frame.event === 'EVENT_CAUGHT_UP') {
          live = true;
          resolve(null);
        } else if (frame.event === 'EVENT_OPS' && live && this.sent) {
          delivery_ms.add(Date.now() - this.sent);
          this.sent = 0;
        }
      });
      stream.on('error', (error) => {
        const ours = this.stream !== stream || this.over;
        if (!live) {
          resolve(error);
        } else if (!ours) {
          const wait = verdict(error, 1);
          if (wait !== null) {
            pause(wait).then(() => this.subscribe(now())).then((back) => done.add(back));
          }
        }
      });
      stream.write(this.wish);
      stream.end();
    });
  }

  connect() {
    if (this.connected) {
      return true;
    }
    try {
      client.connect(head.target, { plaintext: head.plaintext, timeout: '10s', tls: head.tls });
      this.connected = true;
    } catch (error) {
      this.connected = false;
    }
    return this.connected;
  }

  drop() {
    this.stream = null;
    if (this.connected) {
      this.connected = false;
      client.close();
    }
  }
}

export async function device() {
  await new Device(plan[exec.vu.idInTest]).run();
}
