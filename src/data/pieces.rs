//! What committed content is made of, and reading one piece of it.

use std::ops::Range;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::{DataError, live_extents};
use crate::meta::Lookup;
use crate::meta::records::{ContentRec, ExtentRec, Place};
use crate::store::StoreBackend;
use crate::types::{Ino, KeyPrefix, ObjectKey};

/// How long one GET may go without progress.
pub const GET_TIMEOUT: Duration = Duration::from_secs(20);
/// A window is fetched in ranges of this size, in parallel.
const CHUNK: u64 = 4 << 20;
pub const PARALLEL: usize = 4;

/// Where a piece lies.
#[derive(Debug)]
pub enum Source {
    Zero,
    Extent(ExtentRec),
    Base,
}

/// The pieces of `range`, in order: extents over the base over zeros. They may reach past it.
pub async fn pieces<L: Lookup>(
    meta: &L,
    ino: Ino,
    content: &ContentRec,
    range: Range<u64>,
) -> Result<Vec<(Range<u64>, Source)>, DataError> {
    let mut wanted: Vec<(Range<u64>, Source)> = Vec::new();
    let mut at = range.start;
    let below = |from: u64, to: u64, wanted: &mut Vec<(Range<u64>, Source)>| {
        let base_end = match &content.base {
            Some(base) => content.base_limit.min(base.version.size),
            None => 0,
        };
        let mut start = from;
        while start < to.min(base_end) {
            let end = start.saturating_add(CHUNK).min(to).min(base_end);
            wanted.push((start..end, Source::Base));
            start = end;
        }
        if start < to {
            wanted.push((start..to, Source::Zero));
        }
    };
    for (span, extent) in live_extents(meta, ino, content, range.clone()).await? {
        let span = span.start..span.end.min(content.size);
        if span.is_empty() {
            continue;
        }
        if span.start > at {
            below(at, span.start, &mut wanted);
        }
        at = at.max(span.end);
        wanted.push((span, Source::Extent(extent)));
    }
    if at < range.end {
        below(at, range.end, &mut wanted);
    }
    Ok(wanted)
}

/// The key of a segment in a volume's state.
pub fn segment_key(state: &KeyPrefix, id: u128) -> ObjectKey {
    state.key(&format!("segments/{id:032x}"))
}

/// What one request brings, or none.
#[derive(Debug)]
pub enum Fetch {
    /// Pieces that lie beside each other in one segment.
    Run(Vec<(Range<u64>, ExtentRec)>),
    /// Pieces that lie beside each other in the base.
    Base(Vec<Range<u64>>),
    /// Zeros, or what the record itself holds.
    Here(Range<u64>, Option<ExtentRec>),
}

impl Fetch {
    /// Bytes in memory that it takes.
    pub fn bytes(&self) -> u64 {
        match self {
            Fetch::Run(run) => in_segment(run).map_or(0, |(_, whole)| whole.end - whole.start),
            Fetch::Base(run) => hull(run).end - hull(run).start,
            Fetch::Here(span, extent) => match extent.as_ref().map(|extent| &extent.place) {
                Some(Place::Inline(_)) => span.end - span.start,
                _ => 0,
            },
        }
    }
}

/// What a run takes of its segment.
fn in_segment(run: &[(Range<u64>, ExtentRec)]) -> Option<(u128, Range<u64>)> {
    let mut whole: Option<(u128, Range<u64>)> = None;
    for (_, extent) in run {
        if let Place::Segment { id, crc_offset, crc_len, .. } = extent.place {
            let end = crc_offset + u64::from(crc_len);
            let (_, whole) = whole.get_or_insert((id, crc_offset..end));
            *whole = whole.start.min(crc_offset)..whole.end.max(end);
        }
    }
    whole
}

/// A gap in a segment or base that is fetched and thrown away rather than costing a request, bytes.
const GAP: u64 = 64 << 10;

/// Runs that go on side by side: neighbours in the file may lie in turns in so many segments.
const OPEN: usize = 16;

/// A run that may go on, and what of its segment it takes; others may lie in between.
struct Open {
    index: usize,
    segment: u128,
    taken: Range<u64>,
}

