//! From a path to what it names.

use super::rows::{cookie, key, record};
use super::{Places, REQUEST, Trouble};
use crate::meta::records::{ContentRec, DirentRec, InodeRec, RestRec};
use crate::store::{ObjectInfo, StoreErrorKind};
use crate::types::{FileKind, ObjectKey, Version};

/// Tables of the records.
const INODE: u8 = 0x10;
const CONTENT: u8 = 0x11;
const DIRENT: u8 = 0x12;
const REST: u8 = 0x20;
const ROOT: u64 = 1;

/// Symbolic links that are followed for one path.
const LINKS: u32 = 40;

/// What a path names.
pub(super) enum Found {
    /// A file that the records know.
    /// `own`: the key of this one of its names.
    File { ino: u64, content: ContentRec, own: ObjectKey },
    /// An object that no record knows, or all there is where there are no records.
    Object { key: ObjectKey, version: Version, known: bool },
}

/// `None`: nothing.
pub(super) async fn find(places: &Places, path: &[u8]) -> Result<Option<Found>, Trouble> {
    let mut components: Vec<Vec<u8>> = Vec::new();
    push(&mut components, path)?;
    if components.is_empty() {
        return Err(Trouble::This("it names the root".to_owned()));
    }
    let Some(rows) = &places.rows else {
        return plain(places, &components, false).await;
    };
    let (mut links, mut dir, mut walked) = (0, ROOT, Vec::<(Vec<u8>, u64)>::new());
    let mut rest: Vec<Vec<u8>> = components.into_iter().rev().collect();
    while let Some(name) = rest.pop() {
        let row = key(DIRENT, &[dir, cookie(&name)], &name);
        let Some(dirent) = rows.get_record::<DirentRec>(&row, "a name").await? else {
            let mut whole: Vec<Vec<u8>> = walked.into_iter().map(|(name, _)| name).collect();
            whole.push(name);
            whole.extend(rest.into_iter().rev());
            return unseen(places, &whole).await;
        };
        let ino = dirent.ino.0;
        match dirent.kind {
            FileKind::Dir => {
                walked.push((name, dir));
                dir = ino;
            }
            FileKind::Symlink => {
                links += 1;
                if links > LINKS {
                    return Err(Trouble::This("too many symbolic links".to_owned()));
                }
                let inode: Option<InodeRec> =
                    rows.get_record(&key(INODE, &[ino], b""), "a symbolic link").await?;
                let target = inode.and_then(|inode| inode.target).ok_or_else(|| {
                    Trouble::This("where a symbolic link leads was never read".to_owned())
                })?;
                if target.starts_with(b"/") {
                    return Err(Trouble::This(
                        "a symbolic link leads out of the volume".to_owned(),
                    ));
                }
                // Relative to the directory that the link is in.
                let mut names: Vec<Vec<u8>> = walked.iter().map(|(name, _)| name.clone()).collect();
                push(&mut names, &target)?;
                names.extend(rest.into_iter().rev());
                rest = names.into_iter().rev().collect();
                (dir, walked) = (ROOT, Vec::new());
            }
            FileKind::File if rest.is_empty() => {
                let content = rows
                    .get_record(&key(CONTENT, &[ino], b""), "its content")
                    .await?
                    .ok_or_else(|| Trouble::This("its content has no record".to_owned()))?;
                let mut names: Vec<Vec<u8>> = walked.into_iter().map(|(name, _)| name).collect();
                names.push(name);
                return Ok(Some(Found::File { ino, content, own: own_key(places, &names) }));
            }
            FileKind::File => return Ok(None),
            kind => return Err(Trouble::This(format!("it is no file but a {kind:?}"))),
        }
    }
    Err(Trouble::This("it is a directory".to_owned()))
}

/// Appends the components of a relative path.
fn push(names: &mut Vec<Vec<u8>>, path: &[u8]) -> Result<(), Trouble> {
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => {
                names.pop().ok_or_else(|| {
                    Trouble::This("it leads out of the volume; make the list inside it".to_owned())
                })?;
            }
            name => names.push(name.to_vec()),
        }
    }
    Ok(())
}

/// A name that the records do not have may be an object that a mount would find on its next look.
async fn unseen(places: &Places, names: &[Vec<u8>]) -> Result<Option<Found>, Trouble> {
    let Some(found) = plain(places, names, true).await? else { return Ok(None) };
    let Found::Object { key: object, version, .. } = &found else { return Ok(None) };
    let Some(rows) = &places.rows else { return Ok(Some(found)) };
    let row = key(REST, &[], object.as_str().as_bytes());
    let known: Option<RestRec> = match rows.get(&row).await? {
        Some(value) => Some(record(&value, "an object")?),
        None => None,
    };
    // One that they know and that has no name there any more waits to be removed.
    Ok(known.is_none_or(|rest| !rest.version.same(version)).then_some(found))
}

/// The plain object of a path.
async fn plain(places: &Places, names: &[Vec<u8>], unseen: bool) -> Result<Option<Found>, Trouble> {
    let object = own_key(places, names);
    let info: Option<ObjectInfo> = match places.store.head(&object, REQUEST).await {
        Ok(info) => info,
        // Longer than any key can be.
        Err(error) if error.kind == StoreErrorKind::Unsupported => None,
        Err(error) => return Err(error.into()),
    };
    let Some(info) = info else { return Ok(None) };
    let mode = info.attributes.get("mode").and_then(|mode| mode.trim().parse::<u32>().ok());
    match mode.and_then(FileKind::from_mode) {
        None | Some(FileKind::File) => {}
        Some(kind) => return Err(Trouble::This(format!("it is no file but a {kind:?}"))),
    }
    Ok(Some(Found::Object { key: object, version: info.version, known: !unseen }))
}

fn own_key(places: &Places, names: &[Vec<u8>]) -> ObjectKey {
    let segments: Vec<String> = names.iter().map(|name| segment(name)).collect();
    places.prefix.key(&segments.join("/"))
}

/// A name as a segment of a key.
fn segment(name: &[u8]) -> String {
    let as_it_is = std::str::from_utf8(name).ok().filter(|text| {
        !text.chars().any(char::is_control) && *text != ".s3vol" && !text.starts_with(".s3vol%")
    });
    if let Some(text) = as_it_is {
        return text.to_owned();
    }
    let mut segment = ".s3vol%".to_owned();
    for byte in name {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-' => {
                segment.push(char::from(*byte));
            }
            byte => segment.push_str(&format!("%{byte:02X}")),
        }
    }
    segment
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::FileName;

    proptest! {
        /// The other reader of the same document agrees.
        #[test]
        fn names_become_keys_as_the_file_system_makes_them(
            bytes in prop::collection::vec(any::<u8>(), 1..100),
        ) {
            if let Ok(name) = FileName::new(bytes.clone()) {
                prop_assert_eq!(segment(&bytes), crate::data::escape_name(&name));
                prop_assert_eq!(cookie(&bytes), crate::meta::keys::cookie(&name));
                let parent = crate::types::Ino(7);
                let row = key(DIRENT, &[7, cookie(&bytes)], &bytes);
                prop_assert_eq!(row, crate::meta::keys::dirent(parent, &name));
            }
        }
    }
}
