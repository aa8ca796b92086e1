//! Prefetch: what a sequential reader will ask for next, and the whole of a file with many random reads.
//!
//! One task per file starts the parts that are wanted, as many in parallel as the volume allows, and writes their
//! bytes to the cache as they arrive. A reader never queues behind them: it fetches what is not in flight itself, and
//! also what is in flight but stalled. So no program sees an error of a part that it did not ask for. After an error,
//! or when there is no room, prefetch of that file pauses. A file is fetched whole only if that evicts nothing that
//! others read, and takes no more than a minute.

use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::task::JoinSet;

use super::course::{Ahead, FIRST, RUNS, SLACK, SMALL};
use super::fetching::WHOLE;
use super::inode::OnWay;
use super::pieces::{
    Fetch, GET_TIMEOUT, Piece, fetches, hull, only, pieces, read_inline, read_run,
};
use super::read::Below;
use super::room::Coming;
use super::{DataError, Inode, Live, Volume};
use crate::clock::{Deadline, boottime};
use crate::meta::RangeMap;
use crate::types::{Base, Ino};

/// A part is a quarter of the window, within these bounds, bytes.
const LEAST_PART: u64 = 512 << 10;
const MOST_PART: u64 = 8 << 20;
/// What arrives is written to the cache in blocks of this size, bytes.
const BLOCK: usize = 256 << 10;
/// A random read waits for a range in flight if less than this has to arrive before it, bytes.
const NEAR: u64 = 1 << 20;
/// A reader that is idle for this long has stopped.
const STOPPED: Duration = Duration::from_secs(10);
/// What arrives slowly is written to the cache this often, even if it is less than a block.
const MOMENT: Duration = Duration::from_millis(100);
/// How long prefetch pauses after an error or for want of room: at first, and at most.
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A whole-file fetch that would take longer ends.
const LONGEST: Duration = Duration::from_secs(60);
/// Streams share half of the cache, and none gets more than it would beside three others.
const STREAMS: u64 = 4;

impl Live {
    /// The next wanted part that is neither cached nor in flight, and whether it is of a whole-file fetch.
    fn next_part(&mut self) -> Option<(Range<u64>, bool)> {
        let limit = self.committed_size();
        let mut ahead = self.ahead.take()?;
        let mut goals = ahead.goals.iter_mut().zip(ahead.parts).enumerate();
        let next = goals.find_map(|(number, (goal, part))| {
            Some((self.first_of(goal, limit, part)?, number == RUNS))
        });
        self.ahead = Some(ahead);
        next
    }

    /// Takes the first part from a goal.
    fn first_of(&self, goal: &mut Range<u64>, limit: u64, part: u64) -> Option<Range<u64>> {
        goal.end = goal.end.min(limit);
        while goal.start < goal.end {
            let step = goal.start..goal.end.min(goal.start + MOST_PART);
            if let Some(end) = self.ways.end_of(step.start) {
                goal.start = end;
                continue;
            }
            let Some(missing) = self.missing(step.clone()).next() else {
                goal.start = step.end;
                continue;
            };
            if missing.start > step.start {
                goal.start = missing.start;
                continue;
            }
            let next = self.ways.next_after(step.start).unwrap_or(u64::MAX);
            let end = next.min(step.end).min(step.start + part);
            goal.start = end;
            return Some(step.start..end);
        }
        None
    }

    /// Whether a read of this range needs nothing from the store.
    fn has(&self, range: &Range<u64>) -> bool {
        self.missing(range.clone()).next().is_none()
    }

    /// The index of the first goal that is not reached.
    fn wants_more(&self) -> Option<usize> {
        self.ahead.as_ref()?.goals.iter().position(|goal| !goal.is_empty())
    }

    fn wants_nothing(&mut self) {
        if let Some(ahead) = &mut self.ahead {
            ahead.goals = Default::default();
        }
    }

    /// What is evicted last when room is made for a part of the file: all from `slack` before its reader, which may
    /// still want that, to the end of the reader's window.
    pub(super) fn needed_with(&self, part: &Range<u64>, slack: u64) -> Range<u64> {
        let Some(ahead) = &self.ahead else { return part.clone() };
        let Some((run, at)) = ahead.course.comes_to(part.start) else { return part.clone() };
        let to = ahead.goals[run].end.max(at);
        if part.start > to + SLACK {
            // Another reader's.
            return part.clone();
        }
        part.start.min(at.saturating_sub(slack))..part.end.max(to)
    }

