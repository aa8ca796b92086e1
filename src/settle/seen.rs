//! What lies at many keys, by a few listings instead of a request for each.
//!
//! Only what a listing shows counts: a key that it does not show is asked for by itself, because not every
//! store lists in the order of the keys, or all that there is.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::stream::{self, StreamExt};

use crate::clock::boottime;
use crate::store::{ListRequest, StoreBackend};
use crate::types::{ObjectKey, Version};

/// Fewer keys of one directory than this are asked for one by one.
const FEW: usize = 16;
/// A page of a listing for so many keys, at most.
const KEYS_A_PAGE: usize = 64;
const PAGE: u32 = 1000;
/// Directories that are listed side by side.
const PARALLEL: usize = 8;
/// A store that lists more slowly than this is asked for each key.
const LIST_TIMEOUT: Duration = FRESH;
/// For so long what was listed is as good as what was asked for: a foreign PUT between a look and the
/// deletion that follows it is deleted with what lay there.
const FRESH: Duration = Duration::from_secs(1);

/// What listings showed, each with the time at which it was asked for.
#[derive(Debug, Default)]
pub(super) struct Seen {
    versions: HashMap<ObjectKey, (Version, Duration)>,
}

impl Seen {
    /// Lists the directories of the keys that have many of them. What cannot be listed is left out.
    pub async fn look(store: &dyn StoreBackend, keys: impl Iterator<Item = &ObjectKey>) -> Seen {
        let mut directories: BTreeMap<String, HashSet<ObjectKey>> = BTreeMap::new();
        for key in keys {
            let path = key.as_str();
            let parent = path.trim_end_matches('/').rfind('/').map_or("", |at| &path[..=at]);
            directories.entry(parent.to_owned()).or_default().insert(key.clone());
        }
        let began = boottime();
        let lists = &AtomicBool::new(true);
        directories.retain(|_, keys| keys.len() >= FEW);
        let listings = stream::iter(directories).map(|(prefix, keys)| async move {
            let mut seen = Seen::default();
            // What was seen first would be too old by the time it is of use.
            let soon = boottime() - began <= FRESH;
            if soon && lists.load(Ordering::Relaxed) && !seen.list(store, &prefix, &keys).await {
                lists.store(false, Ordering::Relaxed);
            }
            seen.versions
        });
        let versions = listings.buffer_unordered(PARALLEL).concat().await;
        Seen { versions }
    }

    /// Whether the store lists.
    async fn list(
        &mut self,
        store: &dyn StoreBackend,
        prefix: &str,
        keys: &HashSet<ObjectKey>,
    ) -> bool {
        let mut token = None;
        for _ in 0..=keys.len() / KEYS_A_PAGE {
            let request = ListRequest {
                prefix: prefix.to_owned(),
                // What lies below its directories is not asked for.
                delimiter: true,
                token: token.take(),
                max_keys: PAGE,
            };
            let asked = boottime();
            let page = match store.list(request, LIST_TIMEOUT).await {
                Ok(page) => page,
                Err(error) => {
                    tracing::debug!(prefix, %error, "keys to delete are not listed");
                    return false;
                }
            };
            let wanted = page.entries.into_iter().filter(|entry| keys.contains(&entry.key));
            self.versions.extend(wanted.map(|entry| (entry.key, (entry.version, asked))));
            token = page.next;
            if token.is_none() {
                break;
            }
        }
        true
    }

    /// What lay at the key just now, if a listing showed that.
    pub fn fresh(&self, key: &ObjectKey) -> Option<&Version> {
        let (version, asked) = self.versions.get(key)?;
        (boottime() - *asked <= FRESH).then_some(version)
    }
}
