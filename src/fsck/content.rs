//! What a file is said to be made of.

use super::queues::Intents;
use super::rows::Walk;
use super::{Change, Check, FsckError, Kind, Mend};
use crate::meta::keys;
use crate::meta::records::{ContentRec, DeadRec, ExtentRec, InodeRec, Place, RestRec, decode};
use crate::types::{Base, FileKind, Ino};

/// The rows of the map that a file's record names, or of the last one where no record does.
#[derive(Debug, Default)]
pub(super) struct Laid {
    pub map: u64,
    pub pieces: u64,
    pub end: u64,
    pub generation: u64,
    /// Bytes that are not zeros.
    pub data: u64,
}

/// Why an extent cannot be what it says.
fn nonsense(extent: &ExtentRec, end: u64) -> Option<&'static str> {
    let Some(len) = end.checked_sub(extent.start).filter(|len| *len > 0) else {
        return Some("ends before it begins");
    };
    match &extent.place {
        Place::Zero => None,
        Place::Inline(bytes) if (bytes.len() as u64) < len => Some("is longer than its bytes"),
        Place::Inline(_) => None,
        Place::Segment { offset, crc_offset, crc_len, .. } => {
            let uploaded = crc_offset.checked_add(u64::from(*crc_len));
            let shown = offset.checked_add(len);
            match (uploaded, shown) {
                (Some(uploaded), Some(shown)) if offset >= crc_offset && shown <= uploaded => None,
                _ => Some("shows more than was uploaded"),
            }
        }
    }
}

