//! `--data`: the bytes of plain objects and parked copies, and what their ETags say of them.
//!
//! An ETag of 32 hexadecimal digits is the MD5 of the bytes in S3 and in most stores like it, and one that ends in
//! `-N` the MD5 of the MD5s of N parts. No answer says whether this store does so. So it is believed of each of the
//! two shapes once it was seen to hold for one object of the same bucket, and until then nothing is concluded from
//! what differs. Encryption with keys of KMS gives ETags that say nothing.

use std::sync::Arc;

use futures::stream::{self, StreamExt};
use md5::{Digest, Md5};

use super::rows::Walk;
use super::shown::published_again;
use super::{AT_ONCE, Check, FsckError, Kind, Mend, REQUEST};
use crate::data::is_md5;
use crate::meta::keys;
use crate::meta::records::{InodeRec, RestRec, decode};
use crate::settle::part_size;
use crate::store::{ObjectInfo, StoreBackend, StoreError, StoreErrorKind};
use crate::types::{Base, FileKind, Ino, ObjectKey, hex};

/// An object is read in parts of this size, bytes.
const PART: u64 = 4 << 20;
/// Objects whose bytes do not fit their ETags that are kept until it is known what ETags mean here.
const KEPT: usize = 1000;
/// Records that are looked at together.
const TOGETHER: usize = 500;
/// No target of a symbolic link is longer, bytes.
const LONGEST_TARGET: u64 = 4096;

/// What an ETag is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Whole,
    /// Of parts, so many.
    Parts(u64),
}

impl Shape {
    fn of(etag: &str) -> Option<Shape> {
        match etag.split_once('-') {
            None => is_md5(etag).then_some(Shape::Whole),
            Some((digest, parts)) => {
                let parts = parts.parse().ok().filter(|parts| *parts > 0)?;
                is_md5(digest).then_some(Shape::Parts(parts))
            }
        }
    }
}

/// What was seen of one shape of ETags.
#[derive(Debug, Default)]
struct Seen {
    fits: bool,
    /// What is wrong where it does not fit.
    others: Vec<(String, String)>,
    more: u64,
}

/// What was seen of the ETags of one volume.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    whole: Seen,
    parts: Seen,
    /// Objects whose ETags have no such shape.
    silent: u64,
}

/// Hashes bytes as a store does that makes ETags of MD5s.
struct Hash {
    whole: Md5,
    /// The part under way, the bytes that it still takes, and the digests of those before.
    part: Option<(Md5, u64, Md5, u64)>,
    part_size: u64,
}

impl Hash {
    fn new(shape: Shape, size: u64) -> Hash {
        let part_size = part_size(size);
        let part = matches!(shape, Shape::Parts(_)).then(|| (Md5::new(), part_size, Md5::new(), 0));
        Hash { whole: Md5::new(), part, part_size }
    }

    fn update(&mut self, mut bytes: &[u8]) {
        let Some((part, left, digests, count)) = &mut self.part else {
            self.whole.update(bytes);
            return;
        };
        while !bytes.is_empty() {
            let some = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
            part.update(&bytes[..some]);
            bytes = &bytes[some..];
            *left -= some as u64;
            if *left == 0 {
                digests.update(part.finalize_reset());
                (*left, *count) = (self.part_size, *count + 1);
            }
        }
    }

    fn etag(self) -> String {
        let Some((part, left, mut digests, mut count)) = self.part else {
            return hex(&self.whole.finalize());
        };
        if left < self.part_size {
            digests.update(part.finalize());
            count += 1;
        }
        format!("{}-{count}", hex(&digests.finalize()))
    }
}

fn is_hidden(info: &ObjectInfo) -> bool {
    let encryption = info.properties.encryption.as_ref();
    encryption.is_some_and(|encryption| encryption.algorithm.starts_with("aws:kms"))
}

/// What came of reading an object.
struct Read {
    bytes: u64,
    /// The ETag that its bytes would have, where the one that it has is of a shape that tells.
    etag: Result<Option<(Shape, String)>, Failed>,
}

/// Reads an object to its end.
async fn read(store: &Arc<dyn StoreBackend>, base: &Base) -> Result<Read, FsckError> {
    let size = base.version.size;
    let parts = (0..size.div_ceil(PART)).map(|n| n * PART..size.min((n + 1).saturating_mul(PART)));
    let mut reads = stream::iter(parts)
        .map(|part| async move {
            let length = part.end - part.start;
            let read = store.get(&base.key, Some(part), Some(&base.version), REQUEST).await;
            (length, read)
        })
        .buffered(AT_ONCE);
    let shape = Shape::of(&base.version.etag);
    let mut hash = shape.map(|shape| Hash::new(shape, size));
    let mut bytes = 0;
    while let Some((length, read)) = reads.next().await {
        let failed = match read {
            Ok(found) if !found.info.version.same_bytes(&base.version) => Failed::Another,
            Ok(found) if found.data.len() as u64 == length => {
                bytes += length;
                if is_hidden(&found.info) {
                    hash = None;
                }
                if let Some(hash) = &mut hash {
                    hash.update(&found.data);
                }
                continue;
            }
            Ok(found) => Failed::Unreadable(format!("{} bytes came of {length}", found.data.len())),
            Err(error)
                if matches!(error.kind, StoreErrorKind::NotFound | StoreErrorKind::Changed) =>
            {
                Failed::Another
            }
            Err(error) if error.is_transient() => return Err(error.into()),
            Err(error) => Failed::Unreadable(error.to_string()),
        };
        return Ok(Read { bytes, etag: Err(failed) });
    }
    Ok(Read { bytes, etag: Ok(shape.zip(hash.map(Hash::etag))) })
}

