// Ten times the pushes for fifteen seconds. Whoever is refused is told when to come again and
// does; all is done in the end, and half a minute after the spike the service is as quick as
// it was before.
import { device, options as scenario } from './lib/device.js';

export const options = scenario({
  done: ['rate>0.99'],
  unexpected: ['count<1'],
  bare_refusals: ['count<1'],
  unreachable: ['count<1'],
  calm_ms: ['p(95)<250', 'p(99)<1000'],
  push_ms: ['max<40000'],
});

export default device;
