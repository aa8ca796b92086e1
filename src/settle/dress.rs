//! What an object is sent with besides its bytes: the file's own attributes, what it bears for others,
//! and where it bears nothing the volume's defaults and a content type by its name.

use std::sync::Arc;

use super::attributes::{self, Xattr};
use super::{SettleError, Settler};
use crate::data::{BORNE, Borne, Inode, Slot, guessed, is_encoded};
use crate::meta::records::{ContentRec, InodeRec, RestRec};
use crate::meta::{Lookup, keys};
use crate::store::{Attributes, Header, METADATA_MAX, Properties};
use crate::types::{ATTR_INODE, ATTR_TYPE, FileKind, Ino, NO_TYPE, ObjectKey, PutId};

/// Enough of a file's beginning to tell how it is encoded, bytes.
const HEAD: usize = 4096;

/// For one object.
#[derive(PartialEq, Eq)]
pub(super) struct Dress {
    pub attributes: Attributes,
    pub properties: Properties,
}

impl Dress {
    /// Why no object can carry this; ours is the smaller part.
    pub fn too_much(&self, key: &ObjectKey) -> Option<String> {
        let size = self.attributes.iter().map(|(name, value)| name.len() + value.len());
        (size.sum::<usize>() > METADATA_MAX).then(|| {
            format!("{key}: its metadata and ours together are more than {METADATA_MAX} bytes")
        })
    }
}

impl Settler {
    /// Content that was rewritten here is not what its `Content-Encoding` says any more: a browser would
    /// not show it. True when the attribute went. One that was set here since stays as it was set.
    pub(super) async fn drop_false_encoding(
        &self,
        inode: &Arc<Inode>,
        attr: &InodeRec,
        content: &ContentRec,
    ) -> Result<bool, SettleError> {
        if attr.kind != FileKind::File || content.at_rest() {
            return Ok(false);
        }
        let (volume, ino) = (&self.volume, inode.ino);
        let row = keys::xattr(ino, &Slot::Header(Header::ContentEncoding).xattr());
        let Some(encoding) = volume.meta.get_raw(&row).await? else { return Ok(false) };
        let mut shown = 0;
        for (key, _) in volume.meta.scan_all(keys::of_inode(keys::RESTS, ino)).await? {
            let Some(key) = keys::parse_rests(&key) else { continue };
            let rest: Option<RestRec> = volume.meta.get(&keys::rest(&key)).await?;
            shown = shown.max(rest.filter(|rest| rest.ino == ino).map_or(0, |rest| rest.attr_gen));
        }
        if attr.borne_gen > shown {
            return Ok(false);
        }
        let head = volume.read(inode, 0, HEAD).await?;
        if is_encoded(&String::from_utf8_lossy(&encoding), &head) {
            return Ok(false);
        }
        tracing::info!(%ino, ?encoding, "rewritten content is not encoded any more");
        let mut tx = volume.begin().await?;
        tx.kv.delete(row);
        tx.edit(ino, |rec| {
            rec.attr_gen += 1;
            rec.borne_gen = rec.attr_gen;
        })
        .await?;
        tx.commit(0).await?;
        Ok(true)
    }

    /// For the object at `key` of an inode with these extended attributes.
    pub(super) fn dress(
        &self,
        (ino, rec): (Ino, &InodeRec),
        xattrs: &[Xattr],
        key: &ObjectKey,
        put_id: PutId,
    ) -> Dress {
        let volume = &self.volume;
        let borne = Borne::of_rows(xattrs);
        let defaults = Properties {
            // Of empty objects a cheap class is expensive: it has a smallest size.
            class: volume.options.storage_class.clone().filter(|_| rec.kind == FileKind::File),
            acl: volume.options.acl.clone(),
            ..Properties::default()
        };
        let mut properties = borne.properties().or(&defaults);
        let mut attributes = attributes::to_object((ino, rec), key, volume.id, put_id);
        attributes.extend(borne.metadata());
        if rec.kind == FileKind::File && !properties.headers.contains_key(&Header::ContentType) {
            let guess = guessed(&volume.options.content_type, key);
            attributes.insert(ATTR_TYPE.into(), guess.clone().unwrap_or_else(|| NO_TYPE.into()));
            properties.headers.extend(guess.map(|guess| (Header::ContentType, guess)));
        }
        if self.tags.unreadable() && properties.tags.as_ref().is_some_and(|tags| tags.is_empty()) {
            // There may be some: a copy on the server keeps them.
            properties.tags = None;
        }
        // What the object shows on its own is not told twice.
        let others: Vec<Xattr> = xattrs
            .iter()
            .filter(|(name, _)| !name.starts_with(BORNE.as_bytes()))
            .cloned()
            .collect();
        attributes::add_xattrs(&mut attributes, &others);
        let mut dress = Dress { attributes, properties };
        if dress.too_much(key).is_some() {
            // The only one that nobody misses but a rebuild.
            dress.attributes.remove(ATTR_INODE);
        }
        dress
    }
}