impl Check<'_> {
    /// An object of ours whose bytes are known to be right: it is read by every mount.
    pub(super) async fn witness(&mut self, evidence: &mut Evidence) -> Result<(), FsckError> {
        if !self.parts.one_bucket {
            return Ok(());
        }
        let key = self.parts.state.key("format.json");
        let found = match self.parts.state_store.get(&key, None, None, REQUEST).await {
            Ok(found) => found,
            Err(error) if error.kind == StoreErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let etag = hex(&Md5::digest(&found.data));
        evidence.whole.fits = !is_hidden(&found.info) && found.info.version.etag == etag;
        Ok(())
    }

    /// The objects below files, to their ends: small ones side by side, large ones in parts.
    pub(super) async fn read_all(
        &mut self,
        below: Vec<(Ino, Base)>,
        evidence: &mut Evidence,
    ) -> Result<(), FsckError> {
        let parts = self.parts;
        let (small, large): (Vec<_>, Vec<_>) =
            below.into_iter().partition(|(_, base)| base.version.size <= PART);
        let one = |(ino, base): (Ino, Base)| async move {
            let read = read(parts.store_of(&base), &base).await;
            (ino, base, read)
        };
        let small = stream::iter(small).map(one).buffered(AT_ONCE);
        let mut reads = Box::pin(small.chain(stream::iter(large).then(one)));
        while let Some((ino, base, read)) = reads.next().await {
            self.has_read(ino, &base, read?, evidence).await?;
        }
        Ok(())
    }

    async fn has_read(
        &mut self,
        ino: Ino,
        base: &Base,
        read: Read,
        evidence: &mut Evidence,
    ) -> Result<(), FsckError> {
        let (size, Read { bytes, etag }) = (base.version.size, read);
        self.report.checked.bytes_read += bytes;
        self.went_on(bytes);
        let (shape, is) = match etag {
            Err(failed) => return self.not_read(ino, base, failed).await,
            Ok(Some(seen)) => seen,
            Ok(None) => {
                evidence.silent += 1;
                return Ok(());
            }
        };
        let seen = match shape {
            Shape::Whole => &mut evidence.whole,
            Shape::Parts(parts) => {
                // Parts of another size than ours.
                if size.div_ceil(part_size(size)) != parts {
                    evidence.silent += 1;
                    return Ok(());
                }
                &mut evidence.parts
            }
        };
        if is == base.version.etag {
            seen.fits = true;
        } else if seen.others.len() < KEPT {
            let detail = format!(
                "the bytes of the object {} are not those of its ETag {}; they have {is}",
                base.key, base.version.etag
            );
            seen.others.push((self.called(ino).await?, detail));
        } else {
            seen.more += 1;
        }
        Ok(())
    }

    async fn not_read(&mut self, ino: Ino, base: &Base, failed: Failed) -> Result<(), FsckError> {
        let cure = Mend::No("restore the object, or the file from a copy");
        let why = match failed {
            Failed::Unreadable(why) => why,
            // Where a HEAD tells the same, it was found with the objects, or changed since.
            Failed::Another => match self.parts.store_of(base).head(&base.key, REQUEST).await? {
                Some(info) if info.version.same(&base.version) => {
                    "a GET shows another object than a HEAD".to_owned()
                }
                _ => return Ok(()),
            },
        };
        let what = self.called(ino).await?;
        let detail = format!("the object {} cannot be read: {why}", base.key);
        self.report.found(Kind::Object, what, detail, cure);
        Ok(())
    }

    /// The objects that are recorded at keys.
    pub(super) async fn at_rest(&mut self, evidence: &mut Evidence) -> Result<(), FsckError> {
        let view = Arc::clone(&self.view);
        let mut rests = Walk::table(&view, keys::REST);
        loop {
            let rows = rests.some(TOGETHER).await?;
            if rows.is_empty() {
                return Ok(());
            }
            let (mut links, mut files) = (Vec::new(), Vec::new());
            for (row, value) in rows {
                let (Some(key), Ok(rest)) = (keys::parse_object(&row), decode::<RestRec>(&value))
                else {
                    continue;
                };
                let Some(inode) = self.inode(rest.ino).await? else { continue };
                match inode.kind {
                    FileKind::File => {
                        let RestRec { ino, version, put_id, .. } = rest;
                        let base = Base { key, parked: false, version, put_id };
                        files.push((ino, base));
                    }
                    FileKind::Symlink if is_shown(&rest, &inode) => links.push((key, rest, inode)),
                    _ => {}
                }
            }
            self.read_all(files, evidence).await?;
            self.targets(links).await?;
        }
    }

    /// The objects of symbolic links hold their targets.
    async fn targets(
        &mut self,
        links: Vec<(ObjectKey, RestRec, InodeRec)>,
    ) -> Result<(), FsckError> {
        let store = Arc::clone(&self.parts.store);
        let read: Vec<_> = stream::iter(links)
            .map(|(key, rest, inode)| {
                let store = &store;
                async move {
                    let read = store.get(&key, None, Some(&rest.version), REQUEST).await;
                    (key, rest.ino, inode, read)
                }
            })
            .buffered(AT_ONCE)
            .collect()
            .await;
        for (key, ino, inode, read) in read {
            self.target(&key, ino, &inode, read)?;
        }
        Ok(())
    }

    fn target(
        &mut self,
        key: &ObjectKey,
        ino: Ino,
        inode: &InodeRec,
        read: Result<crate::store::GetResult, StoreError>,
    ) -> Result<(), FsckError> {
        let why = match read {
            Ok(found) => {
                self.report.checked.bytes_read += found.data.len() as u64;
                if inode.target.as_ref() == Some(&found.data) {
                    return Ok(());
                }
                "holds another target than the symbolic link has".to_owned()
            }
            // Found with the objects, or changed since.
            Err(error)
                if matches!(error.kind, StoreErrorKind::NotFound | StoreErrorKind::Changed) =>
            {
                return Ok(());
            }
            Err(error) if error.is_transient() => return Err(error.into()),
            Err(error) => format!("cannot be read: {error}"),
        };
        let mend = published_again(ino, inode);
        self.report.found(Kind::Object, key.to_string(), why, mend);
        Ok(())
    }

    /// Concludes from all that was seen.
    pub(super) fn judge(&mut self, evidence: Evidence) {
        let mut silent = evidence.silent;
        for seen in [evidence.whole, evidence.parts] {
            if !seen.fits {
                silent += seen.others.len() as u64 + seen.more;
                continue;
            }
            for (what, detail) in seen.others {
                let cure = Mend::No("restore the object, or the file from a copy");
                self.report.found(Kind::Object, what, detail, cure);
            }
            self.report.unnamed(Kind::Object, seen.more);
        }
        if silent > 0 {
            self.report.cannot_judge(format!(
                "the bytes of {silent} objects: they were read, and nothing says what they should be"
            ));
        }
    }
}

