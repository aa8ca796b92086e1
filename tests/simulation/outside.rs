//! Somebody with an S3 tool: objects of his own in `x/`, and names in `y/` that he and the volume use at once.
//!
//! Each name in `y/` is written once by the volume and put once by the tool. Whatever the order, neither is lost:
//! the tool's bytes are there in the end, and the volume's, if they were synced, unless the tool has replaced the
//! object that held them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use s3vol::fs::{Fs, FsError};
use s3vol::store::{Attributes, Properties, Verb};
use s3vol::types::{Caller, FileName, Ino};

use crate::host::PREFIX;
use crate::model::Survey;
use crate::random::Random;
use crate::seam::{MILLI, SECOND, Time};
use crate::sim::sim;
use crate::tell;

/// The directories.
pub const THEIRS: &str = "x";
pub const SHARED: &str = "y";

/// What the tool did, and what the volume did beside it.
#[derive(Debug, Default)]
pub struct Outside {
    /// All that should lie in `x/`.
    theirs: BTreeMap<String, Bytes>,
    shared: BTreeMap<String, Pair>,
    /// When somebody looked last at an object of them.
    looked: BTreeMap<String, Time>,
}

#[derive(Debug, Default)]
struct Pair {
    /// The volume's bytes, once they are synced.
    ours: Option<Bytes>,
    theirs: Option<Bytes>,
    /// When the tool put it.
    put_at: Time,
    /// The volume has replaced it in that very moment, in a store that overlooks conditions.
    overwritten: bool,
    /// The tool has replaced an object that held the volume's bytes.
    replaced: bool,
    /// The volume has removed the name, or is about to.
    removed: bool,
}

/// When the tool puts its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// At any time.
    Whenever,
    /// Just before the volume's object arrives.
    Published,
    /// Just before the volume's deletion of its object arrives.
    Deleted,
}

fn put(key: &str, bytes: &Bytes) {
    sim().bucket.put(key, bytes.clone(), Attributes::new(), Properties::default());
}

fn some(random: &Random) -> Bytes {
    let mut bytes = vec![0; random.between(8, 2000) as usize];
    random.fill(&mut bytes);
    bytes.into()
}

fn shared(key: &str) -> Option<&str> {
    key.strip_prefix(PREFIX)?.strip_prefix(SHARED)?.strip_prefix('/')
}

/// The volume looks at an object.
pub fn looks(key: &str) {
    if let Some(name) = shared(key) {
        sim().outside.borrow_mut().looked.insert(name.to_owned(), sim().now());
    }
}

/// When it did last.
pub fn looked(key: &str) -> Time {
    let outside = sim().outside.borrow();
    shared(key).and_then(|name| outside.looked.get(name).copied()).unwrap_or(0)
}

/// The volume's object, sent after a look at that time, replaces whatever lies there. What the tool has put since
/// nobody could know of.
pub fn overwrites(key: &str, looked: Time) {
    let mut outside = sim().outside.borrow_mut();
    let Some(pair) = shared(key).and_then(|name| outside.shared.get_mut(name)) else { return };
    if pair.theirs.is_some() && pair.put_at >= looked {
        tell!("outside: {key} is overwritten");
        pair.overwritten = true;
    }
}

/// The tool does something in `x/` within the next minute.
pub fn visits(random: &Random) {
    let name = format!("f{}", random.below(3));
    let bytes = (!random.chance(300)).then(|| some(random));
    sim().at(random.below(60 * SECOND), move || {
        let key = format!("{PREFIX}{THEIRS}/{name}");
        tell!("outside: {} {key}", if bytes.is_some() { "put" } else { "delete" });
        let mut outside = sim().outside.borrow_mut();
        match bytes {
            Some(bytes) => {
                put(&key, &bytes);
                outside.theirs.insert(name, bytes);
            }
            None => {
                sim().bucket.objects.borrow_mut().remove(&key);
                outside.theirs.remove(&name);
            }
        }
    });
}

