//! Which tables can hold rows of an inode, told without reading them.
//!
//! Most inodes have no xattrs, no other names and no objects to tidy, and whoever removes one has to
//! know. A filter over the first part of the keys answers that for each table; without one it costs a
//! block of every table.

use std::sync::Arc;

use slatedb::{BloomFilterPolicy, FilterPolicy, PrefixExtractor, PrefixTarget};

use crate::meta::keys;

const BITS_PER_KEY: u32 = 10;

#[derive(Debug)]
struct ByInode;

impl PrefixExtractor for ByInode {
    fn name(&self) -> &str {
        "inode"
    }

    fn prefix_len(&self, target: &PrefixTarget) -> Option<usize> {
        let (PrefixTarget::Point(key) | PrefixTarget::Prefix(key)) = target;
        keys::inode_prefix(key)
    }
}

/// For everybody who writes or reads tables: a filter of another policy counts as none.
pub(in crate::meta) fn filters() -> Vec<Arc<dyn FilterPolicy>> {
    vec![Arc::new(BloomFilterPolicy::new(BITS_PER_KEY).with_prefix_extractor(Arc::new(ByInode)))]
}
