"""Measurements, to be run by hand: what docs/decisions and the README claim about speed can be repeated with these."""
