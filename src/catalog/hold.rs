//! Another host's hold on a volume, as far as the bucket tells it to somebody who wants it now.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Who keeps us from a volume, and what would be lost if it were taken now. Seconds are by the store's clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The epoch that would be ended: consent is for this one and no other.
    pub epoch: u64,
    /// `None` if the owner of the epoch has not said who it is.
    pub host: Option<String>,
    /// Since when, RFC 3339.
    pub since: Option<String>,
    /// What the holder says of itself.
    pub note: Option<String>,
    /// How long ago it showed a sign of life.
    pub renewed_s: u64,
    /// Without another sign of life anybody has the volume after this.
    pub free_in_s: u64,
    /// How long ago something of its metadata last reached the bucket, if anything did.
    pub written_s: Option<u64>,
    /// The longest time between a change and its commit (option `commit`), milliseconds.
    pub commit_ms: u64,
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Some(host) => write!(f, "held by   host {host}")?,
            None => write!(f, "held by   a host that has just taken it and not said who it is")?,
        }
        if let Some(since) = &self.since {
            write!(f, ", since {since}")?;
        }
        if let Some(note) = &self.note {
            write!(f, " ({note})")?;
        }
        writeln!(f)?;
        writeln!(
            f,
            "renewed   {} s ago; without a sign of life it is free by itself in {} s",
            self.renewed_s, self.free_in_s
        )?;
        if let Some(written) = self.written_s {
            writeln!(f, "last commit reached the bucket {written} s ago")?;
        }
        writeln!(
            f,
            "epochs    theirs, {}, ends; a new one begins and is free for the next mount",
            self.epoch
        )?;
        writeln!(f, "kept      everything that was synced there, and every commit in the bucket")?;
        write!(
            f,
            "at risk   what that host wrote since and has only in its local log: usually the last {} s,\n\
             \x20         more where its uplink is slow or it does not reach the bucket. If the host lives,\n\
             \x20         its programs get errors, and the content among that comes up under recovered/\n\
             \x20         (s3vol recovered list); if it comes back later, when it mounts the volume again",
            self.commit_ms.div_ceil(1000)
        )
    }
}
