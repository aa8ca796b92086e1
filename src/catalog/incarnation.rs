//! From a place to the one state it has: found, or made.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::definition::{FORMAT, PrefixEntry, VolumeFormat, format_key, prefix_key, state_folder};
use super::drafts::{Drafts, open_again, withdraw};
use super::ground::Ground;
use super::objects::{self, REQUEST};
use super::overlap::refuse_nested;
use super::{CatalogError, Incarnation, Opener, stores};
use crate::config::VolumeOptions;
use crate::meta::EngineHome;
use crate::store::{Capabilities, Finding, PutOutcome, Send, Verb, both, scratch_of};
use crate::types::VolumeId;

/// Finds the state of `options.url`, or makes it (never for a volume that is only read): checks the bucket, probes it, and writes
/// `format.json` and the by-prefix entry. Refuses a store that would lose data. Errors come within
/// about 10 s a bucket.
///
/// Whether a state that is found is used through this endpoint is for the worker to judge: it reads
/// `format.json` before it does anything, and would do so again.
pub async fn incarnate(
    opener: &dyn Opener,
    options: &VolumeOptions,
) -> Result<Incarnation, CatalogError> {
    match prepare(opener, options, false, None).await? {
        Prepared::Found(led) => Ok(led.to),
        Prepared::Free(draft) => Ok(draft.claim(opener, options).await?.to),
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
    let mut draft = Draft { adopted: true, ..Draft::new(ground, id) };
    let (volume, state) = draft.find_out(options).await?;
    draft.write_format(volume, state, options).await?;
    draft.record().await;
    Ok(Incarnation { id, state_url, adopted: true })
}

/// What a place is.
#[derive(Debug)]
pub(super) enum Prepared {
    Found(Led),
    /// Nobody's. The state is there, and nothing leads to it yet.
    Free(Box<Draft>),
}

/// The state that a place leads to.
#[derive(Debug)]
pub(super) struct Led {
    pub to: Incarnation,
    /// It led there before, so that others may have found it, too.
    pub found: bool,
    /// This host has noted that it begins it. The note has to be ended or left.
    pub noted: bool,
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
    /// An entry that leads to it may be there.
    claimed: bool,
    /// A request may still be under way.
    unsure: bool,
    /// An attempt before this one was cut short.
    again: bool,
    /// Where it is noted.
    noted: Option<Arc<Drafts>>,
    /// What was found out just now, of the volume's store and of the state's.
    findings: [Option<Finding>; 2],
    /// What keys may not do looks like what a store does not do, and other hosts may have others under the name.
    findings_are_shared: bool,
}

/// Looks at the place of a volume and, unless it has a state, writes the first part of one.
///
/// `likely_new`: no state is expected to be found. Then everything is asked at once, and where the store
/// is known `format.json` is written in the same moment: nothing leads to it, and it is deleted again if
/// the place turns out to be taken.
///
/// What is begun is noted in `drafts`, or goes on where this host has begun it before.
pub(super) async fn prepare(
    opener: &dyn Opener,
    options: &VolumeOptions,
    likely_new: bool,
    drafts: Option<&Arc<Drafts>>,
) -> Result<Prepared, CatalogError> {
    let ground = Ground::open(opener, options).await?;
    let mut checked = None;
    if !likely_new || options.readonly {
        let (page, entry) = both(ground.check(), ground.entry()).await?;
        checked = Some(page);
        if let Some(found) = entry {
            // Who mounts it at once is told by the worker.
            if drafts.is_some() {
                ground.check_endpoint(opener, options, &found).await?;
            }
            return Ok(Prepared::Found(led_to(&ground, found.into(), drafts).await?));
        }
        if options.readonly {
            return Err(CatalogError::Refused(format!(
                "there is no volume at {} yet that could be followed: mount it once without readonly, \
                 on any host, with credentials that may write",
                ground.url
            )));
        }
    }
    let mut draft = match drafts {
        None => Draft::new(ground, VolumeId::random()),
        Some(drafts) => {
            let (id, again) = drafts.begin(options).await?;
            let noted = Some(Arc::clone(drafts));
            Draft { noted, again, ..Draft::new(ground, id) }
        }
    };
    let ahead = draft
        .ground
        .known()
        .filter(|(_, state)| is_sound(state, options))
        .filter(|_| likely_new && !draft.ground.state_is_inside());
    draft.written = ahead.is_some();
    let settled = AtomicBool::new(!draft.written);
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
                Some((volume, state)) => {
                    draft.write_format(volume, state, options).await?;
                    settled.store(true, Ordering::Relaxed);
                    Ok::<(), CatalogError>(())
                }
                None => Ok(()),
            }
        };
        let (page, taken, written) = tokio::join!(checking, ground.taken(), writing);
        let page = page?;
        if taken? && let Some(found) = ground.find(opener, options).await? {
            return Ok(Err(found));
        }
        let mut ours = drafts.map(|drafts| drafts.of(options)).unwrap_or_default();
        ours.push(draft.id);
        let adopted = ground.refuse_foreign_state(&page, &ours).await?;
        written?;
        Ok(Ok(adopted))
    }
    .await;
    draft.unsure = !settled.into_inner();
    match looked {
        Ok(Ok(adopted)) => draft.adopted = adopted,
        // The notes here are older than the bucket.
        Ok(Err(found)) if found.id == draft.id => {
            draft.claims().await.inspect_err(|_| draft.leave())?;
            draft.leave();
            return Ok(Prepared::Found(led_to(&draft.ground, found, drafts).await?));
        }
        Ok(Err(found)) => {
            draft.undo().await;
            return Ok(Prepared::Found(led_to(&draft.ground, found, drafts).await?));
        }
        Err(error) => {
            draft.fails(&error).await;
            return Err(error);
        }
    }
    if !draft.written {
        draft.unsure = true;
        if let Err(error) = draft.find_out_and_write(options).await {
            draft.fails(&error).await;
            return Err(error);
        }
        // A probe may go on without an answer, and what it sent may arrive when all is taken away again.
        draft.unsure = draft.findings.iter().any(Option::is_some);
    }
    Ok(Prepared::Free(Box::new(draft)))
}

