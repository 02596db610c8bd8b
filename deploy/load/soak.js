// Half an hour at a modest pace: what grows, leaks or drifts shows here. DURATION=28800 for
// a night.
import { device, options as scenario } from './lib/device.js';

export const options = scenario({
  done: ['rate>0.999'],
  unexpected: ['count<1'],
  bare_refusals: ['count<1'],
  refused: ['rate<0.01'],
  push_ms: ['p(95)<250', 'p(99)<1000'],
  pull_ms: ['p(95)<250', 'p(99)<1000'],
  delivery_ms: ['p(95)<250', 'p(99)<1000'],
});

export default device;
