//! The read path: cache file, else extents, else the base object, else zeros.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, StreamExt, TryStreamExt};

use super::course::{FIRST, SLACK};
use super::inode::OnWay;
use super::pieces::{
    Fetch, GET_TIMEOUT, PARALLEL, Piece, cut_up, fetches, hull, only, pieces, read_inline,
    read_run, zeros,
};
use super::ways::LATE;
use super::{DataError, Inode, Live, Share, Volume};
use crate::clock::Deadline;
use crate::meta::records::ContentRec;
use crate::meta::{Change, keys};
use crate::store::{ObjectInfo, StoreBackend, StoreErrorKind};
use crate::types::{ATTR_PUT, Base, PutId, Version};

/// Content that changes under every attempt of a fetch is somebody else's fault.
const ATTEMPTS: usize = 50;
/// How often one read waits for others' fetches.
const MOST_WAITS: usize = 10_000;

/// Holes at least so long are punched into the cache file; shorter ones are written with what lies
/// around them, bytes.
const HOLE: u64 = 64 << 10;
static ZEROS: [u8; HOLE as usize] = [0; HOLE as usize];
/// Pieces are put together to blocks of at most this size, bytes.
const BLOCK: u64 = 1 << 20;

/// Small neighbours put together: a file of thousands of pieces costs no more calls than any other.
fn blocks(pieces: Vec<Piece>) -> Vec<Piece> {
    let mut blocks: Vec<Vec<Piece>> = Vec::new();
    for piece in pieces {
        let len = piece.0.end - piece.0.start;
        let alone = piece.1.is_none() && len >= HOLE;
        match blocks.last_mut().map(|block| (block[0].0.start, block.len(), block)) {
            Some((start, count, block))
                if !alone
                    && block[count - 1].0.end == piece.0.start
                    && piece.0.end - start <= BLOCK
                    && !(count == 1 && block[0].1.is_none() && piece.0.start - start >= HOLE) =>
            {
                block.push(piece);
            }
            _ => blocks.push(vec![piece]),
        }
    }
    blocks.into_iter().map(joined).collect()
}

fn joined(mut block: Vec<Piece>) -> Piece {
    if block.len() == 1 || block.iter().all(|(_, bytes)| bytes.is_none()) {
        let end = block.last().map_or(0, |(range, _)| range.end);
        let (range, bytes) = block.swap_remove(0);
        return (range.start..end, bytes);
    }
    let whole = block[0].0.start..block[block.len() - 1].0.end;
    let mut all = BytesMut::with_capacity((whole.end - whole.start) as usize);
    for (range, bytes) in block {
        match bytes {
            Some(bytes) => all.extend_from_slice(&bytes),
            None => all.resize(all.len() + (range.end - range.start) as usize, 0),
        }
    }
    (whole, Some(all.freeze()))
}

/// What a read finds without asking the bucket.
enum Local {
    Bytes(Bytes),
    /// From the first byte that is not cached to the end of the read.
    Missing(Range<u64>),
    /// The local disk does not give back what was cached of it.
    Unreadable(Range<u64>),
}

/// The committed content of an inode as it was when a fetch began.
#[derive(Debug)]
pub(super) struct Below {
    version: u64,
    evicted: u64,
    generation: u64,
    /// An extent may reach past an uncommitted truncation, where it no longer shows.
    pub limit: u64,
}

impl Below {
    pub fn of(live: &Live) -> Self {
        Below {
            version: live.version,
            evicted: live.evicted,
            generation: live.content.generation,
            limit: live.committed_size(),
        }
    }

    /// Whether this still is the content below uncommitted changes. What was committed meanwhile is not in
    /// it, but in the cache, unless it was evicted.
    pub fn holds(&self, live: &Live) -> bool {
        live.version == self.version
            && live.changing == 0
            && (live.evicted == self.evicted || live.content.generation == self.generation)
    }

    /// Takes what the cache does not have of a piece.
    pub fn cache(&self, (range, bytes): &Piece, live: &mut Live) -> std::io::Result<()> {
        let visible = range.start..range.end.min(self.limit);
        for part in live.pending.ranges.gaps(visible) {
            for gap in live.cache.present.gaps(part) {
                match bytes {
                    Some(bytes) => {
                        let from = (gap.start - range.start) as usize;
                        let to = (gap.end - range.start) as usize;
                        live.cache.write_at(gap.start, &bytes[from..to])?;
                    }
                    None if gap.end - gap.start >= HOLE => live.cache.punch(gap.clone())?,
                    // A disk may write out all that lies around a hole before it makes it.
                    None => {
                        live.cache.write_at(gap.start, &ZEROS[..(gap.end - gap.start) as usize])?;
                    }
                }
                live.cache.present.insert(gap, ());
            }
        }
        Ok(())
    }
}

