//! `--data`: all content is read. Here the pieces in segments, which carry checksums.

use std::ops::Range;
use std::sync::Arc;

use futures::stream::{self, StreamExt};

use super::etags::Evidence;
use super::rows::Walk;
use super::{AT_ONCE, Check, FsckError, Kind, Mend};
use crate::data::{DataError, Fetch, Source, fetches, read_run};
use crate::meta::keys;
use crate::meta::records::{ContentRec, ExtentRec, Place, decode};
use crate::store::StoreErrorKind;
use crate::types::Ino;

/// Pieces of one file that are read together.
const TOGETHER: usize = 256;
/// No piece that was ever uploaded is longer, and no segment, bytes.
const LONGEST: u32 = 64 << 20;
const LARGEST: u64 = 5 << 40;

impl Check<'_> {
    pub(super) async fn data(&mut self) -> Result<(), FsckError> {
        self.begin("content");
        let mut evidence = Evidence::default();
        self.witness(&mut evidence).await?;
        let view = Arc::clone(&self.view);
        let mut contents = Walk::table(&view, keys::CONTENT);
        let mut below = Vec::new();
        while let Some((key, value)) = contents.next().await? {
            let (Some(ino), Ok(content)) = (keys::parse_ino(&key), decode::<ContentRec>(&value))
            else {
                continue;
            };
            self.pieces(ino, &content).await?;
            // What lies at its key is read there.
            if let Some(base) = content.base.as_ref().filter(|_| content.base_limit > 0)
                && (base.parked || !self.has(&keys::rest(&base.key)).await?)
            {
                below.push((ino, base.clone()));
                if below.len() == TOGETHER {
                    self.read_all(std::mem::take(&mut below), &mut evidence).await?;
                }
            }
        }
        self.read_all(below, &mut evidence).await?;
        self.at_rest(&mut evidence).await?;
        self.judge(evidence);
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
