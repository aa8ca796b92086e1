//! Credentials by name: where this host has the keys that a name stands for, and what they are now.
//!
//! A volume's definition names credentials, and each host resolves the name: a file in the plugin's folder, the
//! environment, or a profile of the AWS tools ([`Places`]). [`Source`] looks at the place before each use, so that a
//! changed file counts at once. Whatever is wrong with a name is an error that says host, name and place; no other
//! keys are ever taken instead. Nothing here is written to disk, and nothing here shows a value.

mod file;
mod keys;
mod places;
mod profile;
mod search;
mod source;

pub use keys::{Keys, Provider, VARIABLES, is_visible};
pub use places::{Listed, Places};
pub use source::{Source, State};
