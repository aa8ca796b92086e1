//! One process for one mounted volume: opens it, serves it, drains it, gives it back.
//!
//! `Opening -> Active <-> Degraded`, `Active -> Draining -> Closed`, or `Fenced`, `Damaged`, `Failed`.
//! Who has the lock of the state folder has the control socket, which listens before the volume is opened, so
//! that whoever started the process can always ask. A volume with `readonly` is only followed (`run/following`). What a crash leaves is in the local log; the next worker of the same state
//! folder replays it.
//!
//! Its rooms, from the bottom up: `format` says what the volume is, over versions of the program; `recovery` sees to
//! local state of another past; `life` opens, serves, commits, drains and closes; `run` has the processes that do so;
//! `purge` deletes. Beside them are the tools, which open a volume for one thing.

mod about;
mod bare;
mod bill;
mod by_hand;
mod error;
mod events;
mod format;
mod fsck;
mod leave;
mod life;
mod local;
mod places;
mod protocol;
mod purge;
mod rebuild;
mod recovery;
mod run;
mod takeover;
mod verify;

pub use about::{
    About, DRIVER_PROTOCOL, HANDED_FORMAT, SPOKEN_ENV, SPOKEN_HEADER, Versions, WORKER_PROTOCOL,
    started, version,
};
pub use bare::{Bare, BareFollower, bare_fsck, bare_verify};
pub use by_hand::{export_volume, settle_volume};
pub use error::WorkerError;
pub use events::{EventPage, Events, Since, VolumeEvent, What};
pub use format::Progress;
pub use fsck::{FsckHow, VolumeAt, fsck};
pub use life::{Left, Mounted, Successor, open};
pub use protocol::{Asked, DrainReply, SettleReply, VolumeState, WorkerSpec, WorkerStatus};
pub use purge::EnginePurge;
pub use rebuild::{Rebuild, Rebuilt, plan_rebuild};
pub use recovery::{Listed, Recovered, Restored, Shelf, has_unsynced};
pub use run::{READY, TELLS_ENV, of_process, serve_detached, serve_foreground, serve_supervised};
pub use takeover::{look_at_hold, take_over};
pub use verify::{Verified, verify_places};