    /// What the cache will gain from all that is in flight or still to come of a whole file.
    pub(super) fn will_hold(&self) -> u64 {
        let whole = self.ahead.as_ref().map(|ahead| &ahead.goals[RUNS]);
        self.ways.coming() + whole.map_or(0, |whole| whole.end.saturating_sub(whole.start))
    }

    /// All that readers of this file still need in the cache: what lies between them and the ends of their windows.
    pub(super) fn needed(&self) -> RangeMap<()> {
        let mut needed = RangeMap::default();
        let Some(ahead) = &self.ahead else { return needed };
        if boottime().saturating_sub(ahead.read_at) > STOPPED {
            return needed;
        }
        for (run, at) in ahead.course.readers() {
            let end = ahead.goals[run].end.max(at.saturating_add(1));
            needed.insert(at.saturating_sub(SLACK)..end, ());
        }
        if !ahead.goals[RUNS].is_empty() {
            needed.insert(0..ahead.goals[RUNS].end, ());
        }
        needed
    }

    fn pauses(&mut self) {
        self.wants_nothing();
        let now = boottime();
        // What stops one part stops those beside it, too: that is one reason.
        if let Some(ahead) = &mut self.ahead
            && now >= ahead.paused_until
        {
            ahead.pause = (ahead.pause * 2).clamp(PAUSE, LONGEST_PAUSE);
            ahead.paused_until = now + ahead.pause;
        }
    }

    /// A part has arrived. A whole-file fetch ends if the rest would take too long.
    fn goes_on(&mut self, part: &Range<u64>, whole: bool, took: Duration) {
        let Some(ahead) = &mut self.ahead else { return };
        ahead.pause = Duration::ZERO;
        if !whole {
            return;
        }
        let goal = &mut ahead.goals[RUNS];
        let left = goal.end.saturating_sub(goal.start) as f64 / WHOLE as f64;
        let needs = took.as_secs_f64() * left / (part.end - part.start).max(1) as f64;
        if needs > LONGEST.as_secs_f64() {
            *goal = 0..0;
            ahead.course.tried_all();
        }
    }
}

/// Why a part was not fetched.
#[derive(Debug)]
enum Stopped {
    /// The content changed, or the file is no longer open.
    Needless,
    /// The cache has no room.
    NoRoom,
    Failed(DataError),
}

impl From<DataError> for Stopped {
    fn from(error: DataError) -> Self {
        Stopped::Failed(error)
    }
}

impl Volume {
    /// Notes a read, and prefetches what its reader will ask for next.
    pub(super) fn follow(&self, inode: &Arc<Inode>, range: &Range<u64>) {
        if !inode.is_open() {
            return;
        }
        let most = self.room.limit() / 2 / self.fetching.streams().max(STREAMS);
        let now = boottime();
        let mut live = inode.live();
        let limit = live.committed_size();
        if range.start >= limit {
            return;
        }
        if limit <= SMALL {
            let missing = !live.has(&(0..limit));
            drop(live);
            if range.start == 0 {
                self.follow_small(inode, missing);
            }
            return;
        }
        let range = range.start..range.end.min(limit);
        let missing = !live.has(&range);
        // How much the reader has to fetch itself now.
        let fetches = if missing && live.ways.end_of(range.start).is_none() { FIRST } else { 0 };
        let careful = self.options.requester_pays;
        let ahead = live.ahead.get_or_insert_default();
        let run = ahead.course.read(&range, now);
        ahead.read_at = now;
        if missing {
            ahead.course.waits(run, now, most, careful);
        }
        if now < ahead.paused_until {
            return;
        }
        let whole = match ahead.course.ahead(run, most, careful) {
            Some(wanted) => {
                let goal = &mut ahead.goals[run];
                let goes_on = goal.end >= wanted.start && goal.start <= wanted.end;
                let from = if goes_on { goal.start.max(wanted.start) } else { wanted.start };
                let part = ((wanted.end - wanted.start) / 4).clamp(LEAST_PART, MOST_PART);
                ahead.parts[run] = part;
                // By whole parts, not with each read.
                let little = wanted.end < limit && wanted.end < goal.end + part;
                let to = if goes_on && little { goal.end } else { wanted.end.min(limit) };
                *goal = from.max(range.start + fetches)..to;
                false
            }
            None if missing
                && !careful
                && ahead.goals[RUNS].is_empty()
                && ahead.course.wants_all(limit, now) =>
            {
                true
            }
            None => return,
        };
        if whole {
            ahead.course.tried_all();
            drop(live);
            let room = self.can_hold(inode, limit);
            live = inode.live();
            match &mut live.ahead {
                Some(ahead) if room => {
                    (ahead.goals[RUNS], ahead.parts[RUNS]) = (0..limit, MOST_PART);
                }
                _ => return,
            }
        }
        let Some(ahead) = &mut live.ahead else { return };
        if ahead.goals.iter().all(|goal| goal.is_empty() || goal.start >= limit) {
            return;
        }
        let (running, more) =
            (std::mem::replace(&mut ahead.running, true), Arc::clone(&ahead.more));
        drop(live);
        match running {
            true => more.notify_one(),
            false => drop(tokio::spawn(fill(self.this.clone(), Arc::clone(inode), more))),
        }
    }

