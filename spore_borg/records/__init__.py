"""Records as pure values: canonical bytes, ids, keys, envelopes, bodies, admission. No I/O, no clock, no chance."""