/// The volume and the tool write the same name, at about the same time.
pub async fn meet(fs: Arc<Fs>, name: String, random: Random) {
    let (ours, theirs) = (some(&random), some(&random));
    let (key, at) = (format!("{PREFIX}{SHARED}/{name}"), name.clone());
    let (there, mine) = (theirs.clone(), ours.clone());
    sim().outside.borrow_mut().shared.insert(name.clone(), Pair::default());
    let sure = sim().bucket.honours(Verb::DeleteConditional);
    let when = match random.below(10) {
        0..4 => When::Whenever,
        4..7 => When::Published,
        // Elsewhere the object is looked at before, and what is put after that look is deleted.
        _ if sure => When::Deleted,
        _ => When::Whenever,
    };
    let (aim, puts) = (key.clone(), move || {
        let was = sim().bucket.objects.borrow().get(&key).map(|object| object.body.clone());
        tell!(
            "outside: put {key}, where {} was",
            if was.is_some() { "something" } else { "nothing" }
        );
        put(&key, &there);
        if let Some(pair) = sim().outside.borrow_mut().shared.get_mut(&at) {
            pair.replaced |= was.as_ref() == Some(&mine);
            pair.theirs = Some(there);
            pair.put_at = sim().now();
        }
    });
    match when {
        When::Whenever => sim().at(random.below(6 * SECOND), puts),
        When::Published => sim().bucket.aim("PUT", &aim, puts),
        When::Deleted => sim().bucket.aim("DELETE", &aim, puts),
    }
    tokio::time::sleep(Duration::from_nanos(random.below(4000) * MILLI)).await;
    let written = write(&fs, &name, &ours).await;
    if sim().is_dead() {
        std::future::pending::<()>().await;
    }
    match written {
        Ok(()) => {
            tell!("{SHARED}/{name} is synced");
            if let Some(pair) = sim().outside.borrow_mut().shared.get_mut(&name) {
                pair.ours = Some(ours);
            }
        }
        Err(error) => tell!("{SHARED}/{name}: {error}"),
    }
    if when == When::Deleted {
        // It comes to rest.
        tokio::time::sleep(Duration::from_nanos(random.below(20_000) * MILLI)).await;
        if let Some(pair) = sim().outside.borrow_mut().shared.get_mut(&name) {
            pair.removed = true;
        }
        let removed = remove(&fs, &name).await;
        if sim().is_dead() {
            std::future::pending::<()>().await;
        }
        tell!("{SHARED}/{name} is removed: {removed:?}");
    }
}

async fn remove(fs: &Fs, text: &str) -> Result<(), FsError> {
    let name = |text: &str| FileName::new(text).expect("a name");
    let dir = fs.lookup(Ino::ROOT, name(SHARED)).await?;
    fs.unlink(Caller::ROOT, dir.ino, name(text)).await
}

async fn write(fs: &Fs, text: &str, bytes: &Bytes) -> Result<(), FsError> {
    let name = |text: &str| FileName::new(text).expect("a name");
    let dir = match fs.lookup(Ino::ROOT, name(SHARED)).await {
        Err(FsError::NotFound) => fs.mkdir(Caller::ROOT, Ino::ROOT, name(SHARED), 0o755).await?,
        found => found?,
    };
    let made = fs.create(Caller::ROOT, dir.ino, name(text), 0o644, libc::O_RDWR).await?;
    let (ino, fh) = (made.0.ino, made.1.fh);
    let synced = async {
        fs.write(ino, fh, 0, bytes.clone(), false).await?;
        fs.fsync(ino, false).await.map(drop)
    }
    .await;
    fs.release(ino, fh).await?;
    synced
}

/// Whether the volume shows in the end what the tool did. `None`: it shows no such directory.
pub fn check(theirs: Option<&Survey>, shared: Option<&Survey>) -> Result<(), String> {
    let outside = sim().outside.borrow();
    let none = Survey::new();
    let theirs = theirs.unwrap_or(&none);
    for (name, bytes) in &outside.theirs {
        match theirs.get(name) {
            Some(seen) if seen.bytes == *bytes => {}
            Some(_) => return Err(format!("{THEIRS}/{name} does not show what the tool put")),
            None => return Err(format!("{THEIRS}/{name} is not shown")),
        }
    }
    if let Some(name) = theirs.keys().find(|name| !outside.theirs.contains_key(*name)) {
        return Err(format!("{THEIRS}/{name} is shown, and not there"));
    }
    let shared = shared.unwrap_or(&none);
    let has = |bytes: &Option<Bytes>| {
        bytes.as_ref().is_none_or(|bytes| shared.values().any(|seen| seen.bytes == *bytes))
    };
    for (name, pair) in &outside.shared {
        if !pair.overwritten && !has(&pair.theirs) {
            return Err(format!("{SHARED}/{name}: what the tool put is lost"));
        }
        if !pair.replaced && !pair.removed && !has(&pair.ours) {
            return Err(format!("{SHARED}/{name}: what the volume has synced is lost"));
        }
    }
    let objects = sim().bucket.objects.borrow();
    for (name, bytes) in &outside.theirs {
        let object = objects.get(&format!("{PREFIX}{THEIRS}/{name}"));
        if object.is_none_or(|object| object.body != *bytes || !object.attributes.is_empty()) {
            return Err(format!("the object of {THEIRS}/{name} is not as the tool put it"));
        }
    }
    Ok(())
}
