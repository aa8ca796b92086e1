//! The bucket: whether it can be used, its clock, what it honours, how fast it is.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};

use super::bench::Times;
use super::{Finding, Progress};
use crate::catalog::{Opener, Site, Stores};
use crate::clock::now;
use crate::config::{BucketUrl, Scheme, VolumeOptions};
use crate::store::{
    Attributes, Capabilities, Known, Properties, PutOutcome, Send, StoreBackend, StoreError, Verb,
};
use crate::telemetry::with_causes;
use crate::types::{KeyPrefix, ObjectKey, VolumeId};

/// What the probe tries, and what is done without it (`docs/STORES.md`).
pub const VERBS: &[(Verb, &str, &str)] = &[
    (
        Verb::CreateIfAbsent,
        "create if absent",
        "needed to share a volume between hosts: the store is refused",
    ),
    (
        Verb::PutIfMatch,
        "replace if unchanged",
        "a file that another tool replaces in the moment of publishing is overwritten",
    ),
    (
        Verb::CompleteConditional,
        "conditional multipart",
        "the same as without \"replace if unchanged\", for large files",
    ),
    (
        Verb::CopyConditional,
        "conditional copy",
        "what is renamed, or gets other attributes, is read and sent again",
    ),
    (
        Verb::DeleteConditional,
        "conditional delete",
        "each object is looked at just before it is deleted",
    ),
    (
        Verb::Copy,
        "copy on the server",
        "what is renamed, or gets other attributes, is read and sent again",
    ),
    (
        Verb::PartCopy,
        "compose on the server",
        "a large file is sent twice: to be in the bucket, and to rest",
    ),
    (
        Verb::Checksum,
        "checksums",
        "what is composed is proven by an MD5, which takes half as much processor time again",
    ),
    (
        Verb::Expiry,
        "expiring requests",
        "after a lost answer a name is left alone for 15 minutes instead of 80 seconds",
    ),
    (
        Verb::ReadAfterWrite,
        "read after write",
        "only stores that show at once what was written make sense",
    ),
    (Verb::DeleteMany, "delete in groups", "each object that is removed is a request of its own"),
    (
        Verb::DeleteManyConditional,
        "conditional delete in groups",
        "where groups compare nothing, only what a listing has just shown is deleted in one",
    ),
];

/// For each request.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Small requests that are measured, one after the other.
const SMALL: usize = 10;
const SMALL_SIZE: usize = 4 << 10;
/// Large ones, side by side.
const LARGE: usize = 4;
const LARGE_SIZE: usize = 8 << 20;
/// A store refuses signatures that are so much off, 15 minutes; long before that a clock is worth a look.
const APART_NOTE: Duration = Duration::from_secs(5);
const APART_BAD: Duration = Duration::from_secs(5 * 60);
/// What every fsync waits for.
const SLOW_PUT: Duration = Duration::from_millis(250);

pub(super) async fn look(
    url: &BucketUrl,
    options: &VolumeOptions,
    state: &Path,
    progress: Progress<'_>,
) -> Vec<Finding> {
    const ABOUT: &str = "bucket";
    let folder = Path::new("/").join(url.prefix.as_str());
    if url.scheme == Scheme::File && !folder.is_dir() {
        let text = format!("{} is no folder", folder.display());
        return vec![Finding::bad(ABOUT, text, "create it first")];
    }
    progress("the bucket");
    // Of what this host knows nothing is believed here, and a finding of a bad day is not kept.
    let site = match Stores::knowing(Known::of_host(state)).open(url, options).await {
        Ok(site) => site,
        Err(error) => return vec![of_error(ABOUT, &error)],
    };
    if let Err(error) = site.check().await {
        return vec![of_error(ABOUT, &error)];
    }
    let mut findings =
        vec![Finding::good(ABOUT, format!("{url} can be listed with these credentials"))];
    findings.push(clock(site.store()).await);
    progress("what the store honours");
    let scratch = site.prefix().join(&format!(".s3vol/probe/{}/", VolumeId::random()));
    match site.probe(&scratch).await {
        Ok(found) => findings.extend(honours(&found)),
        Err(error) => {
            findings.push(of_error("store", &error));
            return findings;
        }
    }
    findings.extend(speed(site.as_ref(), &scratch, progress).await);
    findings
}

/// What is wrong says its error, with the cure.
fn of_error(about: &'static str, error: &StoreError) -> Finding {
    Finding::bad(about, with_causes(error), "see docs/TROUBLESHOOTING.md for this message")
}

async fn clock(store: &dyn StoreBackend) -> Finding {
    const ABOUT: &str = "clock";
    let theirs = match store.now(TIMEOUT).await {
        Ok(theirs) => theirs,
        Err(error) => return of_error(ABOUT, &error),
    };
    let now = now();
    let ours = now.secs.saturating_mul(1000).saturating_add(i64::from(now.nanos) / 1_000_000);
    judge_clock(ours.saturating_sub(theirs.0))
}

/// `ahead`: this host's clock before the store's, milliseconds.
fn judge_clock(ahead: i64) -> Finding {
    const ABOUT: &str = "clock";
    let apart = Duration::from_millis(ahead.unsigned_abs());
    let which = if ahead > 0 { "ahead of" } else { "behind" };
    let text = format!("{:.1} s {which} the store's", apart.as_secs_f64());
    let cure = "let the clock be set by NTP (timedatectl set-ntp true)";
    match apart {
        // A Date has whole seconds.
        apart if apart <= APART_NOTE => Finding::good(ABOUT, text),
        apart if apart <= APART_BAD => Finding::note(ABOUT, text, cure),
        _ => Finding::bad(
            ABOUT,
            format!("{text}: it refuses requests that are 15 minutes off"),
            cure,
        ),
    }
}

