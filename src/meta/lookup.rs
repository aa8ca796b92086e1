//! Reading records, wherever they are.

use std::future::Future;
use std::ops::Bound;

use bytes::Bytes;

use super::pages::PAGE;
use super::records::{Row, decode};
use super::{Meta, MetaError, View, keys};
use crate::types::Ino;

/// What the records say: the writer's newest state ([`Meta`]), or one that lies in the bucket
/// ([`View`]).
pub trait Lookup: Sync {
    /// The value of a key.
    fn get_raw(&self, key: &[u8]) -> impl Future<Output = Result<Option<Bytes>, MetaError>> + Send;

    /// Keys and values of a range, in order, at most `limit`.
    fn scan(
        &self,
        range: keys::Range,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<(Bytes, Bytes)>, MetaError>> + Send;

    /// Keys and values of a range that is known to be short, in order.
    fn scan_all(
        &self,
        (mut from, to): keys::Range,
    ) -> impl Future<Output = Result<Vec<(Bytes, Bytes)>, MetaError>> + Send {
        async move {
            let mut found = Vec::new();
            loop {
                let page = self.scan((from, to.clone()), PAGE).await?;
                let more = page.len() == PAGE;
                found.extend(page);
                match found.last() {
                    Some((last, _)) if more => from = Bound::Excluded(last.to_vec()),
                    _ => return Ok(found),
                }
            }
        }
    }

    /// The extended attributes of an inode: names and values, by name.
    fn xattrs(
        &self,
        ino: Ino,
    ) -> impl Future<Output = Result<Vec<(Bytes, Bytes)>, MetaError>> + Send {
        async move {
            let found = self.scan_all(keys::of_inode(keys::XATTR, ino)).await?;
            let name = |key: Bytes| key.slice_ref(keys::after_ino(&key));
            Ok(found.into_iter().map(|(key, value)| (name(key), value)).collect())
        }
    }

    /// A record, if the key is there.
    fn get<T: Row>(&self, key: &[u8]) -> impl Future<Output = Result<Option<T>, MetaError>> + Send {
        async move {
            match self.get_raw(key).await? {
                Some(bytes) => Ok(Some(decode(&bytes)?)),
                None => Ok(None),
            }
        }
    }
}

impl Lookup for Meta {
    async fn get_raw(&self, key: &[u8]) -> Result<Option<Bytes>, MetaError> {
        Meta::get_raw(self, key).await
    }

    async fn scan(
        &self,
        range: keys::Range,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, MetaError> {
        Meta::scan(self, range, limit).await
    }
}

impl Lookup for View {
    async fn get_raw(&self, key: &[u8]) -> Result<Option<Bytes>, MetaError> {
        Ok(View::get_raw(self, key).await?)
    }

    async fn scan(
        &self,
        (from, to): keys::Range,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, MetaError> {
        Ok(View::scan(self, from, to, limit).await?)
    }
}
