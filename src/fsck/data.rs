//! `--data`: all content is read, and what carries a checksum is compared with it.

use std::ops::Range;
use std::sync::Arc;

use futures::stream::{self, StreamExt};

use super::rows::Walk;
use super::{Check, FsckError, Kind, Mend, REQUEST};
use crate::data::{DataError, Fetch, Source, fetches, read_run};
use crate::meta::keys;
use crate::meta::records::{ContentRec, ExtentRec, Place, decode};
use crate::store::StoreErrorKind;
use crate::types::{Base, Ino};

/// Pieces of one file that are read together, and requests for them at a time.
const TOGETHER: usize = 256;
const AT_ONCE: usize = 8;
/// An object is read in parts of this size, bytes.
const PART: u64 = 4 << 20;
/// No piece that was ever uploaded is longer, and no segment, bytes.
const LONGEST: u32 = 64 << 20;
const LARGEST: u64 = 5 << 40;

impl Check<'_> {
    pub(super) async fn data(&mut self) -> Result<(), FsckError> {
        self.begin("content");
        let view = Arc::clone(&self.view);
        let mut contents = Walk::table(&view, keys::CONTENT);
        while let Some((key, value)) = contents.next().await? {
            let (Some(ino), Ok(content)) = (keys::parse_ino(&key), decode::<ContentRec>(&value))
            else {
                continue;
            };
            self.pieces(ino, &content).await?;
            if let Some(base) = content.base.as_ref().filter(|_| content.base_limit > 0) {
                self.object(ino, base).await?;
            }
        }
        Ok(())
    }

    /// The living extents of a file, with their checksums.
    async fn pieces(&mut self, ino: Ino, content: &ContentRec) -> Result<(), FsckError> {
        if content.pieces == 0 {
            return Ok(());
        }
        let view = Arc::clone(&self.view);
        let range = keys::extents_after(ino, content.map, 0);
        let mut walk = Walk::range(&view, keys::EXTENT, range);
        loop {
            let mut wanted: Vec<(Range<u64>, Source)> = Vec::new();
            let mut ended = true;
            while let Some((key, value)) = walk.next().await? {
                let (Some((_, end)), Ok(extent)) =
                    (keys::parse_extent(&key), decode::<ExtentRec>(&value))
                else {
                    continue;
                };
                if extent.generation > content.drop_gen && is_sound(&extent, end) {
                    wanted.push((extent.start..end, Source::Extent(extent)));
                }
                if wanted.len() >= TOGETHER {
                    ended = false;
                    break;
                }
            }
            self.read(ino, wanted).await?;
            if ended {
                return Ok(());
            }
        }
    }

    async fn read(&mut self, ino: Ino, wanted: Vec<(Range<u64>, Source)>) -> Result<(), FsckError> {
        let runs = fetches(wanted).into_iter().filter_map(|fetch| match fetch {
            Fetch::Run(run) => Some(run),
            Fetch::Base(_) | Fetch::Here(..) => None,
        });
        let (store, state) = (Arc::clone(&self.parts.state_store), self.parts.state.clone());
        let done: Vec<_> = stream::iter(runs)
            .map(|run| {
                let (store, state) = (&store, &state);
                async move {
                    let bytes: u64 = run.iter().map(|(span, _)| span.end - span.start).sum();
                    (bytes, read_run((&**store, state), ino, run).await)
                }
            })
            .buffered(AT_ONCE)
            .collect()
            .await;
        for (bytes, result) in done {
            self.report.checked.bytes_read += bytes;
            self.went_on(bytes);
            match result {
                Ok(_) => {}
                Err(DataError::Damaged(why)) => {
                    let what = self.called(ino).await?;
                    let cure = Mend::No("restore the file from a copy, or write these bytes again");
                    self.report.found(Kind::Segment, what, why, cure);
                }
                // Found with the segments; of one that is in use it may have been stored again since.
                Err(DataError::Store(error)) if error.kind == StoreErrorKind::NotFound => {}
                Err(DataError::Store(error)) if !error.is_transient() => {
                    let what = self.called(ino).await?;
                    let cure = Mend::No("restore the file from a copy, or write these bytes again");
                    self.report.found(Kind::Segment, what, error.to_string(), cure);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The object below a file, to its end.
    async fn object(&mut self, ino: Ino, base: &Base) -> Result<(), FsckError> {
        let store = match base.parked {
            true => Arc::clone(&self.parts.state_store),
            false => Arc::clone(&self.parts.store),
        };
        let size = base.version.size;
        let parts =
            (0..size.div_ceil(PART)).map(|n| n * PART..size.min((n + 1).saturating_mul(PART)));
        let mut reads = stream::iter(parts)
            .map(|part| {
                let store = &store;
                async move {
                    let length = part.end - part.start;
                    let read = store.get(&base.key, Some(part), Some(&base.version), REQUEST).await;
                    (length, read)
                }
            })
            .buffered(AT_ONCE);
        let mut read_bytes = 0;
        let mut failed = None;
        while let Some((length, read)) = reads.next().await {
            match read {
                Ok(found) if found.data.len() as u64 == length => read_bytes += length,
                Ok(found) => {
                    failed = Some(format!("{} bytes came of {length}", found.data.len()));
                    break;
                }
                Err(error)
                    if matches!(error.kind, StoreErrorKind::NotFound | StoreErrorKind::Changed) =>
                {
                    // Found with the objects.
                    break;
                }
                Err(error) if error.is_transient() => return Err(error.into()),
                Err(error) => {
                    failed = Some(error.to_string());
                    break;
                }
            }
        }
        drop(reads);
        self.report.checked.bytes_read += read_bytes;
        self.went_on(read_bytes);
        if let Some(why) = failed {
            let what = self.called(ino).await?;
            let detail = format!("the object {} cannot be read: {why}", base.key);
            let cure = Mend::No("restore the object, or the file from a copy");
            self.report.found(Kind::Object, what, detail, cure);
        }
        Ok(())
    }
}

/// What can be asked for at all; the rest was found before.
fn is_sound(extent: &ExtentRec, end: u64) -> bool {
    let Some(len) = end.checked_sub(extent.start).filter(|len| *len > 0) else { return false };
    match &extent.place {
        Place::Segment { offset, crc_offset, crc_len, .. } => {
            let uploaded = crc_offset.checked_add(u64::from(*crc_len));
            let shown = offset.checked_add(len);
            *crc_len <= LONGEST
                && *crc_offset <= LARGEST
                && offset >= crc_offset
                && shown.is_some_and(|shown| uploaded.is_some_and(|end| shown <= end))
        }
        Place::Inline(_) | Place::Zero => false,
    }
}
