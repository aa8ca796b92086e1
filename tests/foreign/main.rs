//! Bytes that somebody else wrote, whatever they are: an error at most, no panic, no size believed.

#[path = "../support/mod.rs"]
mod support;

mod allocated;
mod answers;
mod damaged;
mod parsers;
mod random;
mod state;