/// Committed content that was just fetched because the cache did not have it: pieces in order, `None` for
/// zeros.
#[derive(Debug)]
struct Fetched {
    pieces: Vec<Piece>,
    below: Below,
    _share: Share,
}

impl Fetched {
    /// What it takes in the cache, at most.
    fn bytes(&self) -> u64 {
        let pieces = self.pieces.iter().map(|(span, bytes)| (span.end - span.start, bytes));
        pieces.filter(|(len, bytes)| bytes.is_some() || *len < HOLE).map(|(len, _)| len).sum()
    }

    /// From the first piece that ends after `at`.
    fn from(&self, at: u64) -> &[Piece] {
        &self.pieces[self.pieces.partition_point(|(span, _)| span.end <= at)..]
    }

    fn covers(&self, range: &Range<u64>) -> bool {
        let mut at = range.start;
        for (span, _) in self.from(range.start) {
            if span.start > at || at >= range.end {
                break;
            }
            at = span.end;
        }
        range.end <= at.min(self.below.limit)
    }

    /// Fills `buffer` with the bytes of a range that it covers.
    fn copy(&self, range: Range<u64>, buffer: &mut [u8]) {
        for (span, bytes) in self.from(range.start) {
            if span.start >= range.end {
                break;
            }
            let part = span.start.max(range.start)..span.end.min(range.end);
            let Some(bytes) = bytes else { continue };
            let from = (part.start - span.start) as usize..(part.end - span.start) as usize;
            let to = (part.start - range.start) as usize..(part.end - range.start) as usize;
            buffer[to].copy_from_slice(&bytes[from]);
        }
    }
}

impl Volume {
    /// At most `len` bytes from `offset`; fewer only at the end of the file.
    pub async fn read(
        &self,
        inode: &Arc<Inode>,
        offset: u64,
        len: usize,
    ) -> Result<Bytes, DataError> {
        let read = self.read_through(inode, offset, len).await;
        inode.close_unused();
        read
    }

    async fn read_through(
        &self,
        inode: &Arc<Inode>,
        offset: u64,
        len: usize,
    ) -> Result<Bytes, DataError> {
        let mut fetched = None;
        let mut cache = true;
        self.follow(inode, &(offset..offset.saturating_add(len as u64)));
        let (mut attempts, mut waits) = (0, 0);
        let late = Deadline::after(LATE);
        while attempts < ATTEMPTS {
            let missing = match self.read_local(inode, offset, len, fetched.as_ref())? {
                Local::Bytes(bytes) => {
                    match attempts + waits {
                        0 => self.meters.cache.hit(),
                        _ => self.meters.cache.missed(),
                    }
                    return Ok(bytes);
                }
                Local::Missing(range) => range,
                Local::Unreadable(range) => {
                    cache = false;
                    range
                }
            };
            // No reader waits for a share while it holds one.
            drop(fetched.take());
            if cache && waits < MOST_WAITS && Box::pin(self.comes(inode, &missing, &late)).await {
                waits += 1;
                continue;
            }
            attempts += 1;
            fetched = Box::pin(self.fetch(inode, missing, cache)).await?;
        }
        Err(DataError::Late(format!("inode {} changes faster than it can be read", inode.ino)))
    }

    /// The bytes if all of them are cached or were just fetched, else a range that is not.
    fn read_local(
        &self,
        inode: &Arc<Inode>,
        offset: u64,
        len: usize,
        fetched: Option<&Fetched>,
    ) -> Result<Local, DataError> {
        let mut live = inode.live();
        live.used_at = crate::clock::boottime();
        if offset >= live.size {
            return Ok(Local::Bytes(Bytes::new()));
        }
        let end = live.size.min(offset + len as u64);
        let committed = live.committed_size();
        // The cache may have had no room for it, or have given it to others since.
        let fetched = fetched.filter(|fetched| fetched.below.holds(&live));
        let mut uncached: Vec<Range<u64>> = Vec::new();
        for missing in live.missing(offset..end.min(committed)) {
            if !fetched.is_some_and(|fetched| fetched.covers(&missing)) {
                // To the end of the read: where the cache has no room one fetch must cover all of it.
                return Ok(Local::Missing(missing.start..end.min(committed)));
            }
            uncached.push(missing);
        }
        let mut buffer = zeros((end - offset) as usize);
        if let Some(fetched) = fetched {
            for range in uncached {
                let at = (range.start - offset) as usize..(range.end - offset) as usize;
                fetched.copy(range, &mut buffer[at]);
            }
        }
        let mut pieces: Vec<(Range<u64>, bool)> = live
            .pending
            .ranges
            .overlapping(offset..end)
            .filter(|(_, (_, change))| *change == Change::Data)
            .map(|(range, _)| (range, false))
            .collect();
        let clean = live.cache.present.overlapping(offset..end);
        pieces.extend(clean.map(|(range, ())| (range, true)));
        for (piece, clean) in pieces {
            let at = (piece.start - offset) as usize..(piece.end - offset) as usize;
            match live.cache.read_at(piece.start, &mut buffer[at]) {
                Ok(()) => {}
                // The bucket has it.
                Err(error) if clean => {
                    tracing::warn!(ino = %inode.ino, %error, "cached bytes cannot be read; fetching them");
                    live.cache.present.remove(offset..end);
                    live.evicted += 1;
                    return Ok(Local::Unreadable(offset..end));
                }
                Err(error) => return Err(DataError::disk(inode.ino, error)),
            }
        }
        Ok(Local::Bytes(buffer.freeze()))
    }

