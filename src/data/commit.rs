//! Commits: uncommitted changes become extents in the engine, in one batch for a group of files.
//!
//! Small data travels inside the batch; more is packed into segments, uploaded before the batch is
//! handed over. Much goes in steps, each uploaded and handed over before the next one: what is up counts,
//! and makes room for writers. Nothing here waits for durability: that is the flush of whoever needs it.

mod blocks;
mod steps;
mod thin;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, StreamExt, TryStreamExt};
use md5::{Digest, Md5};
use tokio::sync::{MutexGuard, Semaphore};

use super::extents::{Editor, tail_of};
use super::room::will_take;
use super::whole::is_md5;
use super::{DataError, Inode, SegmentDelta, Upload, Volume, give_up_map};
use crate::clock::{Deadline, boottime};
use crate::fault::{Mutant, at, points};
use crate::meta::records::{ContentRec, InodeRec, Place, SegmentRec, WorkRec};
use crate::meta::{Change, Logged, MetaError, Txn, keys};
use crate::store::{
    Attributes, Condition, Properties, PutOutcome, Send, StoreError, StoreErrorKind, Verb,
};
use crate::sys::beside;
use crate::types::{FileKind, Lsn, ObjectKey, hex};
pub use blocks::Much;
use blocks::{blocks_of, end_of_run, is_block};
use steps::{Step, row_bytes, steps};
use thin::count_changed;

/// Data of one file that may travel inside the batch, bytes: one PUT then holds all of a small fsync.
const INLINE_FILE: u64 = 128 << 10;
/// Data of a whole group that may, bytes.
const INLINE_GROUP: u64 = 1 << 20;
/// Inline pieces are cut at these offsets, so that a rewritten page replaces its own key.
const INLINE_BLOCK: u64 = 16 << 10;
/// Largest piece with a checksum of its own, bytes: what a random read may have to fetch.
const PIECE: u64 = 1 << 20;
/// Largest segment object, bytes. An object at rest is sent in parts of as much: where the content of one part lies in
/// one segment, the store copies it from there.
pub const SEGMENT: u64 = 16 << 20;
/// As many rows that are only taken away take in the log what a changed range may.
const REPLACED: u64 = 8;
/// Segments of one commit under way at a time.
const PARALLEL: usize = 4;
/// How long a commit goes on when a segment is refused again and again. It counts from the first
/// failure: a slow uplink that makes progress is never cut off.
const UPLOAD_PATIENCE: Duration = Duration::from_secs(60);
/// How long a commit waits for room in the log of a full disk, holding its files' locks.
const LOG_PATIENCE: Duration = Duration::from_secs(10);
/// One attempt of a segment without any progress.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(20);
/// A digest of so many bytes takes a thread more than a millisecond.
const LONG_DIGEST: usize = 1 << 20;

struct Part {
    inode: Arc<Inode>,
    through: Lsn,
    attr: InodeRec,
    content: ContentRec,
    /// False when only times changed.
    content_changed: bool,
    /// Its data travels inside of the batch.
    inline: bool,
    /// Never empty.
    steps: Vec<Step>,
    /// Boot time of the snapshot.
    begun: Duration,
    /// A truncation since the snapshot took bytes behind this offset before they were read: this step
    /// and all later ones end there, too. One that came after the last read stays for the next commit.
    cut: u64,
}

/// A piece of data of a part and where it went.
struct Placed {
    part: usize,
    range: Range<u64>,
    place: Place,
    cut: u64,
}

/// What goes into one segment: pieces of parts.
type Group = Vec<(usize, Range<u64>)>;

/// Such a piece with its file, and the record of the log that it is read up to.
type ToSend = (usize, (Arc<Inode>, Lsn), Range<u64>);

impl Volume {
    /// Hands over everything that was written to these inodes before this call. Durable after the
    /// next flush; after a crash of the process it is replayed.
    pub async fn commit(&self, inodes: Vec<Arc<Inode>>) -> Result<(), DataError> {
        self.commit_as(inodes, None, Much::All).await
    }