/// Of these pieces those that `missing` wants something of; of the base not more than reaches from the
/// first to the last of that. Both are in order.
pub fn only(
    wanted: Vec<(Range<u64>, Source)>,
    missing: &[Range<u64>],
) -> Vec<(Range<u64>, Source)> {
    let mut first = 0;
    let needed = wanted.into_iter().filter_map(|(span, source)| {
        first += missing[first..].partition_point(|part| part.end <= span.start);
        let count = missing[first..].partition_point(|part| part.start < span.end);
        let parts = &missing[first..first + count];
        let (from, to) = (parts.first()?.start, parts.last()?.end);
        Some(match source {
            Source::Base => (span.start.max(from)..span.end.min(to), source),
            Source::Zero | Source::Extent(_) => (span, source),
        })
    });
    needed.collect()
}

/// Puts pieces together that one request can bring. A file written in small pieces has each of them in
/// its own extent, and those of one commit lie in the order of the file in few segments. What shows of
/// the base between them lies there in their distance.
pub fn fetches(wanted: Vec<(Range<u64>, Source)>) -> Vec<Fetch> {
    let mut fetches: Vec<Fetch> = Vec::new();
    let mut open: Vec<Open> = Vec::new();
    let mut base: Option<usize> = None;
    for (span, source) in wanted {
        let extent = match source {
            Source::Extent(extent) => extent,
            Source::Zero => {
                fetches.push(Fetch::Here(span, None));
                continue;
            }
            Source::Base => {
                if let Some(Fetch::Base(run)) = base.and_then(|at| fetches.get_mut(at))
                    && span.start <= run[run.len() - 1].end + GAP
                    && span.end - run[0].start <= CHUNK
                {
                    run.push(span);
                } else {
                    base = Some(fetches.len());
                    fetches.push(Fetch::Base(vec![span]));
                }
                continue;
            }
        };
        let Place::Segment { id, crc_offset, crc_len, .. } = extent.place else {
            fetches.push(Fetch::Here(span, Some(extent)));
            continue;
        };
        let end = crc_offset + u64::from(crc_len);
        let of_segment = open.iter().position(|open| open.segment == id);
        if let Some(Open { index, taken, .. }) = of_segment.map(|at| &mut open[at])
            && (taken.start..=taken.end + GAP).contains(&crc_offset)
            && end.max(taken.end) - taken.start <= CHUNK
            && let Some(Fetch::Run(run)) = fetches.get_mut(*index)
        {
            taken.end = taken.end.max(end);
            run.push((span, extent));
            continue;
        }
        match of_segment {
            Some(at) => drop(open.remove(at)),
            None if open.len() == OPEN => drop(open.remove(0)),
            None => {}
        }
        open.push(Open { index: fetches.len(), segment: id, taken: crc_offset..end });
        fetches.push(Fetch::Run(vec![(span, extent)]));
    }
    fetches
}

/// The bytes of a run, piece by piece.
pub async fn read_run(
    (store, state): (&dyn StoreBackend, &KeyPrefix),
    ino: Ino,
    run: Vec<(Range<u64>, ExtentRec)>,
) -> Result<Vec<(Range<u64>, Option<Bytes>)>, DataError> {
    let Some((id, whole)) = in_segment(&run) else { return Ok(Vec::new()) };
    let key = segment_key(state, id);
    let found = store.get(&key, Some(whole.clone()), None, GET_TIMEOUT).await?.data;
    // Of a piece that was overwritten in the middle both ends are here.
    let mut checked = None;
    let mut pieces = Vec::with_capacity(run.len());
    for (span, extent) in run {
        let Place::Segment { offset, crc, crc_offset, crc_len, .. } = extent.place else {
            continue;
        };
        let damaged = || {
            DataError::Damaged(format!(
                "segment {key}, bytes {crc_offset}..{}: checksum of inode {ino} does not match",
                crc_offset + u64::from(crc_len)
            ))
        };
        let slice = |from: u64, len: u64| {
            let from = usize::try_from(from.checked_sub(whole.start)?).ok()?;
            let to = from.checked_add(usize::try_from(len).ok()?)?;
            (to <= found.len()).then(|| found.slice(from..to))
        };
        if checked != Some(crc_offset) {
            let piece = slice(crc_offset, u64::from(crc_len)).ok_or_else(damaged)?;
            if crc32c::crc32c(&piece) != crc {
                return Err(damaged());
            }
            checked = Some(crc_offset);
        }
        let bytes = slice(offset, span.end - span.start).ok_or_else(damaged)?;
        pieces.push((span, Some(bytes)));
    }
    Ok(pieces)
}

/// A stretch of a file and its bytes; `None` for zeros.
pub type Piece = (Range<u64>, Option<Bytes>);

