//! The bytes of a file, put together from where they lie: extents over the object below over zeros.

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::rows::{key, record};
use super::tree::Found;
use super::{Places, REQUEST, Trouble};
use crate::meta::records::{ContentRec, ExtentRec, IntentOp, IntentRec, Place, RestRec};
use crate::store::{ObjectInfo, StoreErrorKind};
use crate::types::{Base, ObjectKey, PutId, Version, hex};

const EXTENT: u8 = 0x15;
const REST: u8 = 0x20;
const INTENT: u8 = 0x23;

/// An object is read in parts of this size, bytes.
const PART: u64 = 8 << 20;
/// So much of a segment is read at once where more of it may be wanted, bytes.
const WINDOW: u64 = 1 << 20;
/// No piece that was ever uploaded is longer, bytes.
const LONGEST: u64 = 64 << 20;
/// No file that a program can use is larger, bytes.
const LARGEST: u64 = 1 << 60;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

const REPLACED: &str = "of an object that somebody else put in its place";
const NOT_SEEN: &str = "of an object that the volume has not seen yet";

/// The SHA-256 of a file, and from where, if that is not the usual place; `None` for one that is only a name
/// without its object.
pub(super) async fn hash(
    places: &Places,
    found: Found,
) -> Result<Option<(String, Option<&'static str>)>, Trouble> {
    let mut hash = Sha256::new();
    let note = match found {
        Found::Object { key, version, known } => {
            object(places, &key, &version, 0..version.size, &mut hash).await?;
            (!known).then_some(NOT_SEEN)
        }
        Found::File { ino, content, own } => match below(places, ino, &content, &own).await? {
            Below::Replaced(key, version) => {
                object(places, &key, &version, 0..version.size, &mut hash).await?;
                Some(REPLACED)
            }
            Below::Removed => return Ok(None),
            below => {
                file(places, ino, &content, below, &mut hash).await?;
                None
            }
        },
    };
    Ok(Some((hex(&hash.finalize()), note)))
}

/// The object below a file's extents.
enum Below {
    Nothing,
    /// It shows up to so many bytes.
    Object {
        base: Base,
        version: Version,
        shows: u64,
    },
    /// Nothing else is recorded of the file, and another object lies there now: that is the file.
    Replaced(ObjectKey, Version),
    /// The same, and nothing lies there: the name goes on its next use.
    Removed,
    Gone(String),
}

fn same_bytes(one: &Version, other: &Version) -> bool {
    one.etag == other.etag && one.size == other.size
}

async fn below(
    places: &Places,
    ino: u64,
    content: &ContentRec,
    own: &ObjectKey,
) -> Result<Below, Trouble> {
    let Some(base) = &content.base else { return Ok(Below::Nothing) };
    let shows = content.base_limit.min(base.version.size).min(content.size);
    let store = if base.parked { &places.state_store } else { &places.store };
    let at_rest = content.drop_gen >= content.generation
        && base.version.size == content.size
        && content.base_limit >= content.size;
    if at_rest
        && base.key != *own
        && let Some(below) = copy(places, ino, own).await?
    {
        return Ok(below);
    }
    let below = |version| Below::Object { base: base.clone(), version, shows };
    let Some(now) = store.head(&base.key, REQUEST).await? else {
        return Ok(match (shows, at_rest && !base.parked && base.key == *own) {
            (_, true) => Below::Removed,
            (0, _) => Below::Nothing,
            _ => Below::Gone(format!("its object {} is gone", base.key)),
        });
    };
    // The same bytes by the store's own word, whoever put them there.
    let same = base.parked || same_bytes(&now.version, &base.version);
    if same || replaces(places, ino, base, &now).await? {
        return Ok(below(now.version));
    }
    Ok(match (at_rest && base.key == *own, shows) {
        (true, _) => Below::Replaced(base.key.clone(), now.version),
        (false, 0) => Below::Nothing,
        (false, _) => Below::Gone(format!("somebody else replaced its object {}", base.key)),
    })
}

