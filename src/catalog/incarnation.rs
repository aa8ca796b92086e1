//! From a place to the one state it has: found, or made.

use super::definition::{FORMAT, PrefixEntry, VolumeFormat, format_key, prefix_key, state_folder};
use super::ground::Ground;
use super::objects::{self, REQUEST};
use super::overlap::refuse_nested;
use super::{CatalogError, Opener, stores};
use crate::config::VolumeOptions;
use crate::meta::EngineHome;
use crate::store::{Capabilities, Finding, Send, Verb};
use crate::types::VolumeId;

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

/// Finds the state of `options.url`, or makes it (never for a volume that is only read): checks the bucket, probes it, and writes
/// `format.json` and the by-prefix entry. Refuses a store that would lose data. Errors come within
/// about 10 s a bucket.
pub async fn incarnate(
    opener: &dyn Opener,
    options: &VolumeOptions,
) -> Result<Incarnation, CatalogError> {
    match prepare(opener, options, false).await? {
        Prepared::Found(found) => Ok(found),
        Prepared::Free(draft) => draft.claim(opener, options).await,
    }
}

/// Finds the state of `options.url`; makes nothing.
pub async fn find_state(
    opener: &dyn Opener,
    options: &VolumeOptions,
) -> Result<Option<Incarnation>, CatalogError> {
    Ground::open(opener, options).await?.find(opener, options).await
}

/// Writes the first part of a new state for a place that has one, or had one: nothing leads to it yet.
pub async fn new_state(
    opener: &dyn Opener,
    options: &VolumeOptions,
) -> Result<Incarnation, CatalogError> {
    let ground = Ground::open(opener, options).await?;
    ground.check().await?;
    let state_url = ground.state_url.to_string();
    let id = VolumeId::random();
    // Its objects were there before: they are not its to delete.
    let mut draft = Draft { ground, id, adopted: true, written: false, findings: [None, None] };
    let (volume, state) = draft.find_out(options).await?;
    draft.write_format(volume, state, options).await?;
    draft.record().await;
    Ok(Incarnation { id, state_url, adopted: true })
}

/// What a place is.
#[derive(Debug)]
pub(super) enum Prepared {
    Found(Incarnation),
    /// Nobody's. The state is there, and nothing leads to it yet.
    Free(Box<Draft>),
}

impl Prepared {
    /// Nothing is to be made there after all.
    pub async fn undo(&self) {
        if let Prepared::Free(draft) = self {
            draft.undo().await;
        }
    }
}

/// A state that nothing leads to. It has to be claimed or undone.
#[derive(Debug)]
#[must_use]
pub(super) struct Draft {
    ground: Ground,
    id: VolumeId,
    adopted: bool,
    /// `format.json` may be there.
    written: bool,
    /// What was found out just now, of the volume's store and of the state's.
    findings: [Option<Finding>; 2],
}

/// Looks at the place of a volume and, unless it has a state, writes the first part of one.
///
/// `likely_new`: no state is expected to be found. Then everything is asked at once, and where the store
/// is known `format.json` is written in the same moment: nothing leads to it, and it is deleted again if
/// the place turns out to be taken.
pub(super) async fn prepare(
    opener: &dyn Opener,
    options: &VolumeOptions,
    likely_new: bool,
) -> Result<Prepared, CatalogError> {
    let ground = Ground::open(opener, options).await?;
    let mut checked = None;
    if !likely_new || options.readonly {
        checked = Some(ground.check().await?);
        if let Some(found) = ground.find(opener, options).await? {
            return Ok(Prepared::Found(found));
        }
        if options.readonly {
            return Err(CatalogError::Refused(format!(
                "there is no volume at {} yet that could be followed: mount it once without readonly, \
                 on any host, with credentials that may write",
                ground.url
            )));
        }
    }
    let mut draft = Draft {
        ground,
        id: VolumeId::random(),
        adopted: false,
        written: false,
        findings: [None, None],
    };
    let ahead = draft
        .ground
        .known()
        .filter(|(_, state)| is_sound(state, options))
        .filter(|_| likely_new && !draft.ground.state_is_inside());
    draft.written = ahead.is_some();
    let looked = async {
        let ground = &draft.ground;
        let checking = async {
            match checked {
                Some(page) => Ok(page),
                None => ground.check().await,
            }
        };
        let writing = async {
            match ahead {
                Some((volume, state)) => draft.write_format(volume, state, options).await,
                None => Ok(()),
            }
        };
        let (page, taken, written) = tokio::join!(checking, ground.taken(), writing);
        let page = page?;
        if taken? && let Some(found) = ground.find(opener, options).await? {
            return Ok(Err(found));
        }
        let adopted = ground.refuse_foreign_state(&page).await?;
        written?;
        Ok(Ok(adopted))
    }
    .await;
    match looked {
        Ok(Ok(adopted)) => draft.adopted = adopted,
        Ok(Err(found)) => {
            draft.undo().await;
            return Ok(Prepared::Found(found));
        }
        Err(error) => {
            draft.undo().await;
            return Err(error);
        }
    }
    if !draft.written {
        let (volume, state) = draft.find_out(options).await?;
        draft.written = true;
        if let Err(error) = draft.write_format(volume, state, options).await {
            draft.undo().await;
            return Err(error);
        }
    }
    Ok(Prepared::Free(Box::new(draft)))
}

