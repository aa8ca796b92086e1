//! Reading a range as it arrives.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};

use super::objects::{content_range, length};
use super::properties::version_of;
use super::{Call, S3Store, quoted};
use crate::clock::boottime;
use crate::store::wire::{Answer, Progress};
use crate::store::{StoreError, StoreErrorKind, Take};
use crate::types::{ObjectKey, Version};

impl S3Store {
    /// One GET, whose body goes to `take` piece by piece. `Ok(false)`: nothing was taken, because the store did not
    /// send what was asked for; another request has to find out why. An error means that pieces were taken before it.
    pub(super) async fn stream(
        &self,
        key: &ObjectKey,
        range: &Range<u64>,
        expect: &Version,
        timeout: Duration,
        take: &mut Take<'_>,
    ) -> Result<bool, StoreError> {
        let call = Call::new(Method::GET, key.as_str())
            .header("range", format!("bytes={}-{}", range.start, range.end.saturating_sub(1)))
            .header("if-match", quoted(&expect.etag));
        let progress = Progress::new(timeout);
        let (url, headers) = self.signed(&call, &progress).await?;
        let start = self.wire.start(Method::GET, url, headers, Vec::new(), &progress);
        let Ok(mut response) = start.await else { return Ok(false) };
        let head = Answer {
            status: response.status(),
            headers: response.headers().clone(),
            body: Bytes::new(),
        };
        let Some((mut at, size)) = sent_from(&head, range) else { return Ok(false) };
        if !expect.same(&version_of(&head, size)) {
            return Ok(false);
        }
        self.proven.store(boottime().as_millis() as u64, Ordering::Relaxed);
        let end = range.end.min(size);
        let mut taken = false;
        while at < end {
            let failed = match self.wire.next(&mut response, &progress).await {
                Ok(Some(piece)) => {
                    let span = at..at + piece.len() as u64;
                    at = span.end;
                    let (from, to) = (range.start.max(span.start), end.min(span.end));
                    if from < to {
                        taken = true;
                        let piece =
                            piece.slice((from - span.start) as usize..(to - span.start) as usize);
                        if !take(piece) {
                            return Ok(true);
                        }
                    }
                    continue;
                }
                Ok(None) => StoreError::new(
                    StoreErrorKind::Unreachable,
                    format!(
                        "{} at {}: {} bytes of {range:?} are missing",
                        self.doing(&call),
                        self.endpoint,
                        end - at
                    ),
                ),
                Err(fault) => fault.into_error(&self.doing(&call), &self.endpoint),
            };
            return if taken { Err(failed) } else { Ok(false) };
        }
        if head.status == StatusCode::PARTIAL_CONTENT {
            // Read to the end, so that the connection can be reused.
            let _ = self.wire.next(&mut response, &progress).await;
        }
        Ok(true)
    }
}

/// Where the body of an answer begins, and the size of the object; `None` when it is not what was asked for. Some
/// servers ignore the range and send the whole object.
fn sent_from(head: &Answer, range: &Range<u64>) -> Option<(u64, u64)> {
    match head.status {
        StatusCode::PARTIAL_CONTENT => {
            let (start, end, size) = content_range(&head.header("content-range")?)?;
            (start == range.start && end == range.end.min(size)).then_some((start, size))
        }
        StatusCode::OK if range.start == 0 => Some((0, length(head)?)),
        _ => None,
    }
}