/// A file of several names has a copy under each. Others may have replaced or removed that of this name,
/// which is then no name of the file any more.
async fn copy(places: &Places, ino: u64, own: &ObjectKey) -> Result<Option<Below>, Trouble> {
    let Some(rows) = &places.rows else { return Ok(None) };
    let row = key(REST, &[], own.as_str().as_bytes());
    let rest: Option<RestRec> = rows.get_record(&row, "an object").await?;
    let Some(rest) = rest.filter(|rest| rest.ino.0 == ino) else { return Ok(None) };
    let now = places.store.head(own, REQUEST).await?;
    Ok(match now {
        Some(now) if same_bytes(&now.version, &rest.version) => None,
        // One of ours, whose outcome is not recorded yet.
        Some(now) if bears_our_mark(places, &now) => None,
        Some(now) => Some(Below::Replaced(own.clone(), now.version)),
        None => Some(Below::Removed),
    })
}

fn bears_our_mark(places: &Places, now: &ObjectInfo) -> bool {
    now.attributes.get("s3volid") == Some(&places.id.to_string())
}

/// Whether the object is one that the volume put there over the recorded one, without having recorded that
/// yet: where no extent covers it both have the same bytes.
async fn replaces(
    places: &Places,
    ino: u64,
    base: &Base,
    now: &ObjectInfo,
) -> Result<bool, Trouble> {
    let ours = bears_our_mark(places, now);
    let put_id =
        now.attributes.get("s3volput").and_then(|text| u128::from_str_radix(text, 16).ok());
    let (true, Some(put_id), Some(rows)) = (ours, put_id, &places.rows) else { return Ok(false) };
    if base.put_id == Some(PutId(put_id)) {
        return Ok(true);
    }
    let row = [&[INTENT][..], &put_id.to_be_bytes()].concat();
    let intent: Option<IntentRec> = rows.get_record(&row, "an open request").await?;
    Ok(intent.is_some_and(|intent| {
        intent.op == IntentOp::Put
            && intent.ino.0 == ino
            && intent.key == base.key
            && intent.replaces.as_ref() == Some(base)
    }))
}

async fn file(
    places: &Places,
    ino: u64,
    content: &ContentRec,
    below: Below,
    hash: &mut Sha256,
) -> Result<(), Trouble> {
    let Some(rows) = &places.rows else { return Ok(()) };
    if content.size > LARGEST {
        return Err(Trouble::This(format!(
            "{} bytes are recorded, which no file has",
            content.size
        )));
    }
    let mut segment = Window::default();
    let mut at = 0;
    let prefix = key(EXTENT, &[ino, content.map], b"");
    let mut extents = rows.below(prefix.clone()).await?;
    while let Some(row) = extents.next().await? {
        let Some(end) = row.key.get(prefix.len()..).and_then(|end| end.try_into().ok()) else {
            return Err(Trouble::This("the key of an extent cannot be read".to_owned()));
        };
        let end = u64::from_be_bytes(end);
        let extent: ExtentRec = record(&row.value, "an extent")?;
        if extent.generation <= content.drop_gen || extent.start >= content.size {
            continue;
        }
        if extent.start < at || extent.start >= end {
            return Err(Trouble::This(format!("its extents at {} make no sense", extent.start)));
        }
        gap(places, &below, at..extent.start, hash).await?;
        let shown = end.min(content.size);
        piece(places, &extent, end - extent.start, shown - extent.start, &mut segment, hash)
            .await?;
        at = shown;
    }
    gap(places, &below, at..content.size, hash).await
}

/// What no extent covers.
async fn gap(
    places: &Places,
    below: &Below,
    range: std::ops::Range<u64>,
    hash: &mut Sha256,
) -> Result<(), Trouble> {
    let covered = match below {
        Below::Object { base, version, shows } => {
            let end = range.end.min(*shows).max(range.start);
            if base.parked {
                let store = &places.state_store;
                parts(&**store, &base.key, version, range.start..end, hash).await?;
            } else {
                object(places, &base.key, version, range.start..end, hash).await?;
            }
            end
        }
        Below::Gone(why) if !range.is_empty() => return Err(Trouble::This(why.clone())),
        Below::Gone(_) | Below::Nothing | Below::Removed | Below::Replaced(..) => range.start,
    };
    zeros(range.end - covered, hash);
    Ok(())
}

