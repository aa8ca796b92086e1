//! One process for one mounted volume: opens it, serves it, drains it, gives it back.
//!
//! `Opening -> Active <-> Degraded`, `Active -> Draining -> Closed`, or `Fenced`, `Damaged`, `Failed`.
//! Who has the lock of the state folder has the control socket, which listens before the volume is opened, so
//! that whoever started the process can always ask. A volume with `readonly` is only followed (`follow`). What a crash leaves is in the local log; the next worker of the same state folder replays it.

mod about;
mod bare;
mod bill;
mod by_hand;
mod control;
mod error;
mod events;
mod follow;
mod foreground;
mod format;
mod fsck;
mod leave;
mod life;
mod local;
mod measure;
mod places;
mod protocol;
mod purge;
mod ready;
mod rebuild;
mod recovery;
mod supervised;
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
pub use foreground::{serve_detached, serve_foreground};
pub use format::Progress;
pub use fsck::{FsckHow, VolumeAt, fsck};
pub use life::{Left, Mounted, Successor, open};
pub use measure::of_process;
pub use protocol::{Asked, DrainReply, SettleReply, VolumeState, WorkerSpec, WorkerStatus};
pub use purge::EnginePurge;
pub use ready::{READY, TELLS_ENV};
pub use rebuild::{Rebuild, Rebuilt, plan_rebuild};
pub use recovery::{Listed, Recovered, Restored, Shelf, has_unsynced};
pub use supervised::serve_supervised;
pub use takeover::{look_at_hold, take_over};
pub use verify::{Verified, verify_places};