    /// Waits for the first of the missing bytes, if they are in flight. False: the reader has to fetch them.
    pub(super) async fn comes(
        &self,
        inode: &Arc<Inode>,
        missing: &Range<u64>,
        late: &Deadline,
    ) -> bool {
        loop {
            let arrived = inode.arrived.notified();
            let patience = {
                let mut live = inode.live();
                if live.has(&(missing.start..missing.start + 1)) {
                    return true;
                }
                let ahead = live.ahead.as_ref();
                let in_order = ahead.is_some_and(|ahead| ahead.course.in_order(missing.start));
                let near = if in_order { u64::MAX } else { NEAR };
                match live.ways.patience(missing.start, near, boottime()) {
                    Some(patience) => patience,
                    None => return false,
                }
            };
            if late.passed() {
                return false;
            }
            // Whether it was in time, the next look says.
            let _ = tokio::time::timeout(patience.min(late.left()), arrived).await;
        }
    }

    /// Fetches a part of a file into the cache.
    async fn bring(&self, way: &OnWay) -> Result<(), Stopped> {
        let (inode, part) = (&way.inode, &way.range);
        let goes_on = || part.end <= SMALL || inode.is_open();
        let slack = SLACK.min(self.room.limit() / 8);
        let (content, below, missing, keep) = {
            let live = inode.live();
            if live.removed || live.changing > 0 || !goes_on() {
                return Err(Stopped::Needless);
            }
            let below = Below::of(&live);
            let missing: Vec<_> = live.missing(part.start..part.end.min(below.limit)).collect();
            (live.content.clone(), below, missing, live.needed_with(part, slack))
        };
        let bytes = missing.iter().map(|gap| gap.end - gap.start).sum();
        if bytes == 0 {
            return Ok(());
        }
        self.evict_files();
        let coming = way.stalled_while(self.room.expect(bytes)).await;
        if !self.make_room(0, Some((inode, keep))) {
            return Err(Stopped::NoRoom);
        }
        let arrival = |below, floor| Arrival { way, below, coming: &coming, floor };
        let list = {
            // Inline content is in memory until it is in the cache.
            let _look = self.fetching.look().await;
            let wanted = pieces(&self.meta, inode.ino, &content, part.clone()).await?;
            let list = together(fetches(only(wanted, &missing)));
            let (here, list): (Vec<_>, Vec<_>) =
                list.into_iter().partition(|fetch| matches!(fetch, Fetch::Here(..)));
            let floor = list.iter().map(begins).min().unwrap_or(u64::MAX);
            for fetch in here {
                let Fetch::Here(span, extent) = fetch else { continue };
                let bytes = read_inline(inode.ino, &span, extent.as_ref())?;
                self.arrives(&arrival(&below, floor), (span, bytes))?;
            }
            list
        };
        // Nothing counts as arrived while something before it is still to be fetched.
        let mut floors = Vec::with_capacity(list.len());
        let mut floor = u64::MAX;
        for fetch in list.iter().rev() {
            floors.push(floor);
            floor = floor.min(begins(fetch));
        }
        floors.reverse();
        for (fetch, floor) in list.into_iter().zip(floors) {
            let arrival = arrival(&below, floor);
            match fetch {
                Fetch::Base(run) => {
                    let base = content.base.as_ref().ok_or(Stopped::Needless)?;
                    self.bring_base(&arrival, base, run, goes_on).await?;
                }
                Fetch::Run(_) => {
                    let _share = way.stalled_while(self.fetching.share_beside(fetch.bytes())).await;
                    let Fetch::Run(run) = fetch else { continue };
                    // A reader that did not wait for the share may have fetched it.
                    let here = |(span, _): &(Range<u64>, _)| inode.live().has(span);
                    if run.iter().all(here) {
                        continue;
                    }
                    let state = (&*self.state_store, &self.state);
                    let pieces = read_run(state, inode.ino, run).await?;
                    way.moves();
                    if !goes_on() {
                        return Err(Stopped::Needless);
                    }
                    for piece in pieces {
                        self.arrives(&arrival, piece)?;
                    }
                }
                Fetch::Here(..) => {}
            }
        }
        Ok(())
    }

