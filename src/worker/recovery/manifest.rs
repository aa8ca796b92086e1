//! `recovered.json`: what one host brought up that lost the volume.

use std::ops::Range;

use serde::{Deserialize, Serialize};

pub const FORMAT: u32 = 1;
pub const MANIFEST: &str = "recovered.json";

/// `recovered/<name>/recovered.json`, written when everything that it names is there.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    pub host: String,
    /// RFC 3339, by that host's clock.
    pub at: String,
    pub files: Vec<ManifestFile>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ManifestFile {
    /// Its parts are escaped as in object keys.
    pub path: String,
    pub size: u64,
    /// What was changed and not synced. Everything else of the file is in the volume, or was.
    pub pieces: Vec<ManifestPiece>,
    /// Ranges that were changed to zeros.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub zeros: Vec<Range<u64>>,
    /// Changed ranges whose bytes could not be found any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Range<u64>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ManifestPiece {
    /// In the file.
    pub start: u64,
    pub len: u64,
    /// Below the manifest's folder.
    pub object: String,
    /// While it is put together: the number of the object, whose name is not known yet.
    #[serde(skip)]
    pub(super) pack: usize,
    pub offset: u64,
    /// CRC32C of the bytes.
    pub crc: u32,
}

/// How many bytes these ranges have, which may be anything.
pub fn bytes_in(ranges: &[Range<u64>]) -> u64 {
    let lengths = ranges.iter().map(|range| range.end.saturating_sub(range.start));
    lengths.fold(0, u64::saturating_add)
}

/// How many bytes of a file's content a manifest has.
pub fn covered(file: &ManifestFile) -> u64 {
    let pieces = file.pieces.iter().map(|piece| piece.len).fold(0, u64::saturating_add);
    pieces.saturating_add(bytes_in(&file.zeros))
}
