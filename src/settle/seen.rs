//! What lies at many keys, by a few listings instead of a request for each.
//!
//! Only what a listing shows counts: a key that it does not show is asked for by itself, because not every
//! store lists in the order of the keys, or all that there is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use crate::clock::boottime;
use crate::store::{ListRequest, StoreBackend};
use crate::types::{ObjectKey, Version};

/// Fewer keys of one directory than this are asked for one by one.
const FEW: usize = 16;
/// A page of a listing for so many keys, at most.
const KEYS_A_PAGE: usize = 64;
const PAGE: u32 = 1000;
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
        let mut directories: BTreeMap<&str, BTreeSet<&ObjectKey>> = BTreeMap::new();
        for key in keys {
            let path = key.as_str();
            let parent = path.trim_end_matches('/').rfind('/').map_or("", |at| &path[..=at]);
            directories.entry(parent).or_default().insert(key);
        }
        let mut seen = Seen::default();
        let began = boottime();
        for (prefix, keys) in directories.iter().filter(|(_, keys)| keys.len() >= FEW) {
            // What was seen first would be too old by the time it is of use.
            if boottime() - began > FRESH || !seen.list(store, prefix, keys).await {
                break;
            }
        }
        seen
    }

    /// Whether the store lists.
    async fn list(
        &mut self,
        store: &dyn StoreBackend,
        prefix: &str,
        keys: &BTreeSet<&ObjectKey>,
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
