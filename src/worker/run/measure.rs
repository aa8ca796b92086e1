//! What a volume's process says of itself in numbers.
//!
//! Nothing here asks anything of the bucket, and nothing waits long: who gathers from many processes must not wait for
//! one of them.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::control::{Control, Served};
use super::followed::Followed;
use crate::clock::boottime;
use crate::lease::LeaseState;
use crate::meta::records::SuperRec;
use crate::metrics::{Group, Prices, Requests, Sample, names};
use crate::store::{RequestCounts, StoreBackend};
use crate::worker::life::Shared;
use crate::worker::recovery::set_aside_in;
use crate::worker::{VolumeState, started};

/// What has to be read from the engine is left out after this long.
const PATIENCE: Duration = Duration::from_secs(1);

const LEASE_STATES: [&str; 4] = ["held", "yielding", "released", "none"];

/// Prices of a store, with what was given in their place.
fn prices(endpoint: &str) -> Prices {
    static GIVEN: OnceLock<Option<String>> = OnceLock::new();
    let given = GIVEN.get_or_init(|| {
        let given = std::env::var("S3VOL_PRICES").ok().filter(|text| !text.trim().is_empty())?;
        Prices::given(&given)
            .inspect_err(|problem| tracing::warn!(%problem, "S3VOL_PRICES is not used"))
            .ok()
    });
    let listed = Prices::listed(endpoint);
    given.as_ref().and_then(|given| listed.with(given).ok()).unwrap_or(listed)
}

impl Control {
    /// Of the volume.
    pub(super) async fn group(&self) -> Group {
        Group { volume: Some(self.spec.name.clone()), samples: self.samples().await }
    }

    async fn samples(&self) -> Vec<Sample> {
        let mut all = vec![
            Sample::number(&names::WORKER_START, started()),
            Sample::count(&names::MEMORY, crate::sys::resident_memory().unwrap_or(0)),
        ];
        let aside = set_aside_in(&self.spec.state_dir).map_or(0, |folders| folders.len() as u64);
        all.push(Sample::count(&names::RECOVERED, aside));
        match self.serving() {
            Some(Served::Writing(shared)) => of_written(&shared, &mut all).await,
            Some(Served::Following(followed)) => of_followed(&followed, &mut all).await,
            None => of_state(self.state_unserved(), &mut all),
        }
        all
    }

    /// As a scrape of this process alone gets it.
    pub(super) async fn text(&self) -> String {
        let own = Group { volume: None, samples: of_process() };
        let mut group = self.group().await;
        group.samples.push(Sample::count(&names::UP, 1));
        crate::metrics::text(vec![own, group])
    }
}

/// What every process says of itself.
pub fn of_process() -> Vec<Sample> {
    vec![
        Sample::count(&names::BUILD, 1).with("version", env!("CARGO_PKG_VERSION")),
        Sample::number(&names::START, started()),
    ]
}

fn of_state(state: VolumeState, all: &mut Vec<Sample>) {
    let states = VolumeState::ALL.map(VolumeState::name);
    all.extend(Sample::one_of(&names::STATE, "state", &states, state.name()));
}

fn since(at: Option<Duration>) -> f64 {
    at.map_or(0.0, |at| boottime().saturating_sub(at).as_secs_f64())
}

