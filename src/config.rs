//! Settings: one typed schema for the plugin's environment, `-o` options and the command line.
//!
//! Owns the table of settings ([`schema`]), the parsing of their values, and the rules by which a
//! volume's URL and the place of its state follow from them. Everything here is a pure function of
//! string maps: nothing is read from the environment, the disk or the network, and all errors of one
//! map are reported at once. Nothing here survives a crash; the catalog stores the parsed result.

mod address;
mod errors;
mod monitoring;
mod object;
mod parse;
mod plugin;
mod reference;
pub mod schema;
mod values;
mod volume;

#[cfg(test)]
mod tests;

pub use address::{BucketUrl, Scheme};
pub use errors::{ConfigError, ConfigErrors};
pub use parse::{Difference, VolumeHome};
pub use plugin::PluginConfig;
pub use reference::reference_page;
pub use schema::Change;
pub use values::{parse_bool, parse_duration, parse_size};
pub use volume::{ContentType, OnRemove, SettleMode, Tuned, VolumeOptions};

/// The exit code for wrong usage and wrong settings (`EX_USAGE`).
pub const EXIT_USAGE: u8 = 64;
