//! What this program is: its version, what it reads, and what it speaks with parts of another version.
//!
//! A plugin that is upgraded under running containers has parts of two versions for a while. Whoever changes what one
//! part says to another, or what one process leaves for the next on this host, raises `newest` here, and goes on to
//! read and to speak what the version before did: `oldest` may be raised one release later.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use crate::clock::now;
use crate::meta::EngineHome;

/// Versions of one format or protocol, without gaps. Written as `oldest-newest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    pub oldest: u32,
    pub newest: u32,
}

/// Between the supervisor and the driver.
pub const DRIVER_PROTOCOL: Versions = Versions::only(1);
/// Between a worker and whoever starts it or asks it.
pub const WORKER_PROTOCOL: Versions = Versions::only(1);
/// What a supervisor leaves for the program that it becomes.
pub const HANDED_FORMAT: Versions = Versions::only(1);
/// The local log and its records, the cache beside it, and the agreement with the kernel.
const LOCAL_FORMAT: Versions = Versions::only(1);
/// `mounts.json`, and the mirror of the catalog.
const ACCOUNTS_FORMAT: Versions = Versions::only(1);
/// `format.json`, leases, definitions and exports in the bucket.
const BUCKET_FORMAT: Versions = Versions::only(1);

/// Names in [`About::reads`] of what is left on the disk and in the bucket. Protocols are agreed on instead.
const LEFT: [&str; 3] = ["local-state", "accounts", "bucket"];

/// In the environment of a worker: the [`WORKER_PROTOCOL`] of the supervisor.
pub const SPOKEN_ENV: &str = "S3VOL_SPOKEN";
/// In the heads of requests to a worker, and of its answers: the [`WORKER_PROTOCOL`] of their sender.
pub const SPOKEN_HEADER: &str = "s3vol-protocol";

impl Versions {
    const fn only(version: u32) -> Self {
        Versions { oldest: version, newest: version }
    }

    /// Whether a part that knows these understands what is written in `version`.
    pub fn has(self, version: u32) -> bool {
        (self.oldest..=self.newest).contains(&version)
    }

    /// The newest one that both know.
    pub fn common(self, other: Versions) -> Option<u32> {
        let newest = self.newest.min(other.newest);
        (self.has(newest) && other.has(newest)).then_some(newest)
    }

    /// What two parts speak, or why they cannot work together. `who` is the other one.
    pub fn agree(self, who: &str, theirs: Versions) -> Result<u32, String> {
        self.common(theirs).ok_or_else(|| {
            format!(
                "{who} speaks version {theirs} of the plugin's protocol, and this part of it {self}; disable and enable \
                 the plugin, so that all its parts are one program"
            )
        })
    }

    /// As [`Self::agree`], with what the other one wrote about itself. Nothing is version 1.
    pub fn agree_with_text(self, who: &str, text: Option<&str>) -> Result<u32, String> {
        let theirs = match text {
            None => Versions::only(1),
            Some(text) => text.parse().map_err(|()| {
                format!("{who} says {text:?} of the versions that it speaks, which are no numbers")
            })?,
        };
        self.agree(who, theirs)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.oldest, self.newest)
    }
}

impl FromStr for Versions {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (oldest, newest) = text.trim().split_once('-').ok_or(())?;
        let number = |text: &str| text.parse().map_err(|_| ());
        Ok(Versions { oldest: number(oldest)?, newest: number(newest)? })
    }
}

/// The version of this program.
pub fn version() -> &'static str {
    crate::fault::noted("version").unwrap_or(env!("CARGO_PKG_VERSION"))
}

/// What a program says of itself when it is asked (`s3vol about`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// `s3vol`.
    pub program: String,
    pub version: String,
    /// Formats and protocols by name, as far as processes on one host share them.
    pub reads: BTreeMap<String, Versions>,
    /// In which versions it leaves its formats for the next process, by name. A release that reads a new one writes that
    /// only from the next release on: so the one before can take its place again.
    #[serde(default)]
    pub writes: BTreeMap<String, u32>,
    /// Formats of the metadata engine. It writes the first.
    pub engines: Vec<String>,
}

impl About {
    pub fn this_program() -> Self {
        let mut reads = BTreeMap::from([
            ("driver-protocol".to_owned(), DRIVER_PROTOCOL),
            ("worker-protocol".to_owned(), WORKER_PROTOCOL),
            ("handed-state".to_owned(), HANDED_FORMAT),
            ("local-state".to_owned(), LOCAL_FORMAT),
            ("accounts".to_owned(), ACCOUNTS_FORMAT),
            ("bucket".to_owned(), BUCKET_FORMAT),
        ]);
        if let Some(read) = crate::fault::noted("writes").and_then(|name| reads.get_mut(name)) {
            read.newest += 1;
        }
        let newest = |name: &str| Some((name.to_owned(), reads.get(name)?.newest));
        let writes = LEFT.iter().filter_map(|name| newest(name)).collect();
        if let Some(read) = crate::fault::noted("reads").and_then(|name| reads.get_mut(name)) {
            read.newest += 1;
        }
        if let Some(without) = crate::fault::noted("without") {
            reads.remove(without);
        }
        About {
            program: "s3vol".to_owned(),
            version: version().to_owned(),
            reads,
            writes,
            engines: vec![EngineHome::first().format],
        }
    }

