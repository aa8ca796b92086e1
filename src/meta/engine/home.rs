//! Where an engine keeps a volume's records, and in what format.

use serde::{Deserialize, Serialize};

use crate::types::Epoch;

/// The format that this program's engine reads and writes. SlateDB promises compatibility between
/// neighbouring versions only, so a folder is never shared by two.
const FORMAT: &str = "slatedb-0.18";

/// One database of a volume, as `format.json` names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineHome {
    pub format: String,
    /// Below the volume's state.
    pub folder: String,
    /// The volume's last epoch before this database was made: its own epochs count from here, so that
    /// a volume's epochs go on when its engine changes.
    pub after: Epoch,
    /// The version of the program that made it, for messages.
    pub plugin: String,
}

impl EngineHome {
    /// A new volume's.
    pub fn first() -> Self {
        EngineHome {
            format: FORMAT.to_owned(),
            folder: format!("meta/{FORMAT}"),
            after: Epoch(0),
            plugin: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// For what comes after the epoch `after` of another engine. No other has this folder.
    pub fn next(after: Epoch) -> Self {
        let unique = uuid::Uuid::new_v4().simple();
        EngineHome { folder: format!("meta/{FORMAT}-{unique}"), after, ..EngineHome::first() }
    }

    /// Whether s3vol can have written it: the folder is one below the state, and epochs can go on.
    pub fn is_sound(&self) -> bool {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
        let name = self.folder.strip_prefix("meta/");
        name.is_some_and(|name| name.starts_with(|c| c != '.') && name.chars().all(plain))
            && self.after.0 <= i64::MAX as u64
    }

    /// Whether this program can open it.
    pub fn is_readable(&self) -> bool {
        self.format == FORMAT
    }
}
