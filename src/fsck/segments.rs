//! Segments: what their records count, what refers to them, and the objects themselves.
//!
//! Extents come in the order of files and segments in that of their random ids, so each extent looks its
//! segment up in memory. There is room for a window of [`WINDOW`] segments; a volume with more of them has its
//! extents walked once a window.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::report::short_hex;
use super::rows::Walk;
use super::{Change, Check, FsckError, Kind, Mend, REQUEST};
use crate::meta::keys;
use crate::meta::records::{ContentRec, ExtentRec, Place, SegmentRec, decode};
use crate::store::{Entry, Listing};
use crate::types::{Base, Ino, ObjectKey};

/// Segments counted at a time: some 50 MB.
const WINDOW: usize = 500_000;
/// A segment that no record names may be on its way for so long, milliseconds.
const YOUNG_MS: i64 = 3600 * 1000;
/// Segments that are missing and whose files are named.
const NAMED: usize = 1000;

/// A segment as its record has it, and as it is used.
#[derive(Debug, Default)]
struct Used {
    /// `None`: there is no record, or none that can be read.
    said: Option<SegmentRec>,
    /// Whether there is a row.
    row: bool,
    live: u64,
    /// Its object must be as long as this.
    end: u64,
}

/// Which ids are counted now.
struct Window {
    from: u128,
    /// Inclusive.
    to: u128,
    used: BTreeMap<u128, Used>,
}

/// The segment objects in the order of their ids.
struct Objects {
    listing: Listing,
    page: VecDeque<(u128, Entry)>,
    ended: bool,
}

