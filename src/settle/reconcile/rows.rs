//! The records of the names on one page of a listing, read in one scan instead of one by one.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use super::listing::PAGE;
use super::shown::Seen;
use crate::data::{DataError, escape_name};
use crate::meta::records::{DirentRec, RestRec, decode};
use crate::meta::{Meta, keys};
use crate::types::{FileName, Ino, ObjectKey};

/// Fewer names are looked up one by one.
const FEW: usize = 16;
/// Rows that are read in vain at most: as many as there are names, and this many more.
const SPARE: usize = 64;

/// The rows of each kind, if all of them were read.
#[derive(Debug, Default)]
pub(super) struct Rows {
    dirents: Option<HashMap<FileName, DirentRec>>,
    rests: Option<HashMap<ObjectKey, RestRec>>,
}

impl Rows {
    pub async fn of(
        meta: &Meta,
        dir: Ino,
        prefix: &str,
        seen: &BTreeMap<FileName, Seen>,
    ) -> Result<Self, DataError> {
        let mut rows = Rows::default();
        if seen.len() < FEW {
            return Ok(rows);
        }
        let most = 2 * seen.len() + SPARE;
        // In a directory of several pages most rows would be read in vain, once a page.
        let fits = seen.len() < PAGE as usize;
        let found = match fits {
            true => meta.scan(keys::dirents_after(dir, 0), most).await?,
            false => Vec::new(),
        };
        if fits && found.len() < most {
            let mut dirents = HashMap::with_capacity(found.len());
            for (key, value) in &found {
                if let Some((_, name)) = keys::parse_dirent(key) {
                    dirents.insert(name, decode(value)?);
                }
            }
            rows.dirents = Some(dirents);
        }
        let objects = seen.iter().filter(|(_, seen)| seen.object.is_some());
        let names: Vec<String> = objects.map(|(name, _)| escape_name(name)).collect();
        let (Some(first), Some(last)) = (names.iter().min(), names.iter().max()) else {
            return Ok(rows);
        };
        let key = |name: &String| keys::rest(&ObjectKey::new(format!("{prefix}{name}")));
        let range = (Bound::Included(key(first)), Bound::Included(key(last)));
        let found = meta.scan(range, most).await?;
        // There may be very many rows below directories between these names.
        if found.len() < most {
            let mut rests = HashMap::with_capacity(found.len());
            for (key, value) in &found {
                if let Some(key) = keys::parse_object(key) {
                    rests.insert(key, decode(value)?);
                }
            }
            rows.rests = Some(rests);
        }
        Ok(rows)
    }

    pub async fn dirent(
        &self,
        meta: &Meta,
        dir: Ino,
        name: &FileName,
    ) -> Result<Option<DirentRec>, DataError> {
        match &self.dirents {
            Some(dirents) => Ok(dirents.get(name).copied()),
            None => Ok(meta.get(&keys::dirent(dir, name)).await?),
        }
    }

    pub async fn rest(&self, meta: &Meta, key: &ObjectKey) -> Result<Option<RestRec>, DataError> {
        match &self.rests {
            Some(rests) => Ok(rests.get(key).cloned()),
            None => Ok(meta.get(&keys::rest(key)).await?),
        }
    }
}