/// Whether an object says what a symbolic link is now.
fn is_shown(rest: &RestRec, inode: &InodeRec) -> bool {
    rest.put_id.is_some() && rest.attr_gen == inode.attr_gen && rest.version.size <= LONGEST_TARGET
}

/// Why an object was not read to its end.
enum Failed {
    Unreadable(String),
    /// It is gone or another, says the answer.
    Another,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etags_are_of_the_whole_or_of_parts_or_say_nothing() {
        let md5 = "d41d8cd98f00b204e9800998ecf8427e";
        assert_eq!(Shape::of(md5), Some(Shape::Whole));
        assert_eq!(Shape::of(&format!("{md5}-3")), Some(Shape::Parts(3)));
        let upper = md5.to_uppercase();
        for other in
            ["", "0x8DC0", "x", &md5[1..], &format!("{md5}-0"), &format!("{md5}-x"), &upper]
        {
            assert_eq!(Shape::of(other), None, "{other}");
        }
    }

    #[test]
    fn parts_are_hashed_as_they_were_uploaded_whatever_the_pieces() {
        let size = 40 << 20;
        let part = usize::try_from(part_size(size)).unwrap();
        let bytes: Vec<u8> = (0..size).map(|n| ((n * n) >> 7) as u8).collect();
        let digests: Vec<u8> = bytes.chunks(part).flat_map(Md5::digest).collect();
        let expected = format!("{}-3", hex(&Md5::digest(&digests)));
        for piece in [1 << 20, 3_333_333, 16 << 20, 40 << 20] {
            let mut hash = Hash::new(Shape::Parts(3), size);
            bytes.chunks(piece).for_each(|piece| hash.update(piece));
            assert_eq!(hash.etag(), expected, "{piece}");
        }
        // The last part is full.
        let mut hash = Hash::new(Shape::Parts(2), 32 << 20);
        hash.update(&bytes[..32 << 20]);
        assert!(hash.etag().ends_with("-2"));
        let mut hash = Hash::new(Shape::Whole, 3);
        hash.update(b"a");
        hash.update(b"bc");
        assert_eq!(hash.etag(), "900150983cd24fb0d6963f7d28e17f72");
    }
}
