//! Parts of an object that lie in the bucket already, in one piece: the store copies them from the segment or the object
//! in which they lie, and they are not sent again.
//!
//! What is copied is not seen here, so a copy counts only if its tag proves its bytes. Of a whole segment the tag is the
//! ETag that the segment got when it was stored as it was sent: both are the MD5 of those bytes. Of a range of an older object
//! nothing says what it has to be; so the first one is compared with the bytes as they are here, and whoever copies that
//! right copies others right. Of a segment no range is copied. Where tags are no MD5s (with keys of KMS) all of it is sent.
//!
//! A copy is nothing but a part of one upload: one that comes late, or twice, changes nothing else.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use md5::{Digest, Md5};
use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;

use super::parts::{Parts, TIMEOUT};
use super::{SettleError, Settler};
use crate::clock::boottime;
use crate::data::{Inode, Whole, is_md5};
use crate::fault;
use crate::meta::records::ContentRec;
use crate::store::{Part, PartSource, StoreError, StoreErrorKind, Verb};
use crate::types::hex;

/// Of an object that is not larger S3 copies no range, bytes.
const NO_RANGES: u64 = 5 << 20;
/// So many parts that were not copied, with none in between that was, and all are sent for a while: rights and
/// credentials change.
const ENOUGH: u32 = 3;
const REFUSED_FOR: Duration = Duration::from_secs(3600);
/// Where it was a bad moment.
const BUSY_FOR: Duration = Duration::from_secs(60);

/// What was found out about copies of parts in this bucket.
#[derive(Debug, Default)]
pub(super) struct Composing {
    failures: Mutex<Failures>,
    /// A range was copied, and had the bytes that it was to have.
    ranges: AtomicBool,
    /// Held by who finds that out.
    proving: AsyncMutex<()>,
}

#[derive(Debug, Default)]
struct Failures {
    /// Since the last part that was copied.
    count: u32,
    /// Boot time until which nothing is copied, once they are enough.
    until: Duration,
}

impl Composing {
    fn goes_on(&self) -> bool {
        let failures = self.failures.lock();
        failures.count < ENOUGH || boottime() >= failures.until
    }

    fn copied(&self) {
        self.failures.lock().count = 0;
    }

    fn failed(&self, pause: Duration) {
        let mut failures = self.failures.lock();
        failures.count = failures.count.saturating_add(1);
        failures.until = boottime() + pause;
        if failures.count == ENOUGH {
            tracing::warn!(
                ?pause,
                "the store does not copy parts of objects; for now all are sent"
            );
        }
    }
}

impl Settler {
    /// Has the store make a part of what lies in the bucket, and returns its tag; `None`: it has to be sent.
    pub(super) async fn composed(
        &self,
        parts: &Parts<'_>,
        part: Part,
        inode: &Arc<Inode>,
        content: &ContentRec,
        range: Range<u64>,
    ) -> Result<Option<String>, SettleError> {
        let volume = &self.volume;
        if !volume.capabilities.has(Verb::PartCopy) || !self.composing.goes_on() {
            return Ok(None);
        }
        let Some(whole) = volume.lies_whole(inode, content, range.clone()).await? else {
            return Ok(None);
        };
        let segment = volume.state.strip(&whole.key).is_some();
        let elsewhere = segment && !volume.same_bucket;
        let no_ranges = fault::number(fault::PART, NO_RANGES).min(NO_RANGES);
        let small = !whole.is_all() && whole.version.size <= no_ranges;
        // What a commit stored is compared with its checksums, or proven as a whole, before the record of it goes.
        let unseen = segment && !whole.is_all();
        if elsewhere || small || unseen || self.hot.is_hot(&whole.key) {
            return Ok(None);
        }
        let tag = if whole.is_all() && is_md5(&whole.version.etag) {
            let tag = self.copied(parts, part, &whole).await?;
            tag.filter(|tag| self.is_proven(&whole, *tag == whole.version.etag))
        } else if self.composing.ranges.load(Ordering::Relaxed) {
            self.copied(parts, part, &whole).await?
        } else {
            self.first_range(parts, part, inode, range, &whole).await?
        };
        if tag.is_some() {
            self.composing.copied();
        }
        Ok(tag)
    }

    /// As [`Settler::composed`], as long as it is not known whether ranges are copied right.
    async fn first_range(
        &self,
        parts: &Parts<'_>,
        part: Part,
        inode: &Arc<Inode>,
        range: Range<u64>,
        whole: &Whole,
    ) -> Result<Option<String>, SettleError> {
        // One at a time: it may have to fetch what it compares with.
        let proving = self.composing.proving.lock().await;
        let proven = &self.composing.ranges;
        if proven.load(Ordering::Relaxed) {
            drop(proving);
            return self.copied(parts, part, whole).await;
        }
        if !self.composing.goes_on() {
            return Ok(None);
        }
        let Some(tag) = self.copied(parts, part, whole).await? else { return Ok(None) };
        // Whoever sends them tells what is wrong.
        let Ok(bytes) = self.copy(inode, range.start, range.end - range.start).await else {
            return Ok(None);
        };
        let right = hex(&Md5::digest(&bytes)) == tag;
        // All of an object is no range.
        if !whole.is_all() {
            proven.store(right, Ordering::Relaxed);
        }
        Ok(Some(tag).filter(|_| self.is_proven(whole, right)))
    }

    fn is_proven(&self, whole: &Whole, right: bool) -> bool {
        if !right {
            tracing::debug!(from = %whole.key, "nothing proves the bytes of a part that was copied");
            self.composing.failed(REFUSED_FOR);
        }
        right
    }

    /// Copies a part; `None`: the store did not, or nobody knows.
    async fn copied(
        &self,
        parts: &Parts<'_>,
        part: Part,
        whole: &Whole,
    ) -> Result<Option<String>, SettleError> {
        let Whole { key: from, version, range } = whole.clone();
        let range = (!whole.is_all()).then_some(range);
        let source = PartSource { key: from, expect: version, range };
        let copy = || parts.store.copy_part(parts.key, parts.id, part, &source, TIMEOUT);
        let mut copied = copy().await;
        let again = copied.as_ref().is_err_and(StoreError::is_transient);
        if again && !self.at_its_end.is_cancelled() {
            copied = copy().await;
        }
        let error = match copied {
            Ok(tag) => {
                parts.moved();
                return Ok(Some(tag));
            }
            Err(error) => error,
        };
        tracing::debug!(from = %source.key, to = %parts.key, %error, "a part is sent, not copied");
        // What lies there no more says nothing about other copies.
        if !matches!(error.kind, StoreErrorKind::Changed | StoreErrorKind::NotFound) {
            self.composing.failed(if error.is_transient() { BUSY_FOR } else { REFUSED_FOR });
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_end_for_a_while_after_some_that_failed_in_a_row() {
        let composing = Composing::default();
        for _ in 1..ENOUGH {
            composing.failed(REFUSED_FOR);
        }
        assert!(composing.goes_on());
        composing.copied();
        for _ in 1..ENOUGH {
            composing.failed(REFUSED_FOR);
        }
        assert!(composing.goes_on());
        composing.failed(Duration::ZERO);
        assert!(composing.goes_on());
        composing.failed(REFUSED_FOR);
        assert!(!composing.goes_on());
    }
}