/// Zeros for an answer. They are written, not only promised by the system: if this process is killed while the kernel
/// copies memory that is not in place yet, the program that reads gets EIO of the kernel.
pub fn zeros(len: usize) -> BytesMut {
    let mut zeros = BytesMut::with_capacity(len);
    zeros.resize(len, 0);
    zeros
}

/// What one request for pieces of the base asks for.
pub fn hull(run: &[Range<u64>]) -> Range<u64> {
    run.first().map_or(0, |first| first.start)..run.last().map_or(0, |last| last.end)
}

/// The pieces in what that request brought.
pub fn cut_up(ino: Ino, run: Vec<Range<u64>>, found: &Bytes) -> Result<Vec<Piece>, DataError> {
    let whole = hull(&run);
    if found.len() as u64 != whole.end - whole.start {
        return Err(DataError::Damaged(format!(
            "the object of inode {ino} is shorter than it was"
        )));
    }
    let cut = |span: Range<u64>| {
        let bytes = (span.start - whole.start) as usize..(span.end - whole.start) as usize;
        (span, Some(found.slice(bytes)))
    };
    Ok(run.into_iter().map(cut).collect())
}

/// The bytes that an extent holds itself; `None` is zeros.
pub fn read_inline(
    ino: Ino,
    span: &Range<u64>,
    extent: Option<&ExtentRec>,
) -> Result<Option<Bytes>, DataError> {
    let len = (span.end - span.start) as usize;
    let Some(extent) = extent else { return Ok(None) };
    match &extent.place {
        Place::Zero => Ok(None),
        Place::Inline(bytes) if bytes.len() >= len => Ok(Some(bytes.slice(..len))),
        Place::Inline(_) | Place::Segment { .. } => {
            Err(DataError::Damaged(format!("an inline extent of {ino}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_that_lie_in_turns_in_a_few_segments_come_with_one_request_of_each() {
        let extent = |segments: u64, number: u64| {
            let at = number / segments * 4096;
            let place = Place::Segment {
                id: u128::from(number % segments),
                offset: at,
                crc: 0,
                crc_offset: at,
                crc_len: 4096,
            };
            let start = number * 4096;
            let extent = ExtentRec { start, generation: 1, place };
            (start..start + 4096, Source::Extent(extent))
        };
        for (segments, requests) in [(1, 1), (3, 3), (OPEN as u64, OPEN), (OPEN as u64 + 1, 340)] {
            let wanted = (0..340).map(|number| extent(segments, number)).collect();
            let fetches = fetches(wanted);
            assert_eq!(fetches.len(), requests, "{segments} segments");
            let pieces = fetches.iter().map(|fetch| match fetch {
                Fetch::Run(run) => run.len(),
                Fetch::Base(_) | Fetch::Here(..) => 0,
            });
            assert_eq!(pieces.sum::<usize>(), 340);
        }
    }

    #[test]
    fn what_shows_of_the_base_between_pieces_comes_with_one_request() {
        let spans = |stride: u64| (0..100).map(move |n| n * stride..n * stride + 4096);
        for (stride, requests) in [(8192, 1), (4096 + GAP, 2), (4097 + GAP, 100)] {
            let wanted = spans(stride).map(|span| (span, Source::Base)).collect();
            let fetches = fetches(wanted);
            assert_eq!(fetches.len(), requests, "{stride}");
            let pieces = fetches.into_iter().flat_map(|fetch| match fetch {
                Fetch::Base(run) => run,
                Fetch::Run(_) | Fetch::Here(..) => Vec::new(),
            });
            assert!(pieces.eq(spans(stride)), "{stride}");
        }
    }

    #[test]
    fn of_the_pieces_only_what_is_missing_is_fetched() {
        let all = [0..10, 10..20, 20..30, 30..40, 40..50];
        let of = |base: bool, missing: &[Range<u64>]| -> Vec<Range<u64>> {
            let source = || if base { Source::Base } else { Source::Zero };
            let wanted = all.iter().map(|span| (span.clone(), source())).collect();
            only(wanted, missing).into_iter().map(|(span, _)| span).collect()
        };
        assert_eq!(of(false, &[12..13, 15..16, 29..31]), [10..20, 20..30, 30..40]);
        assert_eq!(of(true, &[12..13, 15..16, 29..31]), [12..16, 29..30, 30..31]);
        let whole = std::slice::from_ref(&(0..50));
        assert_eq!(of(false, whole), all);
        assert_eq!(of(true, &[]), []);
        assert_eq!(of(true, std::slice::from_ref(&(50..60))), []);
    }
}