    /// Fetches what shows of the base in a run, which may lie between extents and holes.
    async fn bring_base(
        &self,
        arrival: &Arrival<'_>,
        base: &Base,
        run: Vec<Range<u64>>,
        goes_on: impl Fn() -> bool + Send + Sync,
    ) -> Result<(), Stopped> {
        let Arrival { way, .. } = arrival;
        let store = self.base_store(base);
        let _share = match store.pieces_held() {
            0 => None,
            held => Some(way.stalled_while(self.fetching.share_beside(held)).await),
        };
        let whole = hull(&run);
        let mut at = whole.start;
        let mut held = BytesMut::new();
        let mut written = boottime();
        let mut stopped = None;
        let mut take = |piece: Bytes| {
            way.moves();
            let block = match (held.is_empty(), piece.len() >= BLOCK) {
                (true, true) => piece,
                _ => {
                    held.extend_from_slice(&piece);
                    if held.len() < BLOCK && boottime().saturating_sub(written) < MOMENT {
                        return true;
                    }
                    held.split().freeze()
                }
            };
            let span = at..at + block.len() as u64;
            (at, written) = (span.end, boottime());
            // Not after the last close: that would open the cache file again.
            let taken = match goes_on() {
                true => self.base_arrives(arrival, &run, (span, block)),
                false => Err(Stopped::Needless),
            };
            let left = at..whole.end;
            let more = taken.map_err(|why| stopped = Some(why)).is_ok();
            // Readers that did not wait may have fetched the rest.
            more && (left.is_empty() || !way.inode.live().has(&left))
        };
        let result =
            store.get_pieces(&base.key, whole.clone(), &base.version, GET_TIMEOUT, &mut take).await;
        if let Some(why) = stopped {
            return Err(why);
        }
        let rest = held.freeze();
        if !rest.is_empty() {
            if !goes_on() {
                return Err(Stopped::Needless);
            }
            self.base_arrives(arrival, &run, (at..at + rest.len() as u64, rest))?;
        }
        result.map_err(|error| Stopped::Failed(error.into()))
    }

    /// Caches what shows of the base in a block. The rest of the block was replaced by extents and is stale.
    fn base_arrives(
        &self,
        arrival: &Arrival<'_>,
        run: &[Range<u64>],
        (block, bytes): (Range<u64>, Bytes),
    ) -> Result<(), Stopped> {
        for shows in run {
            let part = shows.start.max(block.start)..shows.end.min(block.end);
            if part.is_empty() {
                continue;
            }
            let from = (part.start - block.start) as usize;
            let to = (part.end - block.start) as usize;
            self.arrives(arrival, (part, Some(bytes.slice(from..to))))?;
        }
        Ok(())
    }

    /// Caches a piece, unless the content has changed.
    fn arrives(&self, arrival: &Arrival<'_>, piece: Piece) -> Result<(), Stopped> {
        let Arrival { way, below, coming, floor } = arrival;
        let inode = &way.inode;
        {
            let mut live = inode.live();
            if live.removed || !below.holds(&live) {
                return Err(Stopped::Needless);
            }
            if let Err(error) = below.cache(&piece, &mut live) {
                let error = DataError::disk(inode.ino, error);
                if error.is_full() {
                    self.room.met_full();
                }
                return Err(error.into());
            }
            coming.arrived(piece.0.end - piece.0.start);
            live.used_at = boottime();
            way.reached(&mut live, piece.0.end.min(*floor));
        }
        inode.arrived.notify_waiters();
        Ok(())
    }
}

/// How the bytes of a range get into the cache.
struct Arrival<'a> {
    way: &'a OnWay,
    below: &'a Below,
    coming: &'a Coming,
    /// The lowest offset that is fetched after this.
    floor: u64,
}

fn begins(fetch: &Fetch) -> u64 {
    match fetch {
        Fetch::Run(run) => run.first().map_or(u64::MAX, |(span, _)| span.start),
        Fetch::Base(run) => run.first().map_or(u64::MAX, |span| span.start),
        Fetch::Here(span, _) => span.start,
    }
}

