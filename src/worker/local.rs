//! What a volume has in its state folder beside the log: the engine's mirror, and what a clean end removes.

use std::path::Path;
use std::time::Duration;

use super::WorkerSpec;
use crate::data::Trash;
use crate::meta::Mirror;

/// Local copies of the engine's files, in the volume's state folder.
pub(super) const MIRROR: &str = "meta";
const MIN_MIRROR: u64 = 64 << 20;
/// A process that ends waits so long for what it has put into the trash.
pub(super) const LAST_STEPS: Duration = Duration::from_millis(300);

/// Metadata takes an eighth of what content may take, so that one option bounds both, and of the disk.
pub(super) fn mirror(spec: &WorkerSpec) -> Mirror {
    let disk = crate::sys::disk_space(&spec.state_dir).map_or(u64::MAX, |space| space.total / 8);
    let share = (spec.options.cache_size / 8).max(MIN_MIRROR).min(disk);
    let max_bytes = usize::try_from(share).unwrap_or(usize::MAX);
    Mirror { dir: spec.state_dir.join(MIRROR), max_bytes }
}

/// Removes what a clean end leaves in the state folder: everything is in the bucket.
/// Logs that were set aside stay: they may hold what no bucket has.
pub(super) fn clear_local(state_dir: &Path, trash: &Trash) {
    for part in ["log/log", "log/log.new", "cache", MIRROR] {
        let path = state_dir.join(part);
        if let Err(error) = trash.take(&path) {
            tracing::warn!(path = %path.display(), %error, "local state could not be removed");
        }
    }
}
