//! What is counted, what it is called, and the text that Prometheus reads.
//!
//! Owns the table of metrics ([`FAMILIES`]), from which `docs/METRICS.md` and what is served both come, and the
//! counters that lie on hot paths: atomics with a fixed set of labels, so that counting takes no lock and no memory.
//! Whoever is asked gathers [`Sample`]s; a process that gathers from others adds the label of their volume.
//! Uses no other module. Nothing here survives a crash: counters begin anew with each process, as Prometheus expects.

mod histogram;
mod operations;
mod page;
mod prices;
mod requests;
mod sample;
mod table;
mod text;

pub use histogram::Histogram;
pub use operations::{CacheReads, Meters, Operation, Operations};
pub use page::reference_page;
pub use prices::{Prices, PricesError};
pub use requests::{Outcome, RequestKind, Requests};
pub use sample::{Sample, Value};
pub use table::{FAMILIES, Family, Kind, names};
pub use text::{CONTENT_TYPE, Group, text};
