//! Why a volume cannot be served through FUSE.

use std::io;

/// Variants are the steps that fail; each is fatal for this attempt to serve.
#[derive(Debug, thiserror::Error)]
pub enum FuseError {
    #[error("the connection to the kernel failed: {step}")]
    Connection {
        step: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("the kernel did not start the connection within {0:?}")]
    NoInit(std::time::Duration),
    #[error("the kernel's first message is not a FUSE INIT of protocol 7: {0}")]
    BadInit(&'static str),
    #[error("cannot keep the negotiated settings in {path}")]
    Handoff {
        path: std::path::PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// This version would have negotiated other settings than the kernel has: serving on would break
    /// programs that have files open. Only unmounting helps.
    #[error("this version negotiates other FUSE settings than the mount has; unmount it first")]
    Incompatible,
    #[error("a thread could not be started")]
    Thread(#[source] io::Error),
    #[error("a FUSE thread panicked")]
    Panicked,
}

impl FuseError {
    pub(super) fn connection(step: &'static str, source: impl Into<io::Error>) -> Self {
        FuseError::Connection { step, source: source.into() }
    }
}
