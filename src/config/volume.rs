//! The options of one volume, parsed and with their defaults filled in.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::types::CredentialsName;

/// When changed files become plain objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SettleMode {
    Auto,
    /// Only motion: for databases.
    Never,
}

/// The `Content-Type` of objects to which nobody gave one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContentType {
    /// By the name of the file.
    Auto,
    /// The store's own.
    None,
    Always(String),
}

/// What `docker volume rm` does with the objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnRemove {
    /// Delete what the volume made, unless it adopted objects that were there before.
    Auto,
    Retain,
    Delete,
}

/// Everything that can be said about a volume, except credentials. Stored in the catalog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeOptions {
    /// Where the volume's objects lie: `s3://bucket/prefix`, `az://container/prefix`,
    /// `gs://bucket/prefix`, `file:///dir`. Always resolved (never empty) once parsed.
    pub url: String,
    /// Where its state lies; the volume's folder `.s3vol/v/<uuid>/` is made below it.
    pub state_url: String,
    pub endpoint: Option<String>,
    pub region: Option<String>,
    /// What each host resolves to keys of its own; `None`: the keys of the plugin. Not written where there is none, so
    /// that programs that do not know it read all other definitions, and refuse these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<CredentialsName>,
    /// `None`: path style for a custom endpoint, else virtual-hosted.
    pub path_style: Option<bool>,
    /// Owner and permissions of objects that carry no attributes.
    pub uid: u32,
    pub gid: u32,
    pub file_mode: u32,
    pub dir_mode: u32,
    pub content_type: ContentType,
    /// Longest time between a change and its commit without fsync.
    pub commit: Duration,
    pub settle: SettleMode,
    pub settle_after: Duration,
    /// How old knowledge of the bucket may be when it is used.
    pub refresh: Duration,
    /// Bytes of local disk for cached content.
    pub cache_size: u64,
    pub on_remove: OnRemove,
    pub single_host: bool,
    pub readonly: bool,
    /// What objects get that have no own value: storage class (Azure: access tier), encryption by
    /// the store and its key, canned access list.
    pub storage_class: Option<String>,
    pub sse: Option<String>,
    pub sse_kms_key_id: Option<String>,
    pub acl: Option<String>,
    /// Whoever asks pays for requests and traffic, not the owner of the bucket.
    pub requester_pays: bool,
    /// Bytes and inodes that the volume may hold; `None` is unlimited.
    pub size: Option<u64>,
    pub inodes: Option<u64>,
}

/// The options that a mounted volume follows at once when they are changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuned {
    pub commit: Duration,
    pub settle_after: Duration,
    pub refresh: Duration,
    /// Bytes.
    pub cache_size: u64,
    /// Bytes and inodes; `None` is unlimited.
    pub size: Option<u64>,
    pub inodes: Option<u64>,
}

impl Tuned {
    pub fn of(options: &VolumeOptions) -> Self {
        Tuned {
            commit: options.commit,
            settle_after: options.settle_after,
            refresh: options.refresh,
            cache_size: options.cache_size,
            size: options.size,
            inodes: options.inodes,
        }
    }
}

impl VolumeOptions {
    /// Takes over from `new` what takes effect at once, and nothing else.
    pub fn tune(&mut self, new: &VolumeOptions) {
        let Tuned { commit, settle_after, refresh, cache_size, size, inodes } = Tuned::of(new);
        self.commit = commit;
        self.settle_after = settle_after;
        self.refresh = refresh;
        self.cache_size = cache_size;
        self.size = size;
        self.inodes = inodes;
    }
}

impl Default for VolumeOptions {
    fn default() -> Self {
        VolumeOptions {
            url: String::new(),
            state_url: String::new(),
            endpoint: None,
            region: None,
            credentials: None,
            path_style: None,
            uid: 0,
            gid: 0,
            file_mode: 0o644,
            dir_mode: 0o755,
            content_type: ContentType::Auto,
            commit: Duration::from_secs(5),
            settle: SettleMode::Auto,
            settle_after: Duration::from_secs(2),
            refresh: Duration::from_secs(60),
            cache_size: 10 << 30,
            on_remove: OnRemove::Auto,
            single_host: false,
            readonly: false,
            storage_class: None,
            sse: None,
            sse_kms_key_id: None,
            acl: None,
            requester_pays: false,
            size: None,
            inodes: None,
        }
    }
}
