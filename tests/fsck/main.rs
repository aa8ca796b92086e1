//! The tools for bad days, in this process against the test server: what `fsck` finds and mends.

#[path = "../support/mod.rs"]
mod support;

mod clean;
mod damage;
mod verify;
mod world;
