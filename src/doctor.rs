//! What may be wrong: on this host, with Docker, with the local disk, with the store; each with what to do about it.
//!
//! Nothing is changed, except that the host remembers what it found of the store. A file on the local disk and objects
//! below `.s3vol/probe/`, with which times are measured, are removed again; after a crash some may be left.

mod bench;
mod bundle;
mod credentials;
mod disk;
mod docker;
mod host;
mod mounts;
mod plugin;
mod store;

use std::path::PathBuf;

use serde::Serialize;

use crate::config::{BucketUrl, VolumeOptions};

pub use bundle::{Bundle, Secrets};
pub use store::VERBS;

/// How good something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    Good,
    /// It works, but not as well as it could, or it was not looked at.
    Note,
    Bad,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, in one or two words.
    pub about: &'static str,
    pub grade: Grade,
    pub text: String,
    /// What to do, unless it is good.
    pub cure: Option<String>,
}

impl Finding {
    fn good(about: &'static str, text: impl Into<String>) -> Self {
        Finding { about, grade: Grade::Good, text: text.into(), cure: None }
    }

    fn note(about: &'static str, text: impl Into<String>, cure: impl Into<String>) -> Self {
        Finding { about, grade: Grade::Note, text: text.into(), cure: Some(cure.into()) }
    }

    /// Of a finding only what everybody may read.
    pub fn without(self, secrets: &Secrets) -> Self {
        let Finding { about, grade, text, cure } = self;
        Finding {
            about,
            grade,
            text: secrets.hide(&text),
            cure: cure.map(|cure| secrets.hide(&cure)),
        }
    }

    fn bad(about: &'static str, text: impl Into<String>, cure: impl Into<String>) -> Self {
        Finding { about, grade: Grade::Bad, text: text.into(), cure: Some(cure.into()) }
    }
}

/// What is to be looked at.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The state folder.
    pub state: PathBuf,
    /// Below it volumes are mounted for Docker.
    pub mounts: PathBuf,
    /// Where dockerd listens, if not where it usually does.
    pub docker: Option<PathBuf>,
    /// Where plugins listen, whether Docker manages them or not.
    pub plugins: Vec<PathBuf>,
    /// The bucket, and the options with which it is reached.
    pub bucket: Option<(BucketUrl, VolumeOptions)>,
}

/// Says how far a long look is.
pub type Progress<'a> = &'a (dyn Fn(&str) + Sync);

/// Looks at everything, one after the other, so that no measurement disturbs another. Takes some seconds, with a
/// slow bucket up to two minutes.
pub async fn examine(subject: &Subject, progress: Progress<'_>) -> Vec<Finding> {
    let mut findings = host::look();
    progress("the mounts");
    findings.extend(mounts::look(&subject.mounts));
    progress("dockerd");
    let plugins = plugin::look(&subject.plugins).await;
    let answers = plugins.iter().any(|finding| finding.grade != Grade::Bad);
    findings.extend(docker::look(subject.docker.as_deref(), answers).await);
    findings.extend(plugins);
    progress("the state folder");
    findings.extend(disk::look(&subject.state));
    findings.extend(credentials::look());
    match &subject.bucket {
        Some((url, options)) => {
            findings.extend(store::look(url, options, &subject.state, progress).await)
        }
        None => findings.push(Finding::note(
            "bucket",
            "no bucket was looked at",
            "give its URL, such as s3://bucket/prefix, or set S3VOL_URL",
        )),
    }
    findings
}
