//! The records of the catalog, as they lie in the bucket.

use serde::{Deserialize, Serialize};
use sha2::Digest;

use crate::config::{BucketUrl, OnRemove, VolumeOptions};
use crate::meta::EngineHome;
use crate::store::Capabilities;
use crate::types::{KeyPrefix, ObjectKey, StoreTime, VolumeId, VolumeName, hex};

/// The version of the records below.
pub(super) const FORMAT: u32 = 1;
/// Segments of a prefix that have a folder of their own among the by-prefix entries, and the bytes of
/// each one's SHA-256: together they fit a key beside the longest prefix.
const DEEPEST: usize = 20;
const HASHED: usize = 6;

/// The name of a by-prefix entry in its folder.
pub(super) const ENTRY: &str = "volume.json";

/// `<home>/.s3vol/volumes/<name>.json`: one volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    pub format: u32,
    pub name: VolumeName,
    pub uuid: VolumeId,
    /// RFC 3339, by the creating host's clock.
    pub created_at: String,
    pub options: VolumeOptions,
    /// Objects were there before the volume was: they are not ours to delete.
    pub adopted: bool,
    /// The host that wrote this record last.
    pub written_by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removing: Option<Removing>,
}

/// The volume was removed; its objects go after the grace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removing {
    /// By the store's clock, which is the same for every host.
    pub since: StoreTime,
    /// The host that was asked.
    pub by: String,
    /// The last epoch in which the volume was used until then, if it ever was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// Deleting has begun: the volume cannot come back any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub purging: bool,
}

impl Definition {
    /// What another host made of this one meanwhile, and which host, for a person.
    pub fn changed_to(&self, now: &Definition) -> String {
        let mut what = Vec::new();
        if self.uuid != now.uuid {
            what.push(format!("it is another volume of that name, {}", now.uuid));
        }
        what.extend(match (&self.removing, &now.removing) {
            (None, Some(removing)) => Some(format!("it was removed by {}", removing.by)),
            (Some(_), None) => Some("it was brought back".to_owned()),
            (Some(before), Some(removing)) if before.purging != removing.purging => {
                Some("its objects are being deleted".to_owned())
            }
            (Some(before), Some(removing)) if before != removing => {
                Some(format!("it was brought back and removed again by {}", removing.by))
            }
            _ => None,
        });
        what.extend(now.options.differences(&self.options).iter().map(ToString::to_string));
        if what.is_empty() {
            what.push("in its notes only".to_owned());
        }
        format!("{} (written by {})", what.join(", "), now.written_by)
    }

    /// Whether `docker volume rm` deletes objects, or only forgets the volume.
    pub fn deletes(&self) -> bool {
        match self.options.on_remove {
            OnRemove::Retain => false,
            OnRemove::Delete => !self.options.readonly,
            OnRemove::Auto => !self.adopted && !self.options.readonly,
        }
    }
}

/// `<state>/.s3vol/by-prefix/<hash of each segment of the URL>/volume.json`: whose prefix this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefixEntry {
    pub format: u32,
    pub url: String,
    pub uuid: VolumeId,
    pub state_url: String,
    pub adopted: bool,
}

/// `<state>/.s3vol/v/<uuid>/format.json`: written once and when the engine changes, read back at every lease renewal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeFormat {
    pub format: u32,
    pub uuid: VolumeId,
    /// The endpoint of the volume's bucket as its creator saw it: the volume is used through one.
    pub endpoint: String,
    /// What the volume's bucket was proven to honour, written as far as each version of s3vol can read it.
    #[serde(serialize_with = "everywhere")]
    pub capabilities: Capabilities,
    /// The same of the bucket that holds the state.
    #[serde(serialize_with = "everywhere")]
    pub state_capabilities: Capabilities,
    /// Where its records are.
    pub engine: EngineHome,
    /// Where somebody is moving them; nothing has changed yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switching: Option<EngineHome>,
    /// The volume was removed, and how far its deletion has come. Nobody may mount it any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleting: Option<Deleting>,
    /// With `deleting`: it never was a volume. The creation that began it takes it away, and opens it again if it
    /// turns out to be wanted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub withdrawn: bool,
    /// The place has another state since, made from its objects. Nobody may mount this one any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_by: Option<VolumeId>,
}

fn everywhere<S: serde::Serializer>(found: &Capabilities, to: S) -> Result<S::Ok, S::Error> {
    found.everywhere().serialize(to)
}

impl VolumeFormat {
    /// As it is read back once it is written.
    pub fn recorded(&self) -> VolumeFormat {
        VolumeFormat {
            capabilities: self.capabilities.everywhere(),
            state_capabilities: self.state_capabilities.everywhere(),
            ..self.clone()
        }
    }
}

/// What of a removed volume is being deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deleting {
    /// Its objects; the records of the volume say which.
    Objects,
    /// Its state: the records are no longer complete, and no longer needed.
    State,
}

pub(super) fn volumes(home: &KeyPrefix) -> KeyPrefix {
    home.join(".s3vol/volumes/")
}

pub(super) fn definition_key(home: &KeyPrefix, name: &VolumeName) -> ObjectKey {
    volumes(home).key(&format!("{name}.json"))
}

pub(super) fn prefix_key(base: &KeyPrefix, url: &BucketUrl) -> ObjectKey {
    prefix_folder(base, url).key(ENTRY)
}

/// Below it are the entries of the whole bucket of `url`.
pub(super) fn prefix_root(base: &KeyPrefix, url: &BucketUrl) -> KeyPrefix {
    let root = BucketUrl { prefix: KeyPrefix::new(""), ..url.clone() };
    prefix_folder(base, &root)
}

/// Below it are the entries of `url` and of everything inside it, as the places themselves lie: each
/// segment is the start of its hash, because keys are short.
pub(super) fn prefix_folder(base: &KeyPrefix, url: &BucketUrl) -> KeyPrefix {
    let root = format!("{}://{}", url.scheme.as_str(), url.bucket);
    // What lies deeper is one segment, and what is inside that is not told apart from what is beside.
    let segments = url.prefix.as_str().trim_end_matches('/').splitn(DEEPEST, '/');
    let mut folder = String::from(".s3vol/by-prefix/");
    for segment in std::iter::once(root.as_str()).chain(segments.filter(|s| !s.is_empty())) {
        let hash = sha2::Sha256::digest(segment);
        folder.push_str(&hex(&hash[..HASHED]));
        folder.push('/');
    }
    base.join(&folder)
}

/// The folder of one incarnation's state.
pub(super) fn state_folder(base: &KeyPrefix, id: VolumeId) -> KeyPrefix {
    base.join(&format!(".s3vol/v/{id}/"))
}

pub(super) fn format_key(base: &KeyPrefix, id: VolumeId) -> ObjectKey {
    state_folder(base, id).key("format.json")
}

/// The state that belongs to a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incarnation {
    pub id: VolumeId,
    pub state_url: String,
    /// Objects were there before the volume was.
    pub adopted: bool,
}

impl From<PrefixEntry> for Incarnation {
    fn from(entry: PrefixEntry) -> Self {
        let PrefixEntry { uuid: id, state_url, adopted, .. } = entry;
        Incarnation { id, state_url, adopted }
    }
}
