//! The table of metrics: the only place where they have their names.

/// How a metric is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from zero at the start of its process.
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    /// With its unit, and `_total` for a counter.
    pub name: &'static str,
    pub kind: Kind,
    /// Without `volume`.
    pub labels: &'static [&'static str],
    /// Of one volume, with the label `volume`; otherwise of the whole plugin.
    pub of_volume: bool,
    pub meaning: &'static str,
}

macro_rules! families {
    ($($of:ident { $($id:ident: $name:literal, $kind:ident, [$($label:literal),*], $meaning:literal;)* })*) => {
        /// Each metric by what it is.
        pub mod names {
            use super::{Family, Kind};
            $($(pub const $id: Family = Family {
                name: $name,
                kind: Kind::$kind,
                labels: &[$($label),*],
                of_volume: families!(@ $of),
                meaning: $meaning,
            };)*)*
        }

        /// All metrics, in the order in which they are served.
        pub const FAMILIES: &[Family] = &[$($(names::$id,)*)*];
    };
    (@ volume) => { true };
    (@ plugin) => { false };
}

families! {
    plugin {
        BUILD: "s3vol_build_info", Gauge, ["version"], "Always 1; the version of the program.";
        START: "s3vol_start_time_seconds", Gauge, [],
            "When the process that answers was started, seconds since 1970.";
    }
    volume {
        UP: "s3vol_up", Gauge, [],
            "Whether the volume's process answered. At 0 it is dead, hangs or is just being started, and its other metrics are missing.";
        RESTARTS: "s3vol_worker_restarts_total", Counter, [],
            "How often the volume's process was restarted after it died, since the volume was mounted.";
        MOUNTS: "s3vol_mounts", Gauge, [], "Mounts that Docker holds: containers that use the volume.";
        WORKER_START: "s3vol_worker_start_time_seconds", Gauge, [],
            "When the volume's process was started, seconds since 1970.";
        MEMORY: "s3vol_worker_memory_bytes", Gauge, [], "Memory of the volume's process (resident).";
        STATE: "s3vol_state", Gauge, ["state"],
            "1 for the state that the volume is in, 0 for the others; they are those of `s3vol status`.";
        LEASE_STATE: "s3vol_lease_state", Gauge, ["state"],
            "1 for what this host's lease says, 0 for the others: `held`, `yielding` (any host may take the volume), `released`, `none`.";
        LEASE_LEFT: "s3vol_lease_remaining_seconds", Gauge, [],
            "How long this host may go on publishing without a renewal of its lease. At 0 it waits.";
        SIZE: "s3vol_size_bytes", Gauge, [], "What the files of the volume hold.";
        FILES: "s3vol_files", Gauge, [], "Files and directories of the volume.";
        UNCOMMITTED: "s3vol_uncommitted_bytes", Gauge, [],
            "Written and not in the bucket yet: what the loss of this host would lose.";
        UNCOMMITTED_AGE: "s3vol_uncommitted_age_seconds", Gauge, [],
            "How long the oldest change that is not in the bucket yet has waited; 0 when there is none.";
        UNSETTLED_FILES: "s3vol_unsettled_files", Gauge, [],
            "Files in the bucket's state that are no plain objects yet, and objects that are still to be deleted.";
        UNSETTLED: "s3vol_unsettled_bytes", Gauge, [],
            "What these files hold. If there are very many, only the first 1,000 are added up.";
        UNSETTLED_AGE: "s3vol_unsettled_age_seconds", Gauge, [],
            "How long the oldest of these files has waited, as far as it was watched: exact to the time between two looks. 0 when there is none.";
        OPEN_REQUESTS: "s3vol_unresolved_requests", Gauge, [],
            "Changes of objects whose outcome is not known yet: the store may or may not have carried them out.";
        CONFLICTS: "s3vol_conflicts_total", Counter, [],
            "Files that were changed here and in the bucket; both versions were kept.";
        RECOVERED: "s3vol_recovered_folders", Gauge, [],
            "Folders on this host with content that was not synced when another host took the volume over, and is not uploaded yet.";
        OPERATION_SECONDS: "s3vol_operation_duration_seconds", Histogram, ["operation"],
            "From a request of the kernel to its answer. What the kernel answers from its own cache is not counted.";
        OPERATION_ERRORS: "s3vol_operation_errors_total", Counter, ["operation"],
            "Requests that were answered with an I/O error. Others, such as a name that is not there, do not count.";
        FSYNC_SECONDS: "s3vol_fsync_duration_seconds", Histogram, [],
            "The same for fsync alone, in finer buckets: how long it takes until data is in the bucket.";
        READ_BYTES: "s3vol_read_bytes_total", Counter, [], "Bytes that the kernel read for programs.";
        WRITTEN_BYTES: "s3vol_written_bytes_total", Counter, [], "Bytes that the kernel wrote for programs.";
        CACHE_HITS: "s3vol_cache_hits_total", Counter, [], "Reads that were answered from this host.";
        CACHE_MISSES: "s3vol_cache_misses_total", Counter, [], "Reads that had to wait for the bucket.";
        CACHE_SIZE: "s3vol_cache_bytes", Gauge, [], "Local disk space that cached content takes.";
        CACHE_LIMIT: "s3vol_cache_limit_bytes", Gauge, [], "How much it may take now.";
        STORE_REQUESTS: "s3vol_store_requests_total", Counter, ["verb", "outcome"],
            "Requests to the store by kind and outcome: `done`, `condition` (it did not hold), `missing`, `refused`, `throttled`, `failed` (5xx), `unanswered`.";
        STORE_SECONDS: "s3vol_store_request_duration_seconds", Histogram, ["verb"],
            "From the sending of a request to the beginning of its answer.";
        STORE_RETRIES: "s3vol_store_retries_total", Counter, [],
            "Requests that were sent again because the first attempt failed.";
        STORE_SENT: "s3vol_store_sent_bytes_total", Counter, [], "Bytes of bodies sent to the store.";
        STORE_RECEIVED: "s3vol_store_received_bytes_total", Counter, [],
            "Bytes of bodies received from the store.";
        COST: "s3vol_estimated_cost_dollars_total", Counter, ["part"],
            "What the store charges for that by the prices below: `requests`, and `reading` if that has a price.";
        KEEPING_COST: "s3vol_estimated_storage_dollars_per_month", Gauge, [],
            "What keeping the volume's files costs a month by the prices below.";
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_follow_the_conventions() {
        let names: BTreeSet<&str> = FAMILIES.iter().map(|family| family.name).collect();
        assert_eq!(names.len(), FAMILIES.len(), "a name is given twice");
        for family in FAMILIES {
            let name = family.name;
            assert!(name.starts_with("s3vol_"), "{name}");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b"_3".contains(&b)), "{name}");
            assert_eq!(family.kind == Kind::Counter, name.ends_with("_total"), "{name}");
            if family.kind == Kind::Histogram {
                assert!(name.ends_with("_seconds"), "{name}");
            }
            assert!(family.meaning.ends_with('.'), "{name}");
            assert!(!family.labels.contains(&"volume"), "{name}");
        }
    }
}