    /// As [`Volume::commit`]; no more segments of all that commit so are under way at a time than `segments` lets.
    pub async fn commit_sharing(
        &self,
        inodes: Vec<Arc<Inode>>,
        segments: &Semaphore,
        much: Much,
    ) -> Result<(), DataError> {
        self.commit_as(inodes, Some(segments), much).await
    }

    async fn commit_as(
        &self,
        mut inodes: Vec<Arc<Inode>>,
        segments: Option<&Semaphore>,
        much: Much,
    ) -> Result<(), DataError> {
        // One order for everybody, so that two groups cannot wait for each other.
        inodes.sort_by_key(|inode| inode.ino);
        inodes.dedup_by_key(|inode| inode.ino);
        let mut locked = Vec::with_capacity(inodes.len());
        for inode in &inodes {
            locked.push(inode.commit.lock().await);
        }
        let (mut parts, mut guards) = (Vec::new(), Vec::new());
        for (inode, guard) in inodes.iter().zip(locked) {
            if let Some(part) = self.snapshot(inode, much) {
                parts.push(part);
                guards.push(Some(guard));
            }
        }
        if parts.is_empty() {
            return Ok(());
        }
        let done = self.go_up(&mut parts, &mut guards, segments).await;
        // The others came to their end.
        for (part, _) in parts.iter().zip(&guards).filter(|(_, guard)| guard.is_some()) {
            part.inode.live().attr_dirty = true;
            part.inode.close_unused();
        }
        done
    }

    fn snapshot(&self, inode: &Arc<Inode>, much: Much) -> Option<Part> {
        let mut live = inode.live();
        if live.removed || (live.pending.is_clean() && !live.attr_dirty) {
            drop(live);
            self.clean_if_clean(inode, Duration::ZERO);
            return None;
        }
        live.attr_dirty = false;
        live.begins_commit();
        // Every record of this inode so far was written under the lock that is held now.
        let all = Lsn(self.meta.journal.lock().next_lsn().0 - 1);
        let blocks = match much {
            Much::All => None,
            Much::Blocks => blocks_of(&live.pending, &live.content),
        };
        let (steps, through) = match blocks {
            None => (steps(&live.pending, &live.content, live.size, all), all),
            Some(through) => {
                let pending = live.pending.up_to(through);
                (steps(&pending, &live.content, pending.ranges.end(), through), through)
            }
        };
        Some(Part {
            inline: false,
            inode: Arc::clone(inode),
            through,
            attr: live.attr.clone(),
            content: live.content.clone(),
            content_changed: !live.pending.is_clean(),
            steps,
            begun: boottime(),
            cut: u64::MAX,
        })
    }

