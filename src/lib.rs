//! s3vol: Docker volumes that live in a bucket. Objects at rest, journal in motion.
//!
//! The modules, from the bottom up; a module may use only what stands above it in this list
//! (`tests/architecture.rs` enforces it).

pub mod types;

pub mod clock;
pub mod fault;
pub mod metrics;
pub mod sys;

pub mod config;
pub mod credentials;
pub mod telemetry;

pub mod store;

pub mod lease;
pub mod meta;

pub mod catalog;
pub mod data;

pub mod fs;
pub mod settle;

pub mod follow;
pub mod fsck;
pub mod verify;

pub mod fuse;

pub mod worker;

pub mod supervisor;

pub mod driver;

pub mod doctor;

pub mod cli;