impl Check<'_> {
    pub(super) async fn segments(&mut self) -> Result<(), FsckError> {
        self.begin("segments");
        let view = Arc::clone(&self.view);
        let mut records = Walk::table(&view, keys::SEGMENT);
        let prefix = self.parts.state.key("segments/");
        let mut objects = Objects {
            listing: Listing::of_keys(prefix.as_str()),
            page: VecDeque::new(),
            ended: false,
        };
        let now = self.parts.state_store.now(REQUEST).await?.0;
        let mut from = 0;
        let mut missing = BTreeSet::new();
        loop {
            let mut window = Window { from, to: u128::MAX, used: BTreeMap::new() };
            while window.used.len() < WINDOW {
                let Some((key, value)) = records.next().await? else { break };
                let Some(id) = keys::parse_id(&key).filter(|_| key.len() == 17) else {
                    let what = format!("the row {}", short_hex(&key));
                    let mend = Mend::Rows(vec![Change::drop(key.to_vec())]);
                    self.report.found(Kind::Record, what, "is no segment's", mend);
                    continue;
                };
                // A row that cannot be read says nothing; that is judged with what lives there.
                let said = decode(&value).ok();
                window.used.insert(id, Used { said, row: true, ..Used::default() });
            }
            let more = records.peek().await?.and_then(|(key, _)| keys::parse_id(key));
            if let Some(next) = more {
                window.to = next.saturating_sub(1);
            }
            self.count(&mut window).await?;
            self.compare(window, &mut objects, now, &mut missing).await?;
            match more {
                Some(next) => from = next,
                None => break,
            }
        }
        self.name_the_missing(missing).await
    }

    /// Counts what refers to the segments of the window.
    async fn count(&mut self, window: &mut Window) -> Result<(), FsckError> {
        let view = Arc::clone(&self.view);
        let (from, to) = (window.from, window.to);
        let mut walk = Walk::table(&view, keys::EXTENT);
        while let Some((key, value)) = walk.next().await? {
            let Some((_, end)) = keys::parse_extent(&key) else { continue };
            let Ok(ExtentRec {
                start, place: Place::Segment { id, crc_offset, crc_len, .. }, ..
            }) = decode::<ExtentRec>(&value)
            else {
                continue;
            };
            if !(from..=to).contains(&id) {
                continue;
            }
            let used = window.used.entry(id).or_default();
            used.live = used.live.saturating_add(end.saturating_sub(start));
            used.end = used.end.max(crc_offset.saturating_add(u64::from(crc_len)));
            self.went_on(1);
        }
        let mut walk = Walk::table(&view, keys::CONTENT);
        while let Some((_, value)) = walk.next().await? {
            let Ok(content) = decode::<ContentRec>(&value) else { continue };
            let Some(base) = &content.base else { continue };
            let Some(id) = self.parked_id(base).filter(|id| (from..=to).contains(id)) else {
                continue;
            };
            let used = window.used.entry(id).or_default();
            used.live = used.live.saturating_add(base.version.size.max(1));
            used.end = used.end.max(base.version.size);
        }
        Ok(())
    }

    fn parked_id(&self, base: &Base) -> Option<u128> {
        let key = self.parts.state.strip(&base.key).filter(|_| base.parked)?;
        u128::from_str_radix(key.strip_prefix("segments/")?, 16).ok()
    }

    fn segment_key(&self, id: u128) -> ObjectKey {
        self.parts.state.key(&format!("segments/{id:032x}"))
    }

    async fn compare(
        &mut self,
        window: Window,
        objects: &mut Objects,
        now: i64,
        missing: &mut BTreeSet<u128>,
    ) -> Result<(), FsckError> {
        let mut used = window.used.into_iter().peekable();
        loop {
            let object = objects.id(self).await?.filter(|id| *id <= window.to);
            let record = used.peek().map(|(id, _)| *id);
            let id = match (object, record) {
                (None, None) => return Ok(()),
                (Some(a), Some(b)) => a.min(b),
                (Some(id), None) | (None, Some(id)) => id,
            };
            let entry = if object == Some(id) { objects.take() } else { None };
            let used = if record == Some(id) { used.next().map(|(_, used)| used) } else { None };
            match used {
                Some(used) => {
                    self.report.checked.segments += 1;
                    self.one_segment(id, &used, entry, missing).await?;
                }
                None => self.no_record(id, entry, now).await?,
            }
        }
    }

    async fn one_segment(
        &mut self,
        id: u128,
        used: &Used,
        entry: Option<Entry>,
        missing: &mut BTreeSet<u128>,
    ) -> Result<(), FsckError> {
        let what = format!("segment {id:032x}");
        let key = keys::segment(id);
        let total = used.said.map_or(0, |said| said.total).max(used.live);
        let right = || match used.live {
            0 => vec![Change::drop(key.clone()), Change::mark(keys::garbage(id))],
            live => vec![
                Change::put(key.clone(), &SegmentRec { total, live }),
                Change::drop(keys::garbage(id)),
            ],
        };
        match used.said {
            Some(said) if said.live == used.live => {}
            Some(said) => {
                let detail = format!("{} live bytes are recorded, {} exist", said.live, used.live);
                self.report.found(Kind::Segment, what.clone(), detail, Mend::Rows(right()));
            }
            None => {
                let (kind, detail) = match used.row {
                    true => (Kind::Record, "its record cannot be read"),
                    false => (Kind::Segment, "has no record, and is in use"),
                };
                self.report.found(kind, what.clone(), detail, Mend::Rows(right()));
            }
        }
        let enough = entry.as_ref().is_some_and(|entry| entry.version.size >= used.end);
        if enough || used.live == 0 {
            return Ok(());
        }
        // Its last bytes may have been stored elsewhere since, if somebody writes.
        if self.how.in_use && !self.still_used(id, used).await? {
            return Ok(());
        }
        if missing.len() < NAMED {
            missing.insert(id);
            return Ok(());
        }
        let cure = Mend::No("restore the object, or the files from a copy");
        self.report.found(Kind::Segment, what, "its object is gone or too short", cure);
        Ok(())
    }

    /// Whether the newest records and the bucket still say so.
    async fn still_used(&self, id: u128, used: &Used) -> Result<bool, FsckError> {
        let head = self.parts.state_store.head(&self.segment_key(id), REQUEST).await?;
        if head.is_some_and(|info| info.version.size >= used.end) {
            return Ok(false);
        }
        let newest = self.newest().await?;
        Ok(newest.get_raw(&keys::segment(id)).await?.is_some())
    }

    /// An object that no record names: uploaded by a commit that never came to its end.
    async fn no_record(
        &mut self,
        id: u128,
        entry: Option<Entry>,
        now: i64,
    ) -> Result<(), FsckError> {
        let Some(entry) = entry else { return Ok(()) };
        let old = entry.version.modified.is_some_and(|at| now.saturating_sub(at.0) > YOUNG_MS);
        if self.has(&keys::garbage(id)).await? {
            return Ok(());
        }
        if !old
            || self.how.in_use && self.newest().await?.get_raw(&keys::segment(id)).await?.is_some()
        {
            self.report.waits("segments that nothing refers to yet");
            return Ok(());
        }
        let what = format!("segment {id:032x}");
        let detail = format!("{} bytes that nothing refers to", entry.version.size);
        self.report.found(Kind::Garbage, what, detail, Mend::Delete(entry.key));
        Ok(())
    }

    /// Whose content is gone with these segments.
    async fn name_the_missing(&mut self, missing: BTreeSet<u128>) -> Result<(), FsckError> {
        if missing.is_empty() {
            return Ok(());
        }
        let view = Arc::clone(&self.view);
        let mut lost: BTreeMap<Ino, (u64, u128)> = BTreeMap::new();
        let mut walk = Walk::table(&view, keys::EXTENT);
        while let Some((key, value)) = walk.next().await? {
            let (Some(ino), Some((map, end))) = (keys::parse_ino(&key), keys::parse_extent(&key))
            else {
                continue;
            };
            let Ok(extent) = decode::<ExtentRec>(&value) else { continue };
            let Place::Segment { id, .. } = extent.place else { continue };
            if !missing.contains(&id) || self.has(&keys::dead(ino, map)).await? {
                continue;
            }
            let bytes = &mut lost.entry(ino).or_insert((0, id)).0;
            *bytes = bytes.saturating_add(end.saturating_sub(extent.start));
            if lost.len() > NAMED {
                self.lost(std::mem::take(&mut lost)).await?;
            }
        }
        self.lost(lost).await?;
        let mut walk = Walk::table(&view, keys::CONTENT);
        while let Some((key, value)) = walk.next().await? {
            let (Some(ino), Ok(content)) = (keys::parse_ino(&key), decode::<ContentRec>(&value))
            else {
                continue;
            };
            let parked = content.base.as_ref().and_then(|base| self.parked_id(base));
            if let Some(id) = parked.filter(|id| missing.contains(id)) {
                self.lost(BTreeMap::from([(ino, (content.base_limit, id))])).await?;
            }
        }
        Ok(())
    }

    async fn lost(&mut self, lost: BTreeMap<Ino, (u64, u128)>) -> Result<(), FsckError> {
        for (ino, (bytes, id)) in lost {
            let what = self.called(ino).await?;
            let detail = format!(
                "{bytes} of its bytes lie in segment {id:032x}, which is gone or too short"
            );
            let cure = Mend::No("restore the segment's object, or the file from a copy");
            self.report.found(Kind::Segment, what, detail, cure);
        }
        Ok(())
    }
}

impl Objects {
    /// The id of the next object.
    async fn id(&mut self, check: &Check<'_>) -> Result<Option<u128>, FsckError> {
        while self.page.is_empty() && !self.ended {
            let store = &*check.parts.state_store;
            let Some(page) = self.listing.next(store, REQUEST).await? else {
                self.ended = true;
                break;
            };
            let prefix = check.parts.state.key("segments/");
            self.page.extend(page.entries.into_iter().filter_map(|entry| {
                let id = entry.key.as_str().strip_prefix(prefix.as_str())?;
                let id = (id.len() == 32).then(|| u128::from_str_radix(id, 16).ok())??;
                Some((id, entry))
            }));
        }
        Ok(self.page.front().map(|(id, _)| *id))
    }

    fn take(&mut self) -> Option<Entry> {
        self.page.pop_front().map(|(_, entry)| entry)
    }
}