async fn of_written(shared: &Shared, all: &mut Vec<Sample>) {
    let (volume, settler) = (&shared.volume, &shared.settler);
    of_state(shared.state(), all);
    let lease = shared.keeper.status().borrow().clone();
    let state = match lease.state {
        LeaseState::Held => "held",
        LeaseState::Yielding => "yielding",
        LeaseState::Released => "released",
    };
    all.extend(Sample::one_of(&names::LEASE_STATE, "state", &LEASE_STATES, state));
    let left = shared.keeper.authority().map_or(Duration::ZERO, |authority| authority.left());
    all.push(Sample::number(&names::LEASE_LEFT, left.as_secs_f64()));
    let counters = volume.meta.superblock();
    of_content(&counters, &*volume.store, all);
    all.push(Sample::count(&names::UNCOMMITTED, volume.uncommitted_bytes()));
    all.push(Sample::number(&names::UNCOMMITTED_AGE, since(volume.uncommitted_since())));
    let settling = settler.status();
    let waiting = match tokio::time::timeout(PATIENCE, settler.waiting()).await {
        Ok(Ok(waiting)) => waiting,
        // The number of files is known all the same. No age would say that nothing waits, just when much does.
        Ok(Err(_)) | Err(_) if settling.unsettled > 0 => settler.waited(),
        Ok(Err(_)) | Err(_) => Default::default(),
    };
    all.push(Sample::count(&names::UNSETTLED_FILES, settling.unsettled));
    all.push(Sample::count(&names::UNSETTLED, waiting.bytes));
    all.push(Sample::number(&names::UNSETTLED_AGE, since(waiting.since)));
    all.push(Sample::count(&names::OPEN_REQUESTS, settling.open_intents));
    all.push(Sample::count(&names::CONFLICTS, settling.conflicts));
    volume.meters.samples(all);
    of_cache(volume.cache_size(), all);
    let stores = match volume.same_bucket {
        true => vec![&volume.store],
        false => vec![&volume.store, &volume.state_store],
    };
    of_stores(&stores, all);
}

async fn of_followed(followed: &Followed, all: &mut Vec<Sample>) {
    let fs = followed.fs();
    of_state(followed.state(), all);
    all.extend(Sample::one_of(&names::LEASE_STATE, "state", &LEASE_STATES, "none"));
    if let Ok(Some(counters)) = tokio::time::timeout(PATIENCE, fs.counters()).await {
        of_content(&counters, &**fs.stores()[0], all);
    }
    fs.meters.samples(all);
    of_cache(fs.cache_size(), all);
    let [objects, state] = fs.stores();
    // Both are one where they lie in one bucket through one endpoint.
    let same = match (objects.measured(), state.measured()) {
        (Some(objects), Some(state)) => Arc::ptr_eq(&objects, &state),
        _ => false,
    };
    let stores = if same { vec![objects] } else { vec![objects, state] };
    of_stores(&stores, all);
}

fn of_content(counters: &SuperRec, store: &dyn StoreBackend, all: &mut Vec<Sample>) {
    all.push(Sample::count(&names::SIZE, counters.bytes));
    all.push(Sample::count(&names::FILES, counters.inodes.saturating_sub(1)));
    let cost = prices(store.endpoint()).of_keeping(counters.bytes);
    all.push(Sample::number(&names::KEEPING_COST, cost));
}

fn of_cache((bytes, limit): (u64, u64), all: &mut Vec<Sample>) {
    all.push(Sample::count(&names::CACHE_SIZE, bytes));
    all.push(Sample::count(&names::CACHE_LIMIT, limit));
}

/// Of one store or two, as one.
fn of_stores(stores: &[&Arc<dyn StoreBackend>], all: &mut Vec<Sample>) {
    let measured: Vec<Arc<Requests>> = stores.iter().filter_map(|s| s.measured()).collect();
    if let Some((first, others)) = measured.split_first() {
        let others: Vec<&Requests> = others.iter().map(|requests| &**requests).collect();
        first.samples(&others, all);
    }
    let (mut counts, mut requests, mut reading) = (RequestCounts::default(), 0.0, 0.0);
    for store in stores {
        let (sent, prices) = (store.requests(), prices(store.endpoint()));
        requests += prices.of_requests(|kind| sent.of(kind));
        reading += prices.of_reading(sent.bytes_down);
        counts = counts + sent;
    }
    all.push(Sample::count(&names::STORE_SENT, counts.bytes_up));
    all.push(Sample::count(&names::STORE_RECEIVED, counts.bytes_down));
    all.push(Sample::number(&names::COST, requests).with("part", "requests"));
    all.push(Sample::number(&names::COST, reading).with("part", "reading"));
}
