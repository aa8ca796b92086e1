//! Changes that take away more rows of a map than one batch may: a cut of a file of a million pieces, a hole over
//! most of them. What goes, goes a piece at a time before the step that says so, each in a batch of its own. The
//! uncommitted change hides it all the while; whoever loses the host in between finds a part of the change.

use std::ops::Range;
use std::sync::Arc;

use super::super::extents::{Editor, SegmentDelta, extent_of};
use super::super::{DataError, Inode, Volume};
use super::Part;
use crate::meta::records::{ContentRec, Place, WorkRec};
use crate::meta::{Change, Logged, Txn, keys};

/// Rows that go in one batch: everybody who changes something waits for it.
pub(super) const ROWS: u64 = 1000;
/// Up to so many the batch of the step itself takes.
pub(super) const FEW: u64 = 4 * ROWS;
/// Rows that are looked at together, at first, because most ranges hold few, and at most.
const FIRST_PAGE: usize = 4;
const PAGE: usize = 512;

/// What becomes of a range of committed content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goes {
    /// The file ends where it begins.
    Cut,
    /// It is a hole.
    Zero,
}

impl Volume {
    /// Takes away what the step of a part takes away, until a batch can take the rest.
    pub(super) async fn thin_out(&self, part: &Part, number: usize) -> Result<(), DataError> {
        let Some(step) = part.steps.get(number).filter(|_| part.content_changed) else {
            return Ok(());
        };
        let inode = &part.inode;
        let content = inode.live().content.clone();
        if content.pieces <= FEW {
            return Ok(());
        }
        let limit = step.limit.min(part.cut);
        if (1..content.size).contains(&limit) {
            // From the end: what is durable is a file that was cut less far.
            let mut end = u64::MAX;
            for at in self.row_ends(inode, &content, limit..u64::MAX).await?.into_iter().rev() {
                self.take_away(inode, content.map, at..end, Goes::Cut).await?;
                end = at;
            }
        }
        for (range, change) in &step.ranges {
            let range = range.start..range.end.min(limit).min(content.size);
            if *change != Change::Zero || range.is_empty() {
                continue;
            }
            let mut from = range.start;
            for at in self.row_ends(inode, &content, range).await? {
                self.take_away(inode, content.map, from..at, Goes::Zero).await?;
                from = at;
            }
        }
        Ok(())
    }

    /// Where every so many rows within a range end.
    async fn row_ends(
        &self,
        inode: &Inode,
        content: &ContentRec,
        range: Range<u64>,
    ) -> Result<Vec<u64>, DataError> {
        let (mut ends, mut rows, mut from) = (Vec::new(), 0, range.start);
        let mut most = FIRST_PAGE;
        loop {
            let after = keys::extents_after(inode.ino, content.map, from);
            let page = self.meta.scan(after, most).await?;
            for (key, value) in &page {
                let (span, _) = extent_of(inode.ino, key, value)?;
                if span.start >= range.end {
                    return Ok(ends);
                }
                from = span.end;
                rows += 1;
                if rows % ROWS == 0 && span.end < range.end {
                    ends.push(span.end);
                }
            }
            if page.len() < most {
                return Ok(ends);
            }
            most = (most * 4).min(PAGE);
        }
    }

    async fn take_away(
        &self,
        inode: &Arc<Inode>,
        map: u64,
        range: Range<u64>,
        goes: Goes,
    ) -> Result<(), DataError> {
        let ino = inode.ino;
        let mut txn = self.meta.begin_bulk().await?;
        let content: Option<ContentRec> = txn.get(&keys::content(ino)).await?;
        // Given up as a whole meanwhile.
        let Some(mut content) = content.filter(|content| content.map == map) else {
            return Ok(());
        };
        let before = content.size;
        content.generation += 1;
        let mut delta = SegmentDelta::default();
        let mut editor = Editor::new(&mut txn, ino, &content).up_to(range.end);
        match goes {
            Goes::Cut => {
                editor.clear(range.clone(), &mut delta).await?;
                content.end_at(range.start);
            }
            Goes::Zero => {
                editor.overlay(range, Place::Zero, content.generation, &mut delta).await?;
            }
        }
        count_changed(&mut txn, &mut content, before, &mut delta);
        txn.put(keys::content(ino), &content);
        txn.put(keys::work(ino), &WorkRec::Inode);
        delta.apply(&mut txn).await?;
        txn.commit(Logged::Op { unique: 0 }, || inode.live().content = content).await?;
        Ok(())
    }
}

impl ContentRec {
    fn end_at(&mut self, size: u64) {
        self.size = self.size.min(size);
        self.hide_base_from(size);
    }

    /// What lies below the extents shows only below this offset.
    pub(super) fn hide_base_from(&mut self, limit: u64) {
        self.base_limit = self.base_limit.min(limit);
        if let Some(publishing) = &mut self.publishing {
            publishing.limit = publishing.limit.min(limit);
        }
    }
}

/// Brings the counters of a file that had `before` bytes, and the volume's, to what a change did.
pub(super) fn count_changed(
    txn: &mut Txn<'_>,
    content: &mut ContentRec,
    before: u64,
    delta: &mut SegmentDelta,
) {
    let (laid, rows) = (delta.take_laid(), delta.take_rows());
    content.data = content.data.saturating_add_signed(laid);
    content.pieces = content.pieces.saturating_add_signed(rows);
    let superblock = &mut txn.superblock;
    superblock.extents = superblock.extents.saturating_add_signed(rows);
    superblock.bytes = superblock.bytes + content.size - before.min(superblock.bytes);
}
