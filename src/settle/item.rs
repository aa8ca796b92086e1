//! An object that is to be published, put together by its plan.

use std::sync::Arc;
use std::time::Duration;

use super::body::Body;
use super::dress::Dress;
use crate::data::Inode;
use crate::meta::records::IntentRec;
use crate::types::PutId;

/// One object to publish.
pub(super) struct Item {
    pub inode: Arc<Inode>,
    pub put_id: PutId,
    pub intent: IntentRec,
    pub dress: Dress,
    pub body: Body,
    /// The inode's write sequence that the body shows.
    pub write_seq: u64,
    /// How long it took to read the body, and to send the parts of a large one.
    pub prepared: Duration,
}

impl Item {
    /// What the store has to copy for it, bytes.
    pub fn bytes_copied(&self) -> u64 {
        match &self.body {
            Body::Copy { expect, .. } => expect.size,
            Body::Bytes(_) | Body::Upload { .. } => 0,
        }
    }

    pub fn bytes_held(&self) -> u64 {
        match &self.body {
            Body::Bytes(bytes) => bytes.len() as u64,
            Body::Upload { .. } | Body::Copy { .. } => 0,
        }
    }
}
