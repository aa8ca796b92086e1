//! supervisor
pub mod protocol;