    /// Fetches `range` and what reading ahead adds, and caches it if there is room and `cache` says so.
    /// `None` when the content changed meanwhile.
    async fn fetch(
        &self,
        inode: &Arc<Inode>,
        range: Range<u64>,
        cache: bool,
    ) -> Result<Option<Fetched>, DataError> {
        let part = self.room.limit() / 8;
        let mut most = part.min(self.fetching.window());
        if inode.is_open() {
            // What follows is prefetched.
            most = most.min(FIRST);
        }
        let snapshot = {
            let mut live = inode.live();
            if live.removed {
                // What it held is being collected.
                return Err(DataError::Gone(inode.ino));
            }
            if live.changing > 0 {
                None
            } else {
                let content = live.content.clone();
                let limit = live.committed_size();
                if range.start >= limit {
                    return Ok(None);
                }
                let range = range.start..range.end.min(limit);
                let course = live.ahead.as_ref().map(|ahead| ahead.course());
                let in_order = course.is_some_and(|course| course.in_order(range.start));
                let window = if in_order {
                    // What follows is prefetched, or in flight already.
                    let next = live.ways.next_after(range.start).unwrap_or(u64::MAX);
                    let end = (range.start + FIRST.min(most)).min(limit).min(next);
                    range.start..end.max(range.end)
                } else {
                    live.window.window(&range, limit, most)
                };
                // Extents are fetched whole anyway. Without a stream only those that were asked for.
                let based = content.base.is_some() && range.start < content.base_limit;
                let ahead = in_order || based || live.window.is_stream();
                let window = if ahead { window } else { range };
                // What was written here is in the cache, and may be most of the window.
                let missing: Vec<_> = live.missing(window.clone()).collect();
                let way = OnWay::begin(inode, &mut live, window);
                Some((content, Below::of(&live), missing, way))
            }
        };
        let Some((content, below, missing, way)) = snapshot else {
            inode.calm().await;
            return Ok(None);
        };
        let read = self.read_committed(&way, &content, &missing).await;
        let (share, pieces) = match read {
            Ok((share, pieces)) => (share, blocks(pieces)),
            Err(error) => {
                let live = inode.live();
                // A commit may lay other bytes over all that a segment holds, which is then collected.
                let same = (live.version, live.content.generation, live.content.map)
                    == (below.version, content.generation, content.map);
                return match same && live.changing == 0 && !live.removed {
                    true => Err(error),
                    // What it wanted may be gone: the caller looks again.
                    false => Ok(None),
                };
            }
        };
        let fetched = Fetched { pieces, below, _share: share };
        self.evict_files();
        let keep = inode.live().needed_with(&range, SLACK.min(part));
        let room = cache && self.make_room(fetched.bytes(), Some((inode, keep)));
        for piece in &fetched.pieces {
            // Locked block by block: a write or a removal waits for one at most.
            let mut live = inode.live();
            if live.removed {
                return Err(DataError::Gone(inode.ino));
            }
            if !fetched.below.holds(&live) {
                return Ok(None);
            }
            if !room {
                break;
            }
            if let Err(error) = fetched.below.cache(piece, &mut live) {
                // The reader has the bytes all the same.
                match DataError::disk(inode.ino, error) {
                    full if full.is_full() => self.room.met_full(),
                    error => tracing::warn!(%error, "what was fetched is not cached"),
                }
                break;
            }
        }
        Ok(Some(fetched))
    }

