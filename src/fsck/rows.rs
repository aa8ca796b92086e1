//! Walking a table in the order of its keys.

use std::collections::VecDeque;
use std::ops::Bound;

use bytes::Bytes;

use super::FsckError;
use crate::meta::keys::Range;
use crate::meta::{View, keys};
use crate::types::Ino;

/// A key and its value.
pub(super) type Row = (Bytes, Bytes);

/// Rows of a page; of extents, which may hold 16 KiB each, fewer.
const PAGE: usize = 500;
const LARGE_PAGE: usize = 64;

/// A walk over one table. Holds one page.
pub(super) struct Walk<'v> {
    view: &'v View,
    rest: Option<Range>,
    page: VecDeque<Row>,
    size: usize,
}

impl<'v> Walk<'v> {
    pub fn table(view: &'v View, table: u8) -> Self {
        Walk::range(view, table, keys::below(table, &[]))
    }

    pub fn range(view: &'v View, table: u8, range: Range) -> Self {
        let size = if table == keys::EXTENT { LARGE_PAGE } else { PAGE };
        Walk { view, rest: Some(range), page: VecDeque::new(), size }
    }

    pub async fn peek(&mut self) -> Result<Option<&Row>, FsckError> {
        if self.page.is_empty()
            && let Some((from, to)) = self.rest.take()
        {
            let page = self.view.scan(from, to.clone(), self.size).await?;
            if let Some((last, _)) = page.last().filter(|_| page.len() >= self.size) {
                self.rest = Some((Bound::Excluded(last.to_vec()), to));
            }
            self.page = page.into();
        }
        Ok(self.page.front())
    }

    pub async fn next(&mut self) -> Result<Option<Row>, FsckError> {
        self.peek().await?;
        Ok(self.page.pop_front())
    }

    /// At most `most` rows; none at the end.
    pub async fn some(&mut self, most: usize) -> Result<Vec<Row>, FsckError> {
        self.peek().await?;
        let count = self.page.len().min(most);
        Ok(self.page.drain(..count).collect())
    }

    /// The inode of the next row. Keys that name none are put into `junk`.
    pub async fn ino(&mut self, junk: &mut Vec<Bytes>) -> Result<Option<Ino>, FsckError> {
        while let Some((key, _)) = self.peek().await? {
            match keys::parse_ino(key) {
                Some(ino) => return Ok(Some(ino)),
                None => junk.extend(self.page.pop_front().map(|(key, _)| key)),
            }
        }
        Ok(None)
    }

    /// The next row, if it is one of `ino`.
    pub async fn of(&mut self, ino: Ino) -> Result<Option<Row>, FsckError> {
        match self.peek().await? {
            Some((key, _)) if keys::parse_ino(key) == Some(ino) => self.next().await,
            _ => Ok(None),
        }
    }
}
