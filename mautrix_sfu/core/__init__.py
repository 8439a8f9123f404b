"""The product's rules as pure state machines: no I/O, no clock, no randomness."""