    /// Committed content of `missing`, which lies in the range in flight, in pieces; `None` is zeros. Pieces may
    /// reach past what is missing.
    async fn read_committed(
        &self,
        way: &OnWay,
        content: &ContentRec,
        missing: &[Range<u64>],
    ) -> Result<(Share, Vec<Piece>), DataError> {
        let inode = &way.inode;
        let wanted = pieces(&self.meta, inode.ino, content, way.range.clone()).await?;
        let fetches = fetches(only(wanted, missing));
        let bytes = fetches.iter().map(Fetch::bytes).sum();
        let share = way.stalled_while(self.fetching.share(bytes)).await;
        let reads = fetches.into_iter().map(|fetch| async move {
            let found = match fetch {
                Fetch::Run(run) => {
                    let state = (&*self.state_store, &self.state);
                    read_run(state, inode.ino, run).await?
                }
                Fetch::Base(run) => {
                    let bytes = self.read_base(inode, content, hull(&run)).await?;
                    cut_up(inode.ino, run, &bytes)?
                }
                Fetch::Here(span, extent) => {
                    let bytes = read_inline(inode.ino, &span, extent.as_ref())?;
                    vec![(span, bytes)]
                }
            };
            way.moves();
            Ok::<_, DataError>(found)
        });
        let mut found: Vec<Piece> =
            stream::iter(reads).buffered(PARALLEL).try_collect::<Vec<_>>().await?.concat();
        found.sort_by_key(|(span, _)| span.start);
        Ok((share, found))
    }

    async fn read_base(
        &self,
        inode: &Inode,
        content: &ContentRec,
        range: Range<u64>,
    ) -> Result<Bytes, DataError> {
        let Some(base) = &content.base else {
            return Err(DataError::Damaged(format!("inode {} has no base", inode.ino)));
        };
        let store = self.base_store(base);
        let wanted = Some(range.clone());
        match store.get(&base.key, wanted.clone(), Some(&base.version), GET_TIMEOUT).await {
            Ok(found) => return Ok(found.data),
            Err(e) if e.kind == StoreErrorKind::Changed || e.kind == StoreErrorKind::NotFound => {}
            Err(e) => return Err(e.into()),
        }
        // A publish of ours may have replaced the object without its outcome being recorded yet. Where
        // no extent covers, both versions hold the same bytes.
        let gone = || DataError::BaseGone { ino: inode.ino, key: base.key.to_string() };
        let now: Option<ContentRec> = self.meta.get(&keys::content(inode.ino)).await?;
        let now = now.ok_or(DataError::Gone(inode.ino))?;
        if now.base != content.base {
            // Resolved meanwhile: the caller looks again.
            let base = now.base.as_ref().ok_or_else(gone)?;
            let store = self.base_store(base);
            return match store.get(&base.key, wanted, Some(&base.version), GET_TIMEOUT).await {
                Ok(found) => Ok(found.data),
                Err(e) if e.kind == StoreErrorKind::Changed => Err(gone()),
                Err(e) => Err(e.into()),
            };
        }
        let ours = now.publishing.map(|p| p.put_id).or(base.put_id);
        let version = self.version_now(base, ours).await?.ok_or_else(gone)?;
        Ok(store.get(&base.key, wanted, Some(&version), GET_TIMEOUT).await?.data)
    }

    /// The version now at the base's key, if it bears this put-id, or has the base's bytes: others changed
    /// only what it bears besides them.
    async fn version_now(
        &self,
        base: &Base,
        put_id: Option<PutId>,
    ) -> Result<Option<Version>, DataError> {
        let head = self.base_store(base).head(&base.key, GET_TIMEOUT).await?;
        let bears = |info: &ObjectInfo| {
            put_id.is_some()
                && info.attributes.get(ATTR_PUT).and_then(|id| PutId::parse(id)) == put_id
        };
        Ok(head
            .filter(|info| bears(info) || info.version.same_bytes(&base.version))
            .map(|info| info.version))
    }

    /// The bucket that a base lies in.
    pub fn base_store(&self, base: &Base) -> &Arc<dyn StoreBackend> {
        if base.parked { &self.state_store } else { &self.store }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_neighbours_become_blocks_and_large_holes_stay_holes() {
        let data = |range: Range<u64>, byte: u8| {
            let len = (range.end - range.start) as usize;
            (range, Some(Bytes::from(vec![byte; len])))
        };
        let pieces = vec![
            data(0..10, 1),
            (10..20, None),
            data(20..30, 2),
            (30..30 + HOLE, None),
            data(30 + HOLE..40 + HOLE, 3),
            data(50 + HOLE..60 + HOLE, 4),
        ];
        let found = blocks(pieces);
        let ranges: Vec<_> = found.iter().map(|(range, _)| range.clone()).collect();
        assert_eq!(ranges, [0..30, 30..30 + HOLE, 30 + HOLE..40 + HOLE, 50 + HOLE..60 + HOLE]);
        let first = [[1; 10], [0; 10], [2; 10]].concat();
        assert_eq!(found[0].1.as_deref(), Some(first.as_slice()));
        assert_eq!(found[1].1, None);
        assert_eq!(found[3].1.as_deref(), Some(&[4; 10][..]));
    }
}