fn honours(found: &Capabilities) -> Vec<Finding> {
    const ABOUT: &str = "store";
    let (yes, no): (Vec<_>, Vec<_>) = VERBS.iter().partition(|(verb, ..)| found.has(*verb));
    let names: Vec<&str> = yes.iter().map(|(_, name, _)| *name).collect();
    let mut findings = Vec::new();
    if !names.is_empty() {
        findings.push(Finding::good(ABOUT, format!("honours: {}", names.join(", "))));
    }
    findings.extend(no.iter().map(|(verb, name, cost)| {
        let text = format!("does not honour: {name} ({cost})");
        match verb {
            Verb::CreateIfAbsent | Verb::ReadAfterWrite => Finding::bad(
                ABOUT,
                text,
                "use another store, or a newer version of it; docs/STORES.md has more",
            ),
            _ => Finding::note(
                ABOUT,
                text,
                "a newer version of the store may; docs/STORES.md has more",
            ),
        }
    }));
    findings
}

/// Measures with objects below `scratch`, which are removed again.
async fn speed(site: &dyn Site, scratch: &KeyPrefix, progress: Progress<'_>) -> Vec<Finding> {
    let store = site.store();
    let keys: Vec<ObjectKey> =
        (0..SMALL.max(LARGE)).map(|n| scratch.key(&format!("speed-{n}"))).collect();
    let measured = measure(store, &keys, progress).await;
    progress("cleaning up");
    let gone = stream::iter(&keys).map(|key| store.delete(key, Send::plain(TIMEOUT)));
    let gone: Vec<PutOutcome> = gone.buffer_unordered(keys.len()).collect().await;
    let mut findings = measured.unwrap_or_else(|error| vec![of_error("speed", &error)]);
    for outcome in gone {
        if let PutOutcome::Failed(error) | PutOutcome::Ambiguous(error) = outcome {
            findings.push(of_error("speed", &error));
            break;
        }
    }
    findings
}

async fn measure(
    store: &dyn StoreBackend,
    keys: &[ObjectKey],
    progress: Progress<'_>,
) -> Result<Vec<Finding>, StoreError> {
    let (mut puts, mut gets) = (Times::default(), Times::default());
    for (number, key) in keys.iter().take(SMALL).enumerate() {
        progress(&format!("latency, {} of {SMALL}", number + 1));
        let began = Instant::now();
        put(store, key, Bytes::from(vec![0x5a; SMALL_SIZE])).await?;
        puts.add(began.elapsed());
        let began = Instant::now();
        store.get(key, None, None, TIMEOUT).await?;
        gets.add(began.elapsed());
    }
    let text = format!("4 KiB are written in {puts}, and read in {gets}");
    let latency = match puts.median() > SLOW_PUT {
        false => Finding::good("latency", text),
        true => Finding::note(
            "latency",
            text,
            "a bucket nearer to this host: every fsync of a program waits for one such write",
        ),
    };
    progress("uploading 32 MiB");
    let body = Bytes::from(vec![0x5a; LARGE_SIZE]);
    let began = Instant::now();
    let sent = keys.iter().take(LARGE).map(|key| put(store, key, body.clone()));
    stream::iter(sent).buffer_unordered(LARGE).try_collect::<()>().await?;
    let up = rate(began.elapsed());
    progress("downloading 32 MiB");
    let began = Instant::now();
    let read = keys
        .iter()
        .take(LARGE)
        .map(|key| async move { store.get(key, None, None, TIMEOUT).await.map(|_| ()) });
    stream::iter(read).buffer_unordered(LARGE).try_collect::<()>().await?;
    let down = rate(began.elapsed());
    let text = format!(
        "{up:.1} MB/s up, {down:.1} MB/s down, with {LARGE} requests of 8 MiB side by side"
    );
    Ok(vec![latency, Finding::good("throughput", text)])
}

/// Of all large bodies, megabytes a second.
fn rate(took: Duration) -> f64 {
    (LARGE * LARGE_SIZE) as f64 / 1e6 / took.as_secs_f64().max(1e-6)
}

async fn put(store: &dyn StoreBackend, key: &ObjectKey, body: Bytes) -> Result<(), StoreError> {
    let (none, plain) = (Attributes::new(), Properties::default());
    match store.put(key, body, &none, &plain, Send::plain(TIMEOUT)).await {
        PutOutcome::Failed(error) | PutOutcome::Ambiguous(error) => Err(error),
        PutOutcome::Won(_) | PutOutcome::Lost => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;

    #[test]
    fn clocks_are_judged_by_how_far_apart_they_are() {
        let grade = |ahead: i64| judge_clock(ahead).grade;
        assert_eq!([grade(900), grade(-4_000)], [Grade::Good; 2]);
        assert_eq!([grade(9_000), grade(-200_000)], [Grade::Note; 2]);
        assert_eq!([grade(400_000), grade(i64::MIN)], [Grade::Bad; 2]);
        assert_eq!(judge_clock(-4_000).text, "4.0 s behind the store's");
    }

    #[test]
    fn each_no_tells_what_it_costs() {
        let mut found = Capabilities::default();
        found.0.extend(VERBS.iter().map(|(verb, ..)| *verb));
        assert_eq!(honours(&found).len(), 1);
        found.0.remove(&Verb::Copy);
        found.0.remove(&Verb::CreateIfAbsent);
        let said = honours(&found);
        let grades: Vec<_> = said.iter().map(|finding| finding.grade).collect();
        assert_eq!(grades, [Grade::Good, Grade::Bad, Grade::Note]);
        assert!(said[2].text.contains("read and sent again"), "{said:?}");
        assert_eq!(honours(&Capabilities::default()).len(), VERBS.len());
    }
}