fn zeros(mut len: u64, hash: &mut Sha256) {
    while len > 0 {
        let some = len.min(ZEROS.len() as u64);
        hash.update(&ZEROS[..some as usize]);
        len -= some;
    }
}

async fn object(
    places: &Places,
    key: &ObjectKey,
    version: &Version,
    range: std::ops::Range<u64>,
    hash: &mut Sha256,
) -> Result<(), Trouble> {
    parts(&*places.store, key, version, range, hash).await
}

async fn parts(
    store: &dyn crate::store::StoreBackend,
    key: &ObjectKey,
    version: &Version,
    range: std::ops::Range<u64>,
    hash: &mut Sha256,
) -> Result<(), Trouble> {
    let mut at = range.start;
    while at < range.end {
        let to = range.end.min(at.saturating_add(PART));
        let part = store.get(key, Some(at..to), Some(version), REQUEST).await?.data;
        if part.len() as u64 != to - at {
            return Err(Trouble::This(format!("the object {key} is shorter than recorded")));
        }
        hash.update(&part);
        at = to;
    }
    Ok(())
}

/// A part of a segment that was read.
#[derive(Default)]
struct Window {
    id: u128,
    start: u64,
    bytes: Bytes,
}

impl Window {
    fn slice(&self, id: u128, from: u64, len: u64) -> Option<Bytes> {
        let from = usize::try_from(from.checked_sub(self.start)?).ok()?;
        let to = from.checked_add(usize::try_from(len).ok()?)?;
        (self.id == id && to <= self.bytes.len()).then(|| self.bytes.slice(from..to))
    }

    async fn read(
        &mut self,
        places: &Places,
        id: u128,
        from: u64,
        len: u64,
    ) -> Result<Bytes, Trouble> {
        if let Some(bytes) = self.slice(id, from, len) {
            return Ok(bytes);
        }
        let key = places.state.key(&format!("segments/{id:032x}"));
        let range = from..from.saturating_add(len.max(WINDOW));
        let read = places.state_store.get(&key, Some(range), None, REQUEST).await;
        let bytes = match read {
            Ok(read) => read.data,
            Err(error) if error.kind == StoreErrorKind::NotFound => {
                return Err(Trouble::This(format!("its segment {key} is gone")));
            }
            Err(error) => return Err(error.into()),
        };
        *self = Window { id, start: from, bytes };
        self.slice(id, from, len)
            .ok_or_else(|| Trouble::This(format!("its segment {key} is too short")))
    }
}

/// An extent of `len` bytes, of which `shown` lie in the file.
async fn piece(
    places: &Places,
    extent: &ExtentRec,
    len: u64,
    shown: u64,
    segment: &mut Window,
    hash: &mut Sha256,
) -> Result<(), Trouble> {
    match &extent.place {
        Place::Zero => zeros(shown, hash),
        Place::Inline(bytes) => {
            let shown = usize::try_from(shown).ok().and_then(|shown| bytes.get(..shown));
            hash.update(shown.ok_or_else(|| {
                Trouble::This(format!("the extent at {} lacks bytes", extent.start))
            })?);
        }
        Place::Segment { id, offset, crc, crc_offset, crc_len } => {
            let uploaded = u64::from(*crc_len);
            let from = offset.checked_sub(*crc_offset).filter(|from| {
                uploaded <= LONGEST && from.checked_add(len).is_some_and(|end| end <= uploaded)
            });
            let Some(from) = from else {
                let why = format!("the extent at {} shows more than was uploaded", extent.start);
                return Err(Trouble::This(why));
            };
            let bytes = segment.read(places, *id, *crc_offset, uploaded).await?;
            if crc32c::crc32c(&bytes) != *crc {
                let why = format!(
                    "the checksum of segment {id:032x}, bytes {crc_offset}..{}, does not match",
                    crc_offset.saturating_add(uploaded)
                );
                return Err(Trouble::This(why));
            }
            let (from, to) = (from as usize, (from + shown) as usize);
            hash.update(bytes.get(from..to).unwrap_or_default());
        }
    }
    Ok(())
}
