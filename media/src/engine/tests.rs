//! Whole engines under a fake clock: two of them with a trunk between, and people on both.

mod dialling;
mod flow;
mod people;
mod trunk;
mod world;