impl Check<'_> {
    pub(super) async fn extents(
        &mut self,
        ino: Ino,
        content: Option<&ContentRec>,
        walk: &mut Walk<'_>,
    ) -> Result<Laid, FsckError> {
        let mut laid = Laid { map: content.map_or(0, |c| c.map), ..Laid::default() };
        let mut living_end = 0;
        // The last map of others, and whether it was given up.
        let mut other: Option<(u64, bool)> = None;
        while let Some((key, value)) = walk.of(ino).await? {
            self.tally.extents += 1;
            self.report.checked.extents += 1;
            self.went_on(1);
            let Some((map, end)) = keys::parse_extent(&key) else {
                let what = self.called(ino).await?;
                let mend = Mend::Ask("the row goes", vec![Change::drop(key.to_vec())]);
                self.report.found(Kind::Record, what, "the key of an extent cannot be read", mend);
                continue;
            };
            let ours = content.is_some_and(|content| content.map == map);
            if !ours && other.is_none_or(|(seen, _)| seen != map) {
                let dead = self.has(&keys::dead(ino, map)).await?;
                other = Some((map, dead));
                if !dead && content.is_some() {
                    self.stray_map(ino, map, content).await?;
                }
            }
            let dead = !ours && other.is_some_and(|(_, dead)| dead);
            let Ok(extent) = decode::<ExtentRec>(&value) else {
                if ours {
                    laid.pieces += 1;
                }
                let what = self.called(ino).await?;
                let cure =
                    Mend::No("these bytes cannot be read; write them again, or restore the file");
                let detail = format!("the extent that ends at {end} cannot be read");
                self.report.found(Kind::Record, what, detail, cure);
                continue;
            };
            if let Some(why) = nonsense(&extent, end) {
                let what = self.called(ino).await?;
                let cure =
                    Mend::No("these bytes cannot be read; write them again, or restore the file");
                self.report.found(
                    Kind::Extent,
                    what,
                    format!("the extent that ends at {end} {why}"),
                    cure,
                );
            }
            if dead || (content.is_some() && !ours) {
                continue;
            }
            if !ours && laid.map != map {
                laid = Laid { map, ..Laid::default() };
            }
            laid.pieces += 1;
            laid.end = laid.end.max(end);
            laid.generation = laid.generation.max(extent.generation);
            if extent.place != Place::Zero {
                laid.data = laid.data.saturating_add(end.saturating_sub(extent.start));
            }
            if content.is_some_and(|content| extent.generation > content.drop_gen) {
                if extent.start < living_end {
                    let what = self.called(ino).await?;
                    let detail = format!("the extents at {} overlap", extent.start);
                    let cure = Mend::No("compare the file with a copy, and write it again");
                    self.report.found(Kind::Extent, what, detail, cure);
                }
                living_end = end;
            }
        }
        Ok(laid)
    }

    /// A map that is not the file's and was not given up.
    async fn stray_map(
        &mut self,
        ino: Ino,
        map: u64,
        content: Option<&ContentRec>,
    ) -> Result<(), FsckError> {
        let what = self.called(ino).await?;
        let rows = vec![Change::put(keys::dead(ino, map), &DeadRec::whole())];
        // The file has gone on to a later map; an earlier one shows nothing.
        let older = content.is_some_and(|content| map < content.map);
        let mend = match older {
            true => Mend::Rows(rows),
            false => Mend::Ask("these extents go", rows),
        };
        self.report.found(
            Kind::Extent,
            what,
            format!("extents of map {map} belong to nothing"),
            mend,
        );
        Ok(())
    }

    pub(super) async fn content(
        &mut self,
        ino: Ino,
        inode: &InodeRec,
        (content, there): (Option<ContentRec>, bool),
        laid: Laid,
        intents: &Intents,
    ) -> Result<(), FsckError> {
        if inode.kind != FileKind::File {
            if there {
                let what = self.called(ino).await?;
                let mend = Mend::Ask("the content goes", vec![Change::drop(keys::content(ino))]);
                self.report.found(Kind::Content, what, "has content and is no file", mend);
            }
            return Ok(());
        }
        let Some(content) = content else {
            return self.lost_content(ino, there, laid).await;
        };
        if content.pieces != laid.pieces {
            let what = self.called(ino).await?;
            let detail = format!("{} extents are recorded, {} exist", content.pieces, laid.pieces);
            let right = ContentRec { pieces: laid.pieces, ..content.clone() };
            let mend = Mend::Rows(vec![Change::put(keys::content(ino), &right)]);
            self.report.found(Kind::Content, what, detail, mend);
        }
        if let Some(publishing) = content.publishing
            && !intents.has(publishing.put_id)
        {
            let what = self.called(ino).await?;
            let right = ContentRec { publishing: None, ..content.clone() };
            let mend = Mend::Rows(vec![Change::put(keys::content(ino), &right)]);
            let detail = "a publish is recorded as under way, and nothing announces it";
            self.report.found(Kind::Content, what, detail, mend);
        }
        // Of a file that was removed while it was open nobody else reads anything.
        let removed = inode.nlink == 0;
        if let Some(base) = content.base.as_ref().filter(|base| !base.parked && !removed) {
            self.base(ino, &content, base).await?;
        }
        Ok(())
    }

    /// The record of a file's content is gone: its extents and its object tell what it was.
    async fn lost_content(&mut self, ino: Ino, there: bool, laid: Laid) -> Result<(), FsckError> {
        let what = self.called(ino).await?;
        let mut made = ContentRec {
            size: laid.end,
            generation: laid.generation.max(1),
            data: laid.data,
            map: laid.map,
            pieces: laid.pieces,
            ..ContentRec::default()
        };
        let rows = self.first(keys::of_inode(keys::RESTS, ino), 1).await?;
        if let Some(key) = rows.first().and_then(|(key, _)| keys::parse_rests(key))
            && let Some(Some(rest)) = self.get::<RestRec>(&keys::rest(&key)).await?
        {
            made.size = made.size.max(rest.version.size);
            made.base_limit = rest.version.size;
            made.generation = made.generation.max(rest.generation);
            made.drop_gen = if laid.pieces == 0 { made.generation } else { 0 };
            let (version, put_id) = (rest.version, rest.put_id);
            made.base = Some(Base { key, parked: false, version, put_id });
        }
        let detail = match there {
            true => "what it is made of cannot be read",
            false => "what it is made of is not recorded",
        };
        let asks = "it becomes what its extents and its object show; its size may differ";
        let mend = Mend::Ask(asks, vec![Change::put(keys::content(ino), &made)]);
        self.report.found(Kind::Content, what, detail, mend);
        Ok(())
    }

    /// The object below a file must be the one that is recorded at its key.
    async fn base(&mut self, ino: Ino, content: &ContentRec, base: &Base) -> Result<(), FsckError> {
        let row = keys::rest(&base.key);
        let rest: Option<Option<RestRec>> = self.get(&row).await?;
        match &rest {
            Some(None) => return Ok(()),
            Some(Some(rest)) if rest.ino == ino && rest.version.same_bytes(&base.version) => {
                return Ok(());
            }
            _ => {}
        }
        let what = self.called(ino).await?;
        let now = self.parts.store.head(&base.key, super::REQUEST).await?;
        match now.filter(|now| now.version.same(&base.version)) {
            Some(_) if rest.is_none() => {
                let right = RestRec {
                    ino,
                    put_id: base.put_id,
                    version: base.version.clone(),
                    generation: content.drop_gen,
                    // None that the inode ever had: what the object says is published again.
                    attr_gen: 0,
                };
                let rows = vec![
                    Change::put(row, &right),
                    Change::mark(keys::rests(ino, &base.key)),
                    Change::put(keys::work(ino), &crate::meta::records::WorkRec::Inode),
                ];
                let detail = format!("its object {} is not recorded", base.key);
                self.report.found(Kind::Rest, what, detail, Mend::Rows(rows));
            }
            Some(_) => {
                let detail = format!("its object {} is recorded as another file's", base.key);
                let cure = Mend::No("copy the file, and use the copy");
                self.report.found(Kind::Rest, what, detail, cure);
            }
            // Where nothing of it shows, nothing is lost.
            None if content.base_limit == 0 => {}
            None => {
                let detail = format!(
                    "{} of its bytes were in the object {}, which is gone or another",
                    content.base_limit.min(content.size),
                    base.key
                );
                let cure = Mend::No("restore that version of the object, or the file from a copy");
                self.report.found(Kind::Object, what, detail, cure);
            }
        }
        Ok(())
    }
}
