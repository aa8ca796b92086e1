//! Why a volume could not be opened or served.

use std::time::Duration;

use crate::data::DataError;
use crate::lease::LeaseError;
use crate::meta::{EngineError, LogError, MetaError};
use crate::settle::SettleError;
use crate::store::StoreError;

/// Each says the cause and, where there is one, the cure: the text reaches the user of Docker.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0}")]
    Held(String),
    #[error("the volume's state in the bucket is damaged: {0}")]
    Damaged(String),
    #[error(
        "there is no volume at {0} yet that could be followed: mount it once without readonly, on any host, with credentials that may write"
    )]
    NeverWritten(String),
    #[error(
        "the volume's metadata is in the format {engine}, which version {ours} of the plugin cannot read, and {why}. Mount it once with version {plugin} and unmount it, so that it leaves an export; for a volume of very many files run `s3vol export` of that version",
        ours = env!("CARGO_PKG_VERSION")
    )]
    OtherEngine { engine: String, plugin: String, why: String },
    #[error(
        "the bucket did not let the volume be opened within {} s; nothing is lost, try again when it can be reached",
        .0.as_secs()
    )]
    Stalled(Duration),
    #[error("there is no volume at {0}, and nothing that says that there was one")]
    NoVolume(String),
    #[error("the volume was removed, and its objects are being deleted")]
    Removed,
    #[error(
        "the volume was rebuilt from its objects, and its state is {0} now; mount it by its URL or name, or run `s3vol rebuild` again if nothing leads there"
    )]
    Rebuilt(crate::types::VolumeId),
    #[error(
        "the volume has the new state {id}, and what leads to the volume could not be changed: run `s3vol rebuild` once more: {source}"
    )]
    NotLed {
        id: crate::types::VolumeId,
        #[source]
        source: crate::catalog::CatalogError,
    },
    #[error("it was told to leave the volume at once")]
    Left,
    #[error(
        "this volume is used through the endpoint {theirs}, and this host uses {ours}: two endpoints may be two sites whose locks do not hold for each other. Use the same endpoint on every host: give endpoint={theirs}"
    )]
    OtherEndpoint { ours: String, theirs: String },
    #[error(
        "the store at {0} no longer honours create-if-absent (If-None-Match: * on PUT), so two hosts could write the volume at once and lose data; bring the store back to how it was, or promise with -o single_host=true that only this host mounts the volume"
    )]
    Careless(String),
    #[error("the volume's metadata cannot be opened: {0}")]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Meta(#[from] MetaError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Settle(#[from] SettleError),
    #[error(transparent)]
    Lease(#[from] LeaseError),
    #[error(transparent)]
    Fsck(#[from] crate::fsck::FsckError),
    #[error(transparent)]
    Verify(#[from] crate::verify::VerifyError),
    #[error(transparent)]
    Catalog(#[from] crate::catalog::CatalogError),
    #[error(transparent)]
    Fuse(#[from] crate::fuse::FuseError),
    #[error("{what}: {source}")]
    Local {
        what: String,
        #[source]
        source: std::io::Error,
    },
}

impl WorkerError {
    /// Whether another attempt may open the volume without anybody doing anything about this.
    pub(super) fn may_pass(&self) -> bool {
        !matches!(
            self,
            WorkerError::Held(_)
                | WorkerError::Damaged(_)
                | WorkerError::NeverWritten(_)
                | WorkerError::OtherEngine { .. }
                | WorkerError::NoVolume(_)
                | WorkerError::Removed
                | WorkerError::Rebuilt(_)
                | WorkerError::Left
                | WorkerError::OtherEndpoint { .. }
                | WorkerError::Careless(_)
        )
    }

    /// An error of the local system.
    pub(super) fn local(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> WorkerError {
        let what = what.into();
        move |source| WorkerError::Local { what, source }
    }
}

/// An error with its causes, for people.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
