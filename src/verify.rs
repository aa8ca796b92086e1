//! What a bucket holds, proven against a list of hashes, by a reader of its own.
//!
//! Written after `docs/FORMAT.md` alone. It shares with the file system the types of the records and the crate
//! that reads the engine's files, and nothing of [`crate::meta`]'s or [`crate::data`]'s code: so a mistake there
//! cannot hide here, and whoever doubts a volume need not trust what wrote it. It writes nothing, takes nothing,
//! and may run while the volume is in use; then it proves the state that was in the bucket when it began.
//!
//! One path at a time is in memory, in pieces of some MiB; of directories the last ones that were met.

mod content;
mod list;
mod rows;
mod tree;

use std::sync::Arc;
use std::time::Duration;

use crate::store::{StoreBackend, StoreError};
use crate::types::{KeyPrefix, VolumeId};

pub use list::{Expected, ListError, expected};
pub use rows::Rows;

/// One request.
const REQUEST: Duration = Duration::from_secs(30);

/// Where a volume's bytes are.
#[derive(Debug)]
pub struct Places {
    pub id: VolumeId,
    pub store: Arc<dyn StoreBackend>,
    /// Of its objects' keys.
    pub prefix: KeyPrefix,
    pub state_store: Arc<dyn StoreBackend>,
    /// Of its state's keys.
    pub state: KeyPrefix,
    /// Its records; without them only plain objects count.
    pub rows: Option<Rows>,
}

/// What became of one path of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It holds exactly these bytes; the note says where, if that is not the usual place.
    Ok(Option<&'static str>),
    Differs {
        found: String,
        note: Option<&'static str>,
    },
    Missing,
    Unreadable(String),
}

impl Verdict {
    /// For programs.
    pub fn name(&self) -> &'static str {
        match self {
            Verdict::Ok(_) => "ok",
            Verdict::Differs { .. } => "differs",
            Verdict::Missing => "missing",
            Verdict::Unreadable(_) => "not readable",
        }
    }

    pub fn is_ok(&self) -> bool {
        matches!(self, Verdict::Ok(_))
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())?;
        match self {
            Verdict::Ok(Some(note)) => write!(f, " ({note})"),
            Verdict::Differs { note: Some(note), .. } => write!(f, " ({note})"),
            Verdict::Unreadable(why) => write!(f, ": {why}"),
            _ => Ok(()),
        }
    }
}

/// Why nothing more can be proven. What is wrong with one path is its verdict.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the volume's records cannot be read: {0}")]
    Rows(#[from] slatedb::Error),
}

/// Why one file cannot be read, or nothing can.
#[derive(Debug)]
enum Trouble {
    This(String),
    All(VerifyError),
}

impl From<slatedb::Error> for Trouble {
    fn from(error: slatedb::Error) -> Self {
        Trouble::All(error.into())
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        match error.is_transient() {
            true => Trouble::All(error.into()),
            false => Trouble::This(error.to_string()),
        }
    }
}

/// What a path holds, against what it should.
///
/// # Errors
/// When the bucket does not answer.
pub async fn verify(places: &Places, expected: &Expected) -> Result<Verdict, VerifyError> {
    let judged = async {
        let Some(found) = tree::find(places, &expected.path).await? else {
            return Ok(Verdict::Missing);
        };
        let Some((hash, note)) = content::hash(places, found).await? else {
            return Ok(Verdict::Missing);
        };
        Ok(match hash == expected.hash {
            true => Verdict::Ok(note),
            false => Verdict::Differs { found: hash, note },
        })
    };
    match judged.await {
        Ok(verdict) => Ok(verdict),
        Err(Trouble::This(why)) => Ok(Verdict::Unreadable(why)),
        Err(Trouble::All(error)) => Err(error),
    }
}
