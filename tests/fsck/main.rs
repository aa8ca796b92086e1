//! The tools for bad days, in this process against the test server: what `fsck` finds and mends.

#[path = "../support/mod.rs"]
mod support;

mod clean;
mod commands;
mod damage;
mod objects;
mod rebuild;
mod verify;
mod world;
