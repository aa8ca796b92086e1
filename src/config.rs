//! Settings: one typed schema for the plugin's environment, `-o` options and the command line.

mod volume;

pub use volume::{OnRemove, SettleMode, VolumeOptions};
