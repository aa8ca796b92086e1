//! What the supervisor leaves for the program that it becomes: which descriptors it has, and what it knows of the
//! processes and mounts behind them. JSON in a file in memory.
//!
//! Times are what is left of them. A field may be added at any time, with a default; whatever else changes raises
//! [`HANDED_FORMAT`], and the format before is still read, and written where the program before is to go on.

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Deadline;
use crate::sys::{HandedKind, is_handed};
use crate::worker::{HANDED_FORMAT, WorkerSpec};

/// All of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Handed {
    pub(super) format: u32,
    /// Of the program that wrote this.
    pub(super) version: String,
    pub(super) identity: String,
    /// That program's file, where it can take over again.
    #[serde(default)]
    pub(super) back: Option<RawFd>,
    pub(super) listener: RawFd,
    pub(super) driver: HandedDriver,
    pub(super) volumes: Vec<HandedVolume>,
    pub(super) upgrade: HandedUpgrade,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct HandedUpgrade {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) file: PathBuf,
    /// It failed, and this is the way back.
    #[serde(default)]
    pub(super) why: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum HandedDriver {
    Running {
        pid: u32,
        program: String,
        channel: Option<HandedChannel>,
        failures: u32,
        healthy_in_ms: u64,
        late_in_ms: u64,
        serves: bool,
        #[serde(default)]
        kill_in_ms: Option<u64>,
        #[serde(default)]
        gone_in_ms: Option<u64>,
        /// It was told to make place.
        #[serde(default)]
        leaves: bool,
    },
    Waiting {
        in_ms: u64,
        failures: u32,
    },
}

/// The driver's channel, with what was read and not yet understood, and what could not be sent yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct HandedChannel {
    pub(super) stream: RawFd,
    pub(super) input: Vec<u8>,
    pub(super) output: Vec<u8>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct HandedVolume {
    pub(super) spec: WorkerSpec,
    pub(super) failures: u32,
    pub(super) restarts: u32,
    pub(super) stops: Vec<u64>,
    #[serde(default)]
    pub(super) taken_back: bool,
    pub(super) queued: Option<(u64, Box<WorkerSpec>)>,
    pub(super) state: HandedState,
}

impl PartialEq for HandedVolume {
    fn eq(&self, other: &Self) -> bool {
        self.spec.id == other.spec.id && self.stops == other.stops && self.state == other.state
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum HandedState {
    Running { process: HandedProcess, device: RawFd, healthy_in_ms: u64, turn: HandedTurn },
    Waiting { device: RawFd, in_ms: u64 },
    Stopping { process: HandedProcess, device: RawFd, kill_in_ms: Option<u64> },
    Unmounting { helper: Option<u32>, late_in_ms: u64 },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct HandedProcess {
    pub(super) pid: u32,
    pub(super) program: String,
    pub(super) input: Option<RawFd>,
    pub(super) look_in_ms: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum HandedTurn {
    Serves,
    Opens {
        says: Option<RawFd>,
        late_in_ms: u64,
    },
    Leaves {
        kill_in_ms: Option<u64>,
        #[serde(default)]
        gone_in_ms: u64,
    },
}

/// Why a state cannot be gone on with.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandedError {
    #[error("the state of the program before has format {0}, and this one reads {HANDED_FORMAT}")]
    Format(u32),
    #[error("the state of the program before cannot be read: {0}")]
    Unreadable(#[from] serde_json::Error),
    #[error("descriptor {number} of the program before is not here: {source}")]
    Missing { number: RawFd, source: std::io::Error },
}

impl Handed {
    /// Reads it, and makes sure that all descriptors are there. Takes none of them.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, HandedError> {
        #[derive(Deserialize)]
        struct OnlyFormat {
            format: u32,
        }
        let format = serde_json::from_slice::<OnlyFormat>(bytes)?.format;
        if !HANDED_FORMAT.has(format) {
            return Err(HandedError::Format(format));
        }
        let handed: Handed = serde_json::from_slice(bytes)?;
        for (number, kind) in handed.descriptors() {
            is_handed(number, kind).map_err(|source| HandedError::Missing { number, source })?;
        }
        Ok(handed)
    }

    /// The descriptors that it names, and what they lead to.
    pub(super) fn descriptors(&self) -> Vec<(RawFd, HandedKind)> {
        let mut all = vec![(self.listener, HandedKind::Socket)];
        all.extend(self.back.map(|back| (back, HandedKind::File)));
        if let HandedDriver::Running { channel: Some(channel), .. } = &self.driver {
            all.push((channel.stream, HandedKind::Socket));
        }
        for volume in &self.volumes {
            let (process, device, says) = match &volume.state {
                HandedState::Running { process, device, turn, .. } => {
                    let says = match turn {
                        HandedTurn::Opens { says, .. } => *says,
                        HandedTurn::Serves | HandedTurn::Leaves { .. } => None,
                    };
                    (Some(process), Some(*device), says)
                }
                HandedState::Waiting { device, .. } => (None, Some(*device), None),
                HandedState::Stopping { process, device, .. } => {
                    (Some(process), Some(*device), None)
                }
                HandedState::Unmounting { .. } => (None, None, None),
            };
            all.extend(device.map(|device| (device, HandedKind::Device)));
            let input = process.and_then(|process| process.input);
            all.extend(input.into_iter().chain(says).map(|pipe| (pipe, HandedKind::Pipe)));
        }
        all
    }

    /// Their numbers.
    pub(super) fn numbers(&self) -> Vec<RawFd> {
        self.descriptors().into_iter().map(|(number, _)| number).collect()
    }
}

pub(super) fn left_ms(deadline: Deadline) -> u64 {
    u64::try_from(deadline.left().as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn until(ms: u64) -> Deadline {
    Deadline::after(Duration::from_millis(ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_cannot_be_gone_on_with_is_refused_before_anything_is_taken() {
        let other = Handed::read(br#"{"format": 99, "else": true}"#);
        assert!(matches!(other, Err(HandedError::Format(99))), "{other:?}");
        assert!(matches!(Handed::read(b"no state"), Err(HandedError::Unreadable(_))));
        let upgrade = HandedUpgrade {
            from: "1".to_owned(),
            to: "2".to_owned(),
            file: PathBuf::from("/program"),
            why: None,
        };
        let handed = Handed {
            format: HANDED_FORMAT.newest,
            version: "1".to_owned(),
            identity: String::new(),
            back: Some(1 << 20),
            listener: 1 << 20,
            driver: HandedDriver::Waiting { in_ms: 5, failures: 1 },
            volumes: Vec::new(),
            upgrade,
        };
        let bytes = serde_json::to_vec(&handed).unwrap();
        assert_eq!(serde_json::from_slice::<Handed>(&bytes).unwrap(), handed);
        let missing = Handed::read(&bytes);
        assert!(matches!(missing, Err(HandedError::Missing { number, .. }) if number == 1 << 20));
    }
}
