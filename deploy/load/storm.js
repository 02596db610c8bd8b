// All devices lose their connections at one moment and come back at once, three times over.
import { device, options as scenario } from './lib/device.js';

export const options = scenario({
  done: ['rate>0.999'],
  unexpected: ['count<1'],
  bare_refusals: ['count<1'],
  stream_ms: ['p(95)<10000', 'max<30000'],
  push_ms: ['p(99)<10000'],
});

export default device;
