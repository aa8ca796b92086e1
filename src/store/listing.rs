//! A listing read to its end, page by page.

use std::time::Duration;

use super::{ListPage, ListRequest, StoreBackend, StoreError};

/// S3's most.
const PAGE: u32 = 1000;

/// A walk over the keys that start with a prefix, in their order. What changes meanwhile shows if it lies
/// ahead.
#[derive(Debug)]
pub struct Listing {
    request: Option<ListRequest>,
}

impl Listing {
    /// Every key.
    pub fn of_keys(prefix: &str) -> Self {
        Listing::new(prefix, false)
    }

    /// Everything after the next `/` folded into [`ListPage::prefixes`].
    pub fn of_folder(prefix: &str) -> Self {
        Listing::new(prefix, true)
    }

    fn new(prefix: &str, delimiter: bool) -> Self {
        let prefix = prefix.to_owned();
        Listing { request: Some(ListRequest { prefix, delimiter, token: None, max_keys: PAGE }) }
    }

    /// The next page, which may be empty; `None` after the last. One request each, within `timeout`.
    pub async fn next(
        &mut self,
        store: &dyn StoreBackend,
        timeout: Duration,
    ) -> Result<Option<ListPage>, StoreError> {
        let Some(request) = self.request.take() else { return Ok(None) };
        let page = store.list(request.clone(), timeout).await?;
        if page.next.is_some() {
            self.request = Some(ListRequest { token: page.next.clone(), ..request });
        }
        Ok(Some(page))
    }
}