/// Joins neighbours in the base into one request: they are not held in memory.
fn together(fetches: Vec<Fetch>) -> Vec<Fetch> {
    let mut joined: Vec<Fetch> = Vec::new();
    for fetch in fetches {
        match (joined.last_mut(), fetch) {
            (Some(Fetch::Base(before)), Fetch::Base(run))
                if hull(before).end == hull(&run).start =>
            {
                before.extend(run);
            }
            (_, fetch) => joined.push(fetch),
        }
    }
    joined
}

/// Fetches what is wanted of a file until nothing more is.
async fn fill(volume: Weak<Volume>, inode: Arc<Inode>, more: Arc<Notify>) {
    let slots = |volume: Arc<Volume>| {
        (volume.fetching.ahead(), volume.fetching.whole(), volume.fetching.stream())
    };
    let Some((ahead, whole, _stream)) = volume.upgrade().map(slots) else { return };
    let mut parts: JoinSet<Result<(), Stopped>> = JoinSet::new();
    loop {
        let wants = {
            let mut live = inode.live();
            let wants = live.wants_more();
            let Some(ahead) = &mut live.ahead else { return };
            if wants.is_none() && parts.is_empty() {
                // More wanted from here on starts another task.
                ahead.running = false;
                return;
            }
            wants
        };
        let slots = if wants == Some(RUNS) { &whole } else { &ahead };
        tokio::select! {
            slot = Arc::clone(slots).acquire_owned(), if wants.is_some() => {
                if let Some((way, whole)) = begin(&inode) {
                    parts.spawn(bring(Weak::clone(&volume), way, whole, slot.ok()));
                }
            }
            Some(done) = parts.join_next(), if !parts.is_empty() => match done {
                Ok(Ok(())) => {}
                Ok(Err(Stopped::Needless)) => inode.live().wants_nothing(),
                Ok(Err(Stopped::NoRoom)) => inode.live().pauses(),
                Ok(Err(Stopped::Failed(error))) => {
                    tracing::debug!(ino = %inode.ino, %error, "a prefetch failed");
                    inode.live().pauses();
                }
                Err(error) => {
                    tracing::error!(ino = %inode.ino, %error, "a prefetch task died");
                    inode.live().pauses();
                }
            },
            // A reader whose ranges are in order does not wait for the end of other whole-file fetches.
            () = more.notified(), if wants.is_none_or(|goal| goal == RUNS) => {}
        }
    }
}

/// The next part, in flight from now on, and whether it is of a whole-file fetch.
fn begin(inode: &Arc<Inode>) -> Option<(OnWay, bool)> {
    let mut live = inode.live();
    let idle = |ahead: &Ahead| boottime().saturating_sub(ahead.read_at) > STOPPED;
    if !inode.is_open() || live.ahead.as_deref().is_some_and(idle) {
        live.wants_nothing();
        return None;
    }
    let (part, whole) = live.next_part()?;
    Some((OnWay::begin(inode, &mut live, part), whole))
}

async fn bring(
    volume: Weak<Volume>,
    way: OnWay,
    whole: bool,
    _slot: Option<OwnedSemaphorePermit>,
) -> Result<(), Stopped> {
    let Some(volume) = volume.upgrade() else { return Err(Stopped::Needless) };
    let began = boottime();
    let brought = volume.bring(&way).await;
    if brought.is_ok() {
        way.inode.live().goes_on(&way.range, whole, boottime().saturating_sub(began));
    }
    // A block may have arrived just as the last handle closed.
    way.inode.close_unused();
    brought
}

/// Prefetches a small file into the cache.
pub(super) async fn bring_small(volume: Weak<Volume>, ino: Ino) {
    let Some(slots) = volume.upgrade().map(|volume| volume.fetching.small()) else { return };
    let _slot = slots.acquire_owned().await;
    let Some(volume) = volume.upgrade() else { return };
    // It may have been removed meanwhile.
    let Ok(inode) = volume.inode(ino).await else { return };
    let way = {
        let mut live = inode.live();
        let all = 0..live.committed_size();
        let wanted = !all.is_empty() && all.end <= SMALL && live.ways.is_empty();
        (wanted && !live.has(&all)).then(|| OnWay::begin(&inode, &mut live, all))
    };
    let Some(way) = way else { return };
    if let Err(Stopped::Failed(error)) = volume.bring(&way).await {
        tracing::debug!(%ino, %error, "a small file was not prefetched");
    }
    inode.close_unused();
}
