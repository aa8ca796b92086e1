//! The places at which a test can have the process killed: before and after each step that changes
//! something outside of its memory. `tests/failpoints.rs` compares this list with the places.

/// Declares the names once, as constants and as a list.
macro_rules! points {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        $($(#[$doc])* pub const $name: &str = $text;)*
        /// All of them.
        pub const ALL: &[&str] = &[$($text),*];
    };
}

points! {
    /// A record of the local log: everything that is acknowledged passes here.
    LOG_APPEND_BEFORE = "log-append-before";
    LOG_APPEND_AFTER = "log-append-after";
    /// The log is written anew, shorter, and takes the old one's place.
    LOG_ROTATE_BEFORE = "log-rotate-before";
    LOG_ROTATE_WRITTEN = "log-rotate-written";
    LOG_ROTATE_AFTER = "log-rotate-after";
    /// Bytes go to a cache file.
    PWRITE_BEFORE = "pwrite-before";
    PWRITE_AFTER = "pwrite-after";
    /// A segment goes up.
    SEGMENT_BEFORE = "segment-before";
    SEGMENT_AFTER = "segment-after";
    /// A batch is in the log and goes to the engine.
    BATCH_BEFORE = "batch-before";
    BATCH_AFTER = "batch-after";
    /// What was handed over becomes durable.
    FLUSH_BEFORE = "flush-before";
    FLUSH_AFTER = "flush-after";
    /// The engine's list of its files is replaced.
    MANIFEST_BEFORE = "manifest-before";
    MANIFEST_AFTER = "manifest-after";
    /// The next epoch is claimed.
    CLAIM_BEFORE = "claim-before";
    CLAIM_AFTER = "claim-after";
    /// The same by hand, from a host that may live.
    TAKEOVER_BEFORE = "takeover-before";
    TAKEOVER_AFTER = "takeover-after";
    /// What a host had not synced when it lost a volume: each object, and the note that all are there.
    RECOVERED_PUT_BEFORE = "recovered-put-before";
    RECOVERED_PUT_AFTER = "recovered-put-after";
    RECOVERED_NOTE_BEFORE = "recovered-note-before";
    RECOVERED_NOTE_AFTER = "recovered-note-after";
    /// The lease is written or renewed.
    LEASE_BEFORE = "lease-before";
    LEASE_AFTER = "lease-after";
    /// Publishing: the intents, each request, the outcomes.
    ANNOUNCE_BEFORE = "announce-before";
    ANNOUNCE_AFTER = "announce-after";
    SEND_BEFORE = "send-before";
    SEND_AFTER = "send-after";
    RESOLVE_BEFORE = "resolve-before";
    RESOLVE_AFTER = "resolve-after";
    /// The object at a key whose name is gone.
    DELETE_BEFORE = "delete-before";
    DELETE_AFTER = "delete-after";
    /// A base is copied to a name of its own.
    PARK_BEFORE = "park-before";
    PARK_AFTER = "park-after";
    /// A segment that nothing refers to.
    GARBAGE_BEFORE = "garbage-before";
    GARBAGE_AFTER = "garbage-after";
    /// What a clean end leaves for other versions.
    EXPORT_PAGE_BEFORE = "export-page-before";
    EXPORT_PAGE_AFTER = "export-page-after";
    EXPORT_INDEX_BEFORE = "export-index-before";
    EXPORT_INDEX_AFTER = "export-index-after";
    /// What a host had not synced when it lost the volume is set aside: the cache files, then the log.
    ASIDE_BEFORE = "aside-before";
    ASIDE_CACHE = "aside-cache";
    ASIDE_AFTER = "aside-after";
    /// The end of a removed volume: its objects, their records, the rest of the state, and `format.json`.
    PURGE_OBJECT_BEFORE = "purge-object-before";
    PURGE_OBJECT_AFTER = "purge-object-after";
    PURGE_BATCH_BEFORE = "purge-batch-before";
    PURGE_BATCH_AFTER = "purge-batch-after";
    PURGE_STATE_BEFORE = "purge-state-before";
    PURGE_STATE_AFTER = "purge-state-after";
    PURGE_FORMAT_BEFORE = "purge-format-before";
    PURGE_FORMAT_AFTER = "purge-format-after";
    /// A record of the catalog is written or deleted, and the copy on this host.
    CATALOG_WRITE_BEFORE = "catalog-write-before";
    CATALOG_WRITE_AFTER = "catalog-write-after";
    CATALOG_DELETE_BEFORE = "catalog-delete-before";
    CATALOG_DELETE_AFTER = "catalog-delete-after";
    MIRROR_BEFORE = "mirror-before";
    MIRROR_AFTER = "mirror-after";
}
