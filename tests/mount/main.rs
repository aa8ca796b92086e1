//! The program itself: `s3vol mount`, `s3vol status`, `mount.fuse.s3vol` and `s3vol plugin`, with real
//! mounts, against a test S3 server or a directory. Needs root and `/dev/fuse`.

#[path = "../support/mod.rs"]
mod support;

mod adopted;
mod at_once;
mod azure;
mod bad_input;
mod borne;
mod by_hand;
mod compared;
mod credentials;
mod doctor;
mod events;
mod export;
mod foreground;
mod gateway;
mod helper;
mod leave;
mod matrix;
mod metrics;
mod options;
mod plugin;
mod purge;
mod rig;
mod standing;
mod troubles;
mod warm;
mod writer;
