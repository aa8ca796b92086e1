//! Store errors, named by what the caller must do.

/// What the caller can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// No such key.
    NotFound,
    /// The object is no longer the version that was asked for.
    Changed,
    /// The bucket (or container, or local folder) does not exist.
    NoBucket,
    /// Credentials missing, wrong, or without the right.
    Denied,
    /// The object itself may be read or written, but its tags may not: the message names the right.
    TagsDenied,
    /// This host's clock and the store's differ too much for signatures.
    ClockSkew,
    /// The certificate was refused.
    Tls,
    /// No answer: name, route, connection, 5xx. Trying again later can help.
    Unreachable,
    /// The store asks to slow down. Trying again later, or less at a time, can help.
    Busy,
    /// The deadline passed.
    Timeout,
    /// The store cannot do this, or the request is wrong; trying again is useless.
    Unsupported,
    /// The store's answer makes no sense.
    Protocol,
    /// The local disk under a `file://` store is full.
    NoSpace,
}

/// An error of one request: what was asked, of whom, what came back, and the cure where one is
/// known. Never holds a credential.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct StoreError {
    pub kind: StoreErrorKind,
    /// For the user: the cause and the cure in one sentence or two.
    pub message: String,
    #[source]
    pub source: Option<Box<dyn std::error::Error + std::marker::Send + Sync>>,
}

impl StoreError {
    /// An error without a deeper cause.
    pub fn new(kind: StoreErrorKind, message: impl Into<String>) -> Self {
        StoreError { kind, message: message.into(), source: None }
    }

    /// The same for another one whom it concerns, without the deeper cause.
    pub fn again(&self) -> Self {
        StoreError::new(self.kind, self.message.clone())
    }

    /// Whether it may say something of this object only: others of the bucket may well be read and written.
    pub fn is_of_one(&self) -> bool {
        use StoreErrorKind::*;
        match self.kind {
            NotFound | Changed | Denied | TagsDenied | Unsupported | Protocol => true,
            NoBucket | ClockSkew | Tls | Unreachable | Busy | Timeout | NoSpace => false,
        }
    }

    /// Whether trying the same again later can succeed.
    pub fn is_transient(&self) -> bool {
        use StoreErrorKind::*;
        matches!(self.kind, Unreachable | Busy | Timeout)
    }
}