impl Draft {
    /// What the two stores honour: known, recorded, or probed.
    async fn find_out(
        &mut self,
        options: &VolumeOptions,
    ) -> Result<(Capabilities, Capabilities), CatalogError> {
        let Ground { volume, state, state_url, url, .. } = &self.ground;
        let scratch = state_folder(state.prefix(), self.id).join("probe/");
        let (state_honours, found) =
            stores::capabilities(state.as_ref(), state.as_ref(), &scratch, |found| {
                is_sound(found, options)
            })
            .await?;
        self.findings[1] = found;
        if state_url.same_bucket(url) {
            return Ok((state_honours.clone(), state_honours));
        }
        let scratch = volume.prefix().join(".s3vol-probe/");
        let (honours, found) =
            stores::capabilities(volume.as_ref(), state.as_ref(), &scratch, |_| true).await?;
        self.findings[0] = found;
        Ok((honours, state_honours))
    }

    async fn write_format(
        &self,
        capabilities: Capabilities,
        state_capabilities: Capabilities,
        options: &VolumeOptions,
    ) -> Result<(), CatalogError> {
        let Ground { volume, state, state_url, .. } = &self.ground;
        if !is_sound(&state_capabilities, options) {
            return Err(CatalogError::Refused(format!(
                "the store of {state_url} does not honour create-if-absent (If-None-Match: * on PUT), so \
                 two hosts could write one volume at once and lose data; use another store, or promise \
                 with -o single_host=true that only this host ever mounts the volume"
            )));
        }
        let record = VolumeFormat {
            format: FORMAT,
            uuid: self.id,
            endpoint: volume.store().endpoint().to_owned(),
            capabilities,
            state_capabilities,
            engine: EngineHome::first(),
            switching: None,
            deleting: None,
            replaced_by: None,
        };
        let key = format_key(state.prefix(), self.id);
        match objects::create_unique(state.store(), &key, &record).await? {
            Some(_) => Ok(()),
            None => Err(CatalogError::Unknown(key.to_string())),
        }
    }

    /// Makes it the state of the place, unless somebody else was first: theirs counts then.
    pub async fn claim(
        self,
        opener: &dyn Opener,
        options: &VolumeOptions,
    ) -> Result<Incarnation, CatalogError> {
        let Ground { url, state_url, state, .. } = &self.ground;
        let entry = PrefixEntry {
            format: FORMAT,
            url: url.to_string(),
            uuid: self.id,
            state_url: state_url.to_string(),
            adopted: self.adopted,
        };
        let key = prefix_key(state.prefix(), url);
        let version = match objects::create(state.store(), &key, &entry).await {
            Ok(Some(version)) => version,
            Ok(None) => {
                self.undo().await;
                return match self.ground.find(opener, options).await? {
                    Some(found) => Ok(found),
                    None => Err(CatalogError::Unknown(key.to_string())),
                };
            }
            // It may be there, and then leads to what was written.
            Err(error) => return Err(error),
        };
        // Once more: whoever made one around or inside meanwhile sees ours, or is seen.
        match refuse_nested(state.as_ref(), url).await {
            Ok(_) => {}
            Err(error @ CatalogError::Refused(_)) => {
                // As long as it leads there, others find the state and may use it.
                if objects::delete(state.store(), &key, &version).await.is_ok_and(|gone| gone) {
                    self.undo().await;
                }
                return Err(error);
            }
            // It is the state of the place, and the next attempt finds it.
            Err(error) => return Err(error),
        }
        self.record().await;
        let Draft { id, adopted, .. } = self;
        tracing::info!(%url, %id, adopted, "new volume state");
        Ok(Incarnation { id, state_url: entry.state_url, adopted })
    }

    /// Takes away what was written. What cannot be taken away is one small object that nothing names.
    pub async fn undo(&self) {
        if self.written {
            let state = &self.ground.state;
            let key = format_key(state.prefix(), self.id);
            drop(state.store().delete(&key, Send::plain(REQUEST)).await);
        }
    }

    async fn record(&self) {
        let Ground { volume, state, .. } = &self.ground;
        for (site, found) in [volume, state].into_iter().zip(&self.findings) {
            if let Some(found) = found {
                stores::record(site.as_ref(), state.as_ref(), found).await;
            }
        }
    }
}

/// Whether one host alone can have a volume whose state is on a store that honours this.
fn is_sound(state: &Capabilities, options: &VolumeOptions) -> bool {
    state.has(Verb::CreateIfAbsent) || options.single_host
}