    /// Step by step. A file whose last step is handed over is let go: nobody waits for what others have to send.
    async fn go_up(
        &self,
        parts: &mut [Part],
        guards: &mut [Option<MutexGuard<'_, ()>>],
        segments: Option<&Semaphore>,
    ) -> Result<(), DataError> {
        // On a full disk the log has room for extents only.
        let roomy = self.meta.journal.lock().has_room(INLINE_GROUP);
        let mut inline_left = if roomy { INLINE_GROUP } else { 0 };
        for part in &mut *parts {
            let bytes: u64 = part.steps.iter().map(Step::data).sum();
            part.inline = bytes <= INLINE_FILE && bytes <= inline_left;
            if part.inline {
                inline_left -= bytes;
            }
        }
        let steps = parts.iter().map(|part| part.steps.len()).max().unwrap_or(0);
        for number in 0..steps {
            // Before anything is uploaded: what finds no room in the log would go up again and again.
            let of_step = parts.iter().filter_map(|part| part.steps.get(number));
            let ranges: usize = of_step.map(|step| step.ranges.len() + 1).sum();
            let replaced: u64 = parts.iter().map(|part| part.replaces(number)).sum();
            let takes = will_take(ranges as u64 + replaced / REPLACED);
            self.meta.log_fits(takes, Deadline::after(LOG_PATIENCE)).await?;
            if steps > 1 {
                // Likewise for what waits for the bucket.
                self.meta.room_for_bulk().await?;
            }
            let mut uploads = self.place(parts, number, segments).await?;
            for part in &*parts {
                self.thin_out(part, number).await?;
            }
            self.hand_over(parts, number, steps > 1, &mut uploads).await?;
            self.committed.notify_waiters();
            self.evict_files();
            // What is on its way into the cache makes room for itself.
            if self.room.taken().bytes() > self.room.limit() {
                self.make_room(0, None);
            }
            let through = |part: &Part| part.steps.len() == number + 1;
            let done = parts.iter().zip(&mut *guards).filter(|(part, _)| through(part));
            let mut changed = Vec::new();
            for (part, guard) in done {
                self.clean_if_clean(&part.inode, part.begun);
                self.may_be_scattered(part.inode.ino, part.content.pieces);
                changed.extend(part.content_changed.then_some(part.inode.ino));
                part.inode.close_unused();
                *guard = None;
            }
            if !changed.is_empty() || number + 1 == steps {
                self.wants_settling(changed);
            }
        }
        // Whoever waits for fewer files that need the local disk.
        self.committed.notify_waiters();
        Ok(())
    }

    /// Gives every changed range of a step its place: zero, inline or in an uploaded segment.
    async fn place(
        &self,
        parts: &mut [Part],
        number: usize,
        segments: Option<&Semaphore>,
    ) -> Result<Vec<Upload<'_>>, DataError> {
        let mut groups: Vec<Group> = Vec::new();
        let mut filled = SEGMENT;
        for (index, part) in parts.iter_mut().enumerate() {
            let Some(step) = part.steps.get_mut(number) else { continue };
            let ranges = step.ranges.clone();
            let mut run_end = 0;
            for (at, (range, change)) in ranges.iter().enumerate() {
                let (range, change) = (range.clone(), *change);
                if range.end > run_end {
                    run_end = end_of_run(&ranges[at..]);
                }
                match change {
                    Change::Zero => step.places.push((range, Place::Zero)),
                    Change::Data if part.inline => {
                        for piece in pieces(range, INLINE_BLOCK) {
                            let (bytes, cut) =
                                read_piece(&part.inode, part.through, piece.clone())?;
                            part.cut = part.cut.min(cut);
                            step.places.push((piece, Place::Inline(bytes)));
                        }
                    }
                    Change::Data => {
                        for piece in pieces(range, PIECE) {
                            let len = piece.end - piece.start;
                            let alone = is_block(piece.start, run_end);
                            if filled + len > SEGMENT || alone {
                                groups.push(Group::new());
                                filled = 0;
                            }
                            filled += len;
                            let group = groups.last_mut().expect("invariant: pushed just above");
                            group.push((index, piece));
                        }
                    }
                }
            }
        }
        let groups: Vec<_> = groups
            .into_iter()
            .map(|group| {
                let of = |part: usize| (Arc::clone(&parts[part].inode), parts[part].through);
                group.into_iter().map(|(part, piece)| (part, of(part), piece)).collect()
            })
            .collect();
        let stored = groups.into_iter().map(|group| async {
            // Nobody closes it.
            let _share = match segments {
                Some(segments) => segments.acquire().await.ok(),
                None => None,
            };
            self.upload_segment(group).await
        });
        let stored: Vec<(Upload<'_>, Vec<Placed>)> =
            stream::iter(stored).buffered(PARALLEL).try_collect().await?;
        let (uploads, placed): (Vec<_>, Vec<_>) = stored.into_iter().unzip();
        for Placed { part, range, place, cut } in placed.into_iter().flatten() {
            let part = &mut parts[part];
            part.steps[number].places.push((range, place));
            part.cut = part.cut.min(cut);
        }
        Ok(uploads)
    }

    async fn upload_segment(
        &self,
        pieces: Vec<ToSend>,
    ) -> Result<(Upload<'_>, Vec<Placed>), DataError> {
        let total: u64 = pieces.iter().map(|(.., range)| range.end - range.start).sum();
        let mut body = BytesMut::with_capacity(total as usize);
        let mut map = Vec::with_capacity(pieces.len());
        for (part, (inode, through), range) in pieces {
            let (bytes, cut) = read_piece(&inode, through, range.clone())?;
            map.push((part, range, cut, body.len() as u64, crc32c::crc32c(&bytes)));
            body.extend_from_slice(&bytes);
        }
        let upload = self.put_segment(body.freeze()).await?;
        let id = upload.id();
        let placed = map
            .into_iter()
            .map(|(part, range, cut, offset, crc)| {
                let crc_len = (range.end - range.start) as u32;
                let place = Place::Segment { id, offset, crc, crc_offset: offset, crc_len };
                Placed { part, range, place, cut }
            })
            .collect();
        Ok((upload, placed))
    }

    /// Stores a segment under a fresh name. Every attempt has its own name, so none can be mistaken
    /// for another; what an ambiguous attempt may have left is garbage.
    async fn put_segment(&self, body: Bytes) -> Result<Upload<'_>, DataError> {
        let mut patience: Option<Deadline> = None;
        let mut pause = Duration::from_millis(50);
        loop {
            let mut upload = self.upload();
            let key = upload.key();
            let send =
                Send { condition: Condition::Absent, not_after: None, timeout: UPLOAD_TIMEOUT };
            upload.sent();
            at(points::SEGMENT_BEFORE);
            let (outcome, proven) = self.put_proven(&key, &body, send).await;
            at(points::SEGMENT_AFTER);
            let (error, nothing) = match outcome {
                PutOutcome::Won(version) => {
                    upload.stored(body.len() as u64);
                    // Only what the store has as it was sent may become part of an object without being sent again, and
                    // only where the tag of a copy will prove that it has the same bytes.
                    if proven && is_md5(&version.etag) {
                        self.stored.add(upload.id(), &version);
                    }
                    return Ok(upload);
                }
                // Nobody else has the name: it was sent twice on its way, or another outcome was the right one.
                PutOutcome::Lost => match self.state_store.head(&key, UPLOAD_TIMEOUT).await {
                    Ok(Some(info)) if info.version.size == body.len() as u64 => {
                        upload.stored(body.len() as u64);
                        return Ok(upload);
                    }
                    Ok(found) => (refused(&key, found.is_some()), found.is_none()),
                    Err(error) => (error, false),
                },
                PutOutcome::Failed(error) => (error, true),
                PutOutcome::Ambiguous(error) => (error, false),
            };
            upload.failed(nothing);
            drop(upload);
            self.note_error(&error);
            let left = patience.get_or_insert_with(|| Deadline::after(UPLOAD_PATIENCE)).left();
            if left <= pause {
                return Err(error.into());
            }
            tracing::warn!(%error, "a segment was not stored; trying again");
            if let Some(requests) = self.state_store.measured() {
                requests.retried();
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }

    /// Stores a segment. True: it was stored as it was sent; false says nothing.
    async fn put_proven(&self, key: &ObjectKey, body: &Bytes, send: Send) -> (PutOutcome, bool) {
        let (none, plain) = (Attributes::new(), Properties::default());
        let put = |send| self.state_store.put(key, body.clone(), &none, &plain, send);
        if !self.same_bucket || !self.capabilities.has(Verb::PartCopy) {
            // Nothing is copied from it.
            return (put(send).await, false);
        }
        if self.capabilities.has(Verb::Checksum) {
            return self
                .state_store
                .put_summed(key, body.clone(), crc32c::crc32c(body), send)
                .await;
        }
        let (outcome, etag) = tokio::join!(put(send), self.etag_of(body));
        let same =
            matches!(&outcome, PutOutcome::Won(version) if Some(&version.etag) == etag.as_ref());
        (outcome, same)
    }

    /// The ETag of an object that the store has as it was sent, in most stores. `None` says nothing.
    async fn etag_of(&self, body: &Bytes) -> Option<String> {
        let digest = |body: &Bytes| hex(&Md5::digest(body));
        if body.len() < LONG_DIGEST {
            return Some(digest(body));
        }
        // While the request is on its way, and not on a thread that others wait for.
        let body = body.clone();
        beside(move || digest(&body)).await
    }

    /// Where a segment lies.
    pub fn segment_key(&self, id: u128) -> crate::types::ObjectKey {
        super::pieces::segment_key(&self.state, id)
    }

    /// Hands a step of all parts over, in one batch; `bulk` if it is one of several.
    async fn hand_over(
        &self,
        parts: &mut [Part],
        number: usize,
        bulk: bool,
        uploads: &mut [Upload<'_>],
    ) -> Result<(), DataError> {
        let mut txn = match bulk {
            false => self.meta.begin_owed().await?,
            true => self.meta.begin_bulk().await?,
        };
        let mut delta = SegmentDelta::default();
        let mut segments: BTreeMap<u128, u64> = BTreeMap::new();
        let mut done: Vec<(&mut Part, Step)> = Vec::new();
        for part in parts {
            let Some(step) = part.take_step(number) else { continue };
            if part.inode.live().removed {
                // A segment of which nothing is laid is garbage.
                step.places.iter().for_each(|(_, place)| delta.add(place, 0));
                continue;
            }
            if part.attr.kind == FileKind::File && part.content_changed {
                self.lay(&mut txn, part, &step, &mut delta, &mut segments).await?;
            }
            let written_since = {
                let mut live = part.inode.live();
                let written = !part.content_changed && !live.pending.is_clean();
                live.attr_dirty |= written;
                // The attributes may have been changed by an operation since the snapshot.
                part.attr = live.attr.clone();
                written
            };
            if written_since {
                // What it says of that goes with its bytes.
                continue;
            }
            txn.put(keys::inode(part.inode.ino), &part.attr);
            done.push((part, step));
        }
        for (id, total) in segments {
            txn.put(keys::segment(id), &SegmentRec { total, live: 0 });
        }
        delta.apply(&mut txn).await?;
        let inodes = done.iter().map(|(part, step)| (part.inode.ino, step.through)).collect();
        uploads.iter_mut().for_each(Upload::named);
        let handed = txn.commit(Logged::Commit { inodes }, || {
            for (part, step) in &done {
                self.commit_applied(part, step);
            }
        });
        let handed = handed.await;
        if handed.as_ref().is_err_and(|error| !matches!(error, MetaError::Engine(_))) {
            uploads.iter_mut().for_each(Upload::not_named);
        }
        Ok(handed?)
    }

    /// Puts one step of a file into a batch.
    async fn lay(
        &self,
        txn: &mut Txn<'_>,
        part: &mut Part,
        step: &Step,
        delta: &mut SegmentDelta,
        segments: &mut BTreeMap<u128, u64>,
    ) -> Result<(), DataError> {
        let ino = part.inode.ino;
        let limit = step.limit.min(part.cut);
        // Publishing may have changed the record since the snapshot, under the sequencer; so may somebody
        // else's object that took the place of the content.
        part.content = txn.get(&keys::content(ino)).await?.unwrap_or(part.content.clone());
        let content = &mut part.content;
        let before = content.size;
        let size = step.size_over(before).min(part.cut);
        content.generation += 1;
        if limit == 0 && before > 0 {
            // Everything older is dead at once; the collector drops it later.
            content.drop_gen = content.generation - 1;
            give_up_map(txn, ino, content);
            if let Some(base) = content.base.take() {
                self.release_parked(txn, &base);
            }
        }
        let mut editor = Editor::new(txn, ino, content);
        if (1..before).contains(&limit) {
            editor.clear(limit..u64::MAX, delta).await?;
        }
        content.hide_base_from(limit.min(size));
        let mut places: Vec<_> = step.places.iter().collect();
        places.sort_by_key(|(range, _)| range.start);
        for (range, place) in places {
            if let Place::Segment { id, .. } = place {
                *segments.entry(*id).or_default() += range.end - range.start;
                // A segment of which nothing is laid is garbage.
                delta.add(place, 0);
            }
            let shown = range.start..range.end.min(part.cut);
            if shown.is_empty() {
                continue;
            }
            let place = tail_of(place, 0, shown.end - shown.start);
            editor.overlay(shown, place, content.generation, delta).await?;
        }
        content.size = size;
        count_changed(txn, content, before, delta);
        txn.put(keys::content(ino), &*content);
        txn.put(keys::work(ino), &WorkRec::Inode);
        Ok(())
    }

    fn commit_applied(&self, part: &Part, step: &Step) {
        let mut live = part.inode.live();
        let before = live.pending.weight();
        let through = if Mutant::CommitForgetsLater.lives() { Lsn(u64::MAX) } else { step.through };
        live.pending.committed(through);
        self.dirty_adjust(before, live.pending.weight());
        let limit = live.pending.limit();
        for (range, change) in &step.ranges {
            if *change != Change::Data {
                continue;
            }
            live.committed(range.start..range.end.min(limit));
        }
        if part.content_changed {
            // Fetches under way stay right: the data committed here is present now, what they fetch is
            // what lies below it. A hole is nowhere in the cache, and they may bring what it hides.
            if step.ranges.iter().any(|(_, change)| *change == Change::Zero) {
                live.version += 1;
            }
            live.content = part.content.clone();
        }
    }

    /// Unpins an inode that has nothing left to commit. What is left was written after `through`, boot time.
    fn clean_if_clean(&self, inode: &Arc<Inode>, through: Duration) {
        let mut dirty = self.dirty.lock();
        let live = inode.live();
        if live.pending.is_clean() && !live.attr_dirty {
            dirty.remove(&inode.ino);
        } else if let Some(dirty) = dirty.get_mut(&inode.ino) {
            dirty.since = dirty.since.max(through);
        }
    }
}

/// What a store says that takes no segment because one is there.
fn refused(key: &ObjectKey, is_there: bool) -> StoreError {
    let there = if is_there { "another object is there" } else { "nothing is there" };
    let message = format!("{key} was refused as one that exists, and {there}");
    StoreError::new(StoreErrorKind::Protocol, message)
}

impl Part {
    /// Rows that a step takes away, about.
    fn replaces(&self, number: usize) -> u64 {
        let data = self.steps.get(number).map_or(0, Step::data);
        (data / row_bytes(&self.content)).min(self.content.pieces)
    }

    /// A step, once.
    fn take_step(&mut self, number: usize) -> Option<Step> {
        let step = self.steps.get_mut(number)?;
        let empty = Step { ranges: Vec::new(), places: Vec::new(), ..*step };
        Some(std::mem::replace(step, empty))
    }
}

fn pieces(range: Range<u64>, block: u64) -> impl Iterator<Item = Range<u64>> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        if at >= range.end {
            return None;
        }
        let end = ((at / block + 1) * block).min(range.end);
        let piece = at..end;
        at = end;
        Some(piece)
    })
}

/// The bytes of an uncommitted range as they are now; the lock makes each piece whole writes only.
/// With them where a truncation after `through` has cut the range off.
fn read_piece(inode: &Inode, through: Lsn, range: Range<u64>) -> Result<(Bytes, u64), DataError> {
    let mut buffer = vec![0; (range.end - range.start) as usize];
    let mut live = inode.live();
    // Of an inode that is gone nothing is handed over; reading would make its cache file anew.
    if !live.removed {
        live.cache.read_at(range.start, &mut buffer).map_err(|e| DataError::disk(inode.ino, e))?;
    }
    let cut = live.pending.cut_since(through);
    Ok((Bytes::from(buffer), if cut < range.end { cut } else { u64::MAX }))
}
