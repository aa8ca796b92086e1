//! Real hosts: network and host name of their own, the whole plugin with a state folder of its own, one bucket.
//! What a program was told to be durable is kept in a ledger outside of the mounts, and must be there afterwards
//! on a host that mounts the volume from nothing.
//!
//! Needs root, /dev/fuse and iproute2. What takes longer than seconds is in the lane `soak`.

mod clocks;
mod crash;
mod curve;
mod cut;
mod full;
mod garage;
mod handed;
mod ledger;
mod paused;
mod programs;
mod site;
mod soak;
#[path = "../support/mod.rs"]
mod support;
