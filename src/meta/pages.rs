//! Walking a range of keys page by page.

use std::ops::Bound;

use bytes::Bytes;

use super::keys::Range;
use super::{Engine, EngineError};

/// Pairs read at a time: few enough that the engine keeps the blocks for the next one who looks.
pub(super) const PAGE: usize = 1000;

/// A walk over a range that may be long. Changes that happen meanwhile show if they lie ahead.
#[derive(Debug)]
pub struct Pages {
    rest: Option<Range>,
    size: usize,
}

impl Pages {
    /// Pages of at most `size` pairs.
    pub fn new(range: Range, size: usize) -> Self {
        Pages { rest: Some(range), size }
    }

    /// The next page, never empty; `None` at the end.
    pub async fn next(
        &mut self,
        engine: &Engine,
    ) -> Result<Option<Vec<(Bytes, Bytes)>>, EngineError> {
        let Some((from, to)) = self.rest.take() else { return Ok(None) };
        let page = engine.scan(from, to.clone(), self.size).await?;
        let Some((last, _)) = page.last() else { return Ok(None) };
        if page.len() == self.size {
            self.rest = Some((Bound::Excluded(last.to_vec()), to));
        }
        Ok(Some(page))
    }
}