/// The place has a state. Where this host began it, that goes on, also if it was about to be taken away.
async fn led_to(
    ground: &Ground,
    to: Incarnation,
    drafts: Option<&Arc<Drafts>>,
) -> Result<Led, CatalogError> {
    let noted = match drafts.filter(|drafts| drafts.resume(to.id)) {
        Some(drafts) => {
            open_again(ground, to.id).await.inspect_err(|_| drafts.leave(to.id))?;
            true
        }
        None => false,
    };
    Ok(Led { to, found: true, noted })
}

impl Draft {
    fn new(ground: Ground, id: VolumeId) -> Self {
        Draft {
            ground,
            id,
            adopted: false,
            written: false,
            claimed: false,
            unsure: false,
            again: false,
            noted: None,
            findings: [None, None],
            findings_are_shared: true,
        }
    }

    async fn find_out_and_write(&mut self, options: &VolumeOptions) -> Result<(), CatalogError> {
        let (volume, state) = self.find_out(options).await?;
        self.written = true;
        self.write_format(volume, state, options).await
    }

    /// What the two stores honour: known, recorded, or probed.
    async fn find_out(
        &mut self,
        options: &VolumeOptions,
    ) -> Result<(Capabilities, Capabilities), CatalogError> {
        self.findings_are_shared = options.credentials.is_none();
        let Ground { volume, state, state_url, url, .. } = &self.ground;
        let scratch = scratch_of(&state_folder(state.prefix(), self.id));
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
            withdrawn: false,
            replaced_by: None,
        };
        let key = format_key(state.prefix(), self.id);
        match objects::create_unique(state.store(), &key, &record).await? {
            Some(_) => Ok(()),
            // As it was begun before, by what was known of the stores then.
            None if self.again => Ok(()),
            None => Err(CatalogError::Unknown(key.to_string())),
        }
    }

    /// Makes it the state of the place, unless somebody else was first: theirs counts then.
    pub async fn claim(
        mut self,
        opener: &dyn Opener,
        options: &VolumeOptions,
    ) -> Result<Led, CatalogError> {
        if let Err(error) = self.claims().await {
            self.leave();
            return Err(error);
        }
        self.claimed = true;
        let Ground { url, state_url, state, .. } = &self.ground;
        let entry = PrefixEntry {
            format: FORMAT,
            url: url.to_string(),
            uuid: self.id,
            state_url: state_url.to_string(),
            adopted: self.adopted,
        };
        let key = prefix_key(state.prefix(), url);
        match objects::create(state.store(), &key, &entry).await {
            Ok(Some(_)) => {}
            Ok(None) => {
                self.undo().await;
                return match self.ground.find(opener, options).await? {
                    Some(found) => led_to(&self.ground, found, self.noted.as_ref()).await,
                    None => Err(CatalogError::Unknown(key.to_string())),
                };
            }
            // It may be there, and then leads to what was written.
            Err(error) => {
                self.leave();
                return Err(error);
            }
        }
        // Once more: whoever made one around or inside meanwhile sees ours, or is seen.
        match refuse_nested(state.as_ref(), url).await {
            Ok(_) => {}
            Err(error @ CatalogError::Refused(_)) => {
                self.undo().await;
                return Err(error);
            }
            // It is the state of the place, and the next attempt finds it.
            Err(error) => {
                self.leave();
                return Err(error);
            }
        }
        self.record().await;
        let (id, adopted) = (self.id, self.adopted);
        tracing::info!(%url, %id, adopted, "new volume state");
        let to = Incarnation { id, state_url: entry.state_url, adopted };
        Ok(Led { to, found: false, noted: self.noted.is_some() })
    }

    /// Nothing comes of this attempt. The next one goes on with what may be there, unless the place was refused.
    async fn fails(&self, error: &CatalogError) {
        match (self.again || self.unsure) && !matches!(error, CatalogError::Refused(_)) {
            true => self.leave(),
            false => self.undo().await,
        }
    }

    async fn claims(&self) -> Result<(), CatalogError> {
        match &self.noted {
            Some(notes) => notes.claims(self.id).await,
            None => Ok(()),
        }
    }

    /// Takes away what was written. What cannot be taken away now goes later, where it is noted.
    pub async fn undo(&self) {
        let undone = match (self.claimed, self.written || self.again) {
            // As long as it leads there, others find the state and may use it.
            (true, _) => match &self.noted {
                Some(notes) => notes.withdraw(&self.ground, self.id).await,
                None => withdraw(&self.ground, self.id, None).await,
            },
            (false, true) => self.delete_format().await,
            (false, false) => Ok(()),
        };
        match (&self.noted, undone) {
            (Some(notes), Ok(())) if !self.unsure => notes.end(self.id).await,
            (_, Ok(())) => self.leave(),
            (_, Err(error)) => {
                tracing::debug!(id = %self.id, %error, "what was written is not undone");
                self.leave();
            }
        }
    }

    async fn delete_format(&self) -> Result<(), CatalogError> {
        // Should this request be late, it must not meet what the next attempt has written.
        if let Some(notes) = &self.noted {
            notes.leaves(self.id).await?;
        }
        let state = &self.ground.state;
        let key = format_key(state.prefix(), self.id);
        match state.store().delete(&key, Send::plain(REQUEST)).await {
            PutOutcome::Won(_) | PutOutcome::Lost => Ok(()),
            PutOutcome::Failed(error) | PutOutcome::Ambiguous(error) => Err(error.into()),
        }
    }

    fn leave(&self) {
        if let Some(notes) = &self.noted {
            notes.leave(self.id);
        }
    }

    async fn record(&self) {
        if !self.findings_are_shared {
            return;
        }
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