    /// What this program could not read of that which `other` leaves, if it had to take its place again.
    pub fn lacks_after(&self, other: &About) -> Vec<String> {
        let newest = |name: &&str| Some(((*name).to_owned(), other.reads.get(*name)?.newest));
        let writes = match other.writes.is_empty() {
            // From before it said so.
            true => LEFT.iter().filter_map(newest).collect(),
            false => other.writes.clone(),
        };
        let mut lacks = Vec::new();
        for (name, version) in writes {
            match self.reads.get(&name) {
                Some(read) if read.has(version) => {}
                Some(read) => lacks.push(format!("{name} {version} (it reads {read})")),
                None => lacks.push(format!("{name} {version}")),
            }
        }
        let engine = other.engines.first().filter(|engine| !self.engines.contains(engine));
        lacks.extend(engine.map(|engine| format!("metadata of {engine}")));
        lacks
    }

    /// What this program cannot read of that which `other` writes; empty if it can take its place.
    pub fn lacks(&self, other: &About) -> Vec<String> {
        let mut lacks = Vec::new();
        for (name, versions) in &other.reads {
            match self.reads.get(name) {
                Some(read) if read.has(versions.newest) => {}
                Some(read) => lacks.push(format!("{name} {} (it reads {read})", versions.newest)),
                None => lacks.push(format!("{name} {}", versions.newest)),
            }
        }
        let engines = other.engines.iter().filter(|engine| !self.engines.contains(engine));
        lacks.extend(engines.map(|engine| format!("metadata of {engine}")));
        lacks
    }
}

/// When this process was started, seconds since 1970. Begins with the first call.
pub fn started() -> f64 {
    static STARTED: OnceLock<f64> = OnceLock::new();
    *STARTED.get_or_init(|| {
        let now = now();
        now.secs as f64 + f64::from(now.nanos) / 1e9
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(oldest: u32, newest: u32) -> Versions {
        Versions { oldest, newest }
    }

    #[test]
    fn two_parts_speak_the_newest_that_both_know() {
        assert_eq!(versions(1, 2).common(versions(2, 3)), Some(2));
        assert_eq!(versions(2, 3).common(versions(1, 2)), Some(2));
        assert_eq!(versions(1, 3).common(versions(1, 3)), Some(3));
        assert_eq!(versions(1, 1).common(versions(2, 3)), None);
        let refused = versions(3, 4).agree_with_text("the worker", Some("1-2")).unwrap_err();
        assert!(refused.contains("the worker speaks version 1-2"), "{refused}");
        assert!(refused.contains("disable and enable the plugin"), "{refused}");
        assert_eq!(versions(1, 4).agree_with_text("the worker", None), Ok(1));
        assert!(versions(1, 4).agree_with_text("the worker", Some("all")).is_err());
    }

    #[test]
    fn a_program_must_read_all_that_is_in_use() {
        let this = About::this_program();
        assert!(this.lacks(&this).is_empty());
        let mut newer = this.clone();
        newer.reads.insert("local-state".to_owned(), versions(1, 2));
        newer.reads.insert("tomorrow".to_owned(), versions(1, 1));
        assert!(newer.lacks(&this).is_empty());
        assert_eq!(this.lacks(&newer), ["local-state 2 (it reads 1-1)", "tomorrow 1"]);
        newer.engines = vec!["another".to_owned()];
        assert_eq!(newer.lacks(&this).len(), 1);
    }

    #[test]
    fn a_program_must_leave_what_the_one_before_can_go_on_with() {
        let this = About::this_program();
        assert!(this.lacks_after(&this).is_empty());
        let mut newer = this.clone();
        // It speaks more, and reads more, but writes what was written.
        newer.reads.insert("driver-protocol".to_owned(), versions(1, 2));
        newer.reads.insert("local-state".to_owned(), versions(1, 2));
        newer.engines.push("another".to_owned());
        assert!(this.lacks_after(&newer).is_empty());
        newer.writes.insert("local-state".to_owned(), 2);
        newer.writes.insert("tomorrow".to_owned(), 1);
        assert_eq!(this.lacks_after(&newer), ["local-state 2 (it reads 1-1)", "tomorrow 1"]);
        // One that does not say what it writes is taken to write the newest that it reads.
        newer.writes.clear();
        assert_eq!(this.lacks_after(&newer), ["local-state 2 (it reads 1-1)"]);
        newer.engines.swap(0, 1);
        assert_eq!(this.lacks_after(&newer).last().unwrap(), "metadata of another");
    }
}
