// Does it work at all, and fast: a few devices, no refusals. `make load`.
import { device, options as scenario } from './lib/device.js';

export const options = scenario({
  done: ['rate>0.999'],
  unexpected: ['count<1'],
  bare_refusals: ['count<1'],
  unreachable: ['count<1'],
  refused: ['rate<0.001'],
  push_ms: ['p(95)<250', 'p(99)<1000'],
  pull_ms: ['p(95)<250', 'p(99)<1000'],
  delivery_ms: ['p(95)<250', 'p(99)<1000'],
  stream_ms: ['p(95)<1000'],
});

export default device;
