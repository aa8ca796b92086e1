//! Volumes by name: hosts make, use, remove, bring back and delete them through the real catalog, at once, and die
//! meanwhile.
//!
//! In the end each name leads to a volume, each volume has a name, nothing is left of what was removed, and nothing
//! is lost of what was not, or was used since.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use parking_lot::Mutex;
use s3vol::catalog::{Catalog, CatalogError, Definition, PrefixEntry, VolumeFormat};
use s3vol::config::PluginConfig;
use s3vol::fs::{Fs, FsError};
use s3vol::store::{Attributes, Properties, Store};
use s3vol::types::{ATTR_VOLUME, Caller, FileName, Ino, VolumeId, VolumeName};
use s3vol::worker::{Bare, EnginePurge, Successor, WorkerError, WorkerSpec};

use crate::host::{self, Host, PortOpener};
use crate::port::{BUCKET, Port};
use crate::random::Random;
use crate::schedule::{Kind, Plan};
use crate::seam::{MILLI, SECOND, Time};
use crate::sim::{Process, sim};
use crate::tell;

const HOSTS: usize = 3;
/// Where the catalog is, and where volumes are unless they say something else.
const HOME: &str = "home";
/// A request may arrive so long after whoever sent it has died.
const LATE: Time = 300 * SECOND;
/// The names, and the places of some.
const NAMES: &[(&str, &[&str])] = &[
    ("a", &[""]),
    ("b", &["", "home/b"]),
    ("c", &["home/a/in", "else"]),
    ("d", &["else/in", "home"]),
];

/// What is known of one volume.
#[derive(Debug, Default)]
struct Known {
    name: String,
    /// What was synced there.
    files: BTreeMap<String, Bytes>,
    /// When a creation began that was answered with it, and when something was synced there last.
    wanted: Option<Time>,
    /// After this nothing can bring it back that began before.
    over: Time,
    /// Uses that have not ended well, and until when they may show.
    uses: BTreeMap<String, Time>,
    /// When its last removal began that was answered, and after when no removal of it can count any more.
    removed: Option<Time>,
    safe: Option<Time>,
}

impl Known {
    fn is_wanted(&mut self, at: Time, over: Time) {
        self.wanted = self.wanted.max(Some(at));
        self.over = self.over.max(over);
    }

    /// Whether it must be there in the end.
    fn stays(&self) -> bool {
        self.wanted > self.safe
    }

    /// Whether nothing of it may be there in the end.
    fn goes(&self) -> bool {
        let over = self.uses.values().copied().max().max(Some(self.over));
        self.removed > over
    }
}

#[derive(Debug, Default)]
struct Ledger {
    volumes: BTreeMap<VolumeId, Known>,
    /// What other tools put.
    foreign: BTreeMap<String, Bytes>,
    /// Creations of a name that may still bring something back, until then.
    open: BTreeMap<String, Time>,
    removals: Vec<Removal>,
}

/// A removal that ended, and after when it cannot count any more.
#[derive(Debug)]
struct Removal {
    name: String,
    ended: Time,
    safe: Time,
}

impl Ledger {
    /// What is known of this volume. If it was not known yet, removals count that ended after `began`, when it was not
    /// there or nobody had been told.
    fn known(&mut self, id: VolumeId, name: &str, began: Time) -> &mut Known {
        let removals = &self.removals;
        self.volumes.entry(id).or_insert_with(|| {
            let met = removals.iter().filter(|r| r.name == name && r.ended >= began);
            let safe = met.map(|removal| removal.safe).max();
            Known { name: name.to_owned(), safe, ..Known::default() }
        })
    }
}

/// What a host's driver has.
struct Driver {
    catalog: Catalog,
    purge: EnginePurge,
}

struct Agent {
    host: Host,
    plan: Plan,
    random: Random,
    grace: u64,
    driver: Option<(Arc<Process>, Arc<Driver>)>,
    ledger: Arc<Mutex<Ledger>>,
    files: u32,
}

pub async fn run(plan: Plan, dir: PathBuf) -> Result<(), String> {
    let random = Random::new(plan.seed, 5);
    sim().bucket.latency.set(*random.of(&[MILLI, 20 * MILLI, 200 * MILLI, 700 * MILLI]));
    let grace = *random.of(&[0, 8, 20, 400]);
    let mut rates = plan.rates(&random);
    if grace < 300 {
        // Elsewhere a day is between the last request to a volume and its deletion.
        (rates.late, rates.slow) = (0, 0);
    }
    tell!("a grace of {grace} s, {rates:?}");
    *sim().bucket.rates.borrow_mut() = rates;
    let ledger: Arc<Mutex<Ledger>> = Arc::default();
    let agent = |number: usize| Agent {
        host: Host::new(&dir, number),
        plan: plan.clone(),
        random: Random::new(plan.seed, 600 + number as u64),
        grace,
        driver: None,
        ledger: Arc::clone(&ledger),
        files: 0,
    };
    let mut agents: Vec<Agent> = (0..HOSTS).map(agent).collect();
    for agent in &mut agents {
        if plan.has(Kind::Clocks) && random.chance(200) {
            let day = 24 * 3600 * SECOND;
            agent.host.ahead = random.below(4 * day) as i64 - 2 * day as i64;
        }
    }
    let ops = plan.ops + plan.rounds;
    let worked = join_all(agents.iter_mut().map(|agent| agent.work(ops))).await;
    worked.into_iter().collect::<Result<(), String>>()?;
    tell!("all is well from now on");
    sim().stay_well();
    for agent in &mut agents {
        agent.ends();
    }
    settle(&mut agents).await?;
    Verdict::new(&ledger)?.judge()?;
    let stays: Vec<(VolumeId, Definition)> = Verdict::new(&ledger)?.definitions;
    let mut last = agent(HOSTS);
    for (id, definition) in stays {
        let files = ledger.lock().volumes.get(&id).map(|known| known.files.clone());
        last.find(&definition, files.unwrap_or_default()).await?;
    }
    Ok(())
}

/// Everything that was removed goes, and what was begun and not ended.
async fn settle(agents: &mut [Agent]) -> Result<(), String> {
    for round in 0..60 {
        tokio::time::sleep(Duration::from_secs(60)).await;
        for agent in agents.iter_mut() {
            agent.sweep(true).await;
        }
        let removing = records::<Definition>("/.s3vol/volumes/")?;
        if round > 30 && !removing.iter().any(|(_, definition)| definition.removing.is_some()) {
            return Ok(());
        }
    }
    Err("a removed volume is not deleted for an hour".to_owned())
}

impl Agent {
    async fn work(&mut self, ops: u64) -> Result<(), String> {
        for _ in 0..ops {
            let pause = match self.random.below(10) {
                0..6 => self.random.below(3 * SECOND),
                6..9 => self.random.below(20 * SECOND),
                _ => self.random.below(200 * SECOND),
            };
            tokio::time::sleep(Duration::from_nanos(pause)).await;
            self.may_die().await;
            let (name, places) = *self.random.of(NAMES);
            match self.random.below(100) {
                0..30 => {
                    let place: &str = self.random.of::<&str>(places);
                    self.create(name, place).await;
                }
                30..55 => self.use_it(name).await,
                55..75 => self.remove(name).await,
                75..90 => self.sweep(self.random.chance(500)).await,
                90..97 => self.aim(name),
                _ => self.put_foreign(),
            }
        }
        Ok(())
    }

    /// The driver, which may have to be started.
    async fn driver(&mut self) -> Option<(Arc<Process>, Arc<Driver>)> {
        if let Some((process, driver)) = self.driver.take().filter(|(p, _)| !p.is_dead()) {
            self.driver = Some((Arc::clone(&process), Arc::clone(&driver)));
            return self.driver.clone();
        }
        let process = self.host.process();
        let (number, known, root) =
            (self.host.number, self.host.known(), self.host.root().to_owned());
        let env = BTreeMap::from([
            ("S3VOL_URL".to_owned(), format!("s3://{BUCKET}/{HOME}")),
            ("S3VOL_STATE".to_owned(), root.display().to_string()),
            ("S3VOL_GRACE".to_owned(), format!("{}s", self.grace)),
        ]);
        let started = process.run(async move {
            let config = PluginConfig::parse(&env).expect("settings");
            let store = Store::stand_in(Port::new(number), &host::location(), &known);
            let opener = Arc::new(PortOpener { host: number, known });
            let catalog = Catalog::open(&config, opener, format!("host{number}")).await;
            let purge = EnginePurge::over(store).with_local(root.join("volumes"));
            catalog.map(|catalog| Arc::new(Driver { catalog, purge }))
        });
        match started.await? {
            Ok(driver) => {
                self.driver = Some((process, driver));
                self.driver.clone()
            }
            Err(error) => {
                tell!("{} does not start: {error}", process.name);
                None
            }
        }
    }

    /// The driver is killed somewhere.
    async fn may_die(&mut self) {
        if !self.plan.has(Kind::Kill) || !self.random.chance(150) {
            return;
        }
        let Some((process, _)) = self.driver().await else { return };
        match self.random.below(3) {
            0 => {
                let point = *self.random.of(s3vol::fault::points::ALL);
                process.machine.dies_there.set(Some((point, self.random.below(3))));
            }
            1 => {
                let at = process.machine.changes.get() + self.random.below(30);
                process.machine.dies_at.set(Some(at));
            }
            _ => {
                let dies = Arc::clone(&process);
                sim().at(self.random.below(5 * SECOND), move || sim().kill(&dies));
            }
        }
    }

    fn ends(&mut self) {
        if let Some((process, _)) = self.driver.take() {
            sim().kill(&process);
        }
    }

    async fn create(&mut self, name: &str, place: &str) {
        let Some((process, driver)) = self.driver().await else { return };
        let (host, began) = (self.host.number, sim().now());
        tell!("host{host}: create {name} {place}");
        let mut given = BTreeMap::new();
        if !place.is_empty() {
            given.insert("url".to_owned(), format!("s3://{BUCKET}/{place}"));
        }
        let volume = volume(name);
        let made = process.run(async move { driver.catalog.create(&volume, &given).await }).await;
        let mut ledger = self.ledger.lock();
        let over = match &made {
            Some(Ok(_)) => sim().now(),
            _ => sim().now() + LATE,
        };
        let open = ledger.open.entry(name.to_owned()).or_default();
        *open = (*open).max(over);
        match made {
            Some(Ok(made)) => {
                tell!("host{host}: {name} is {}", made.uuid);
                ledger.known(made.uuid, name, began).is_wanted(began, over);
            }
            Some(Err(error)) => tell!("host{host}: {name}: {error}"),
            None => tell!("host{host}: {name}: died"),
        }
    }

    async fn remove(&mut self, name: &str) {
        let Some((process, driver)) = self.driver().await else { return };
        let (host, began) = (self.host.number, sim().now());
        tell!("host{host}: remove {name}");
        let volume = volume(name);
        let removed =
            process.run(async move { driver.catalog.remove(&volume, &driver.purge).await }).await;
        let now = sim().now();
        let mut ledger = self.ledger.lock();
        let safe = match removed {
            Some(Ok(())) => Some(now),
            Some(Err(CatalogError::Refused(_))) => None,
            _ => Some(now + LATE),
        };
        if let Some(safe) = safe {
            // What may still be removed may be a volume of which nobody has been told.
            if let Some(there) = defined(name) {
                ledger.known(there.uuid, name, now);
            }
            for known in ledger.volumes.values_mut().filter(|known| known.name == name) {
                if matches!(removed, Some(Ok(()))) {
                    known.removed = Some(began);
                }
                known.safe = known.safe.max(Some(safe));
            }
            ledger.removals.push(Removal { name: name.to_owned(), ended: now, safe });
        }
        match removed {
            Some(Ok(())) => tell!("host{host}: {name} is removed"),
            Some(Err(error)) => tell!("host{host}: {name}: {error}"),
            None => tell!("host{host}: {name}: died"),
        }
    }

    async fn sweep(&mut self, refresh: bool) {
        let Some((process, driver)) = self.driver().await else { return };
        let host = self.host.number;
        let swept = process.run(async move {
            if refresh && let Err(error) = driver.catalog.refresh(&|_| true).await {
                tell!("host{host}: not refreshed: {error}");
            }
            driver.catalog.sweep(&driver.purge).await
        });
        if let Some(Err(error)) = swept.await {
            tell!("host{host}: not swept: {error}");
        }
    }

    /// A host that looked at a removed volume within its grace brings it back just before the next change of it.
    fn aim(&self, name: &'static str) {
        let (key, ledger) = (definition_key(name), Arc::clone(&self.ledger));
        sim().bucket.aim("PUT", &key.clone(), move || {
            let found = defined(name);
            let Some(found) = found.filter(|f| f.removing.as_ref().is_some_and(|r| !r.purging))
            else {
                return;
            };
            tell!("another host: {name} is brought back, {}", found.uuid);
            let back = Definition { removing: None, written_by: "another".to_owned(), ..found };
            let body = serde_json::to_vec_pretty(&back).expect("a record");
            sim().bucket.put(&key, body.into(), Attributes::new(), Properties::default());
            let now = sim().now();
            ledger.lock().known(back.uuid, name, now).is_wanted(now, now);
        });
    }

    fn put_foreign(&mut self) {
        let place = *self.random.of(&["home/a/", "home/b/", "home/a/in/", "else/"]);
        let key = format!("{place}theirs{}", self.random.below(1000));
        let mut bytes = vec![0; self.random.between(1, 300) as usize];
        self.random.fill(&mut bytes);
        let bytes = Bytes::from(bytes);
        tell!("outside: put {key}");
        sim().bucket.put(&key, bytes.clone(), Attributes::new(), Properties::default());
        self.ledger.lock().foreign.insert(key, bytes);
    }

    fn spec(&self, definition: &Definition) -> WorkerSpec {
        let root = self.host.root();
        WorkerSpec {
            name: definition.name.to_string(),
            id: definition.uuid,
            options: definition.options.clone(),
            state_dir: root.join("volumes").join(definition.uuid.to_string()),
            control_socket: root.join("control"),
            stores: root.join("stores"),
            mountpoint: PathBuf::from("/volume"),
        }
    }

    async fn mount(
        &mut self,
        definition: &Definition,
    ) -> Option<(Arc<Process>, Result<Arc<Bare>, WorkerError>)> {
        let process = self.host.process();
        let (spec, number, known) = (self.spec(definition), self.host.number, self.host.known());
        let opened = process.run(async move {
            let store = Store::stand_in(Port::new(number), &host::location(), &known);
            Bare::open(&spec, &store, Successor::No).await.map(Arc::new)
        });
        Some((Arc::clone(&process), opened.await?))
    }

    /// Mounts the volume, writes a file there and syncs it.
    async fn use_it(&mut self, name: &str) {
        let Some((process, driver)) = self.driver().await else { return };
        let (wanted, began) = (volume(name), sim().now());
        let found = process.run(async move { driver.catalog.lookup(&wanted).await }).await;
        let Some(Ok(Some(definition))) = found else { return };
        let (host, id) = (self.host.number, definition.uuid);
        tell!("host{host}: use {name}, {id}");
        self.files += 1;
        let file = format!("f{host}-{}", self.files);
        // Whatever becomes of it, its epoch may say that the volume is used.
        let until = sim().now() + LATE + 60 * SECOND;
        self.ledger.lock().known(id, name, began).uses.insert(file.clone(), until);
        let Some((worker, opened)) = self.mount(&definition).await else { return };
        let bare = match opened {
            Ok(bare) => bare,
            Err(error) => {
                tell!("host{host}: {name}: {error}");
                return sim().kill(&worker);
            }
        };
        let mut bytes = vec![0; self.random.between(1, 4000) as usize];
        self.random.fill(&mut bytes);
        let bytes = Bytes::from(bytes);
        let (fs, at, body) = (Arc::clone(bare.fs()), file.clone(), bytes.clone());
        let written = worker.run(async move { write(&fs, &at, &body).await }).await;
        tell!("host{host}: {name}/{file}: {written:?}");
        if let (Some(Ok(())), Some(known)) = (&written, self.ledger.lock().volumes.get_mut(&id)) {
            known.files.insert(file.clone(), bytes);
            known.is_wanted(sim().now(), sim().now());
        }
        if self.plan.has(Kind::Kill) && self.random.chance(200) {
            return sim().kill(&worker);
        }
        tokio::time::sleep(Duration::from_nanos(self.random.below(10 * SECOND))).await;
        let closed = worker.run(async move { bare.close().await }).await;
        tell!("host{host}: {name} is closed: {closed:?}");
        if let (Some(Ok(_)), Some(known)) = (&closed, self.ledger.lock().volumes.get_mut(&id)) {
            known.uses.remove(&file);
            known.over = known.over.max(sim().now());
        }
        sim().kill(&worker);
    }

    /// A volume that must be there has what was synced there.
    async fn find(
        &mut self,
        definition: &Definition,
        files: BTreeMap<String, Bytes>,
    ) -> Result<(), String> {
        let name = definition.name.clone();
        let Some((worker, opened)) = self.mount(definition).await else {
            return Err(format!("{name} cannot be opened"));
        };
        let bare = opened.map_err(|error| format!("{name} cannot be opened: {error}"))?;
        let fs = Arc::clone(bare.fs());
        let read = worker.run(async move {
            for (file, bytes) in files {
                let found = read(&fs, &file).await.map_err(|e| format!("{name}/{file}: {e}"))?;
                if found != bytes {
                    return Err(format!("{name}/{file} is not what was synced"));
                }
            }
            bare.close().await.map(drop).map_err(|error| format!("{name}: {error}"))
        });
        let read = read.await.unwrap_or_else(|| Err("it died".to_owned()));
        sim().kill(&worker);
        read
    }
}

fn definition_key(name: &str) -> String {
    format!("{HOME}/.s3vol/volumes/{name}.json")
}

/// What the name leads to in the bucket.
fn defined(name: &str) -> Option<Definition> {
    let objects = sim().bucket.objects.borrow();
    objects.get(&definition_key(name)).and_then(|o| serde_json::from_slice(&o.body).ok())
}

fn volume(name: &str) -> VolumeName {
    VolumeName::new(name).expect("a name")
}

async fn write(fs: &Fs, file: &str, bytes: &Bytes) -> Result<(), FsError> {
    let name = FileName::new(file).expect("a name");
    let (attr, opened) = fs.create(Caller::ROOT, Ino::ROOT, name, 0o644, libc::O_RDWR).await?;
    fs.write(attr.ino, opened.fh, 0, bytes.clone(), false).await?;
    let _receipt = fs.fsync(attr.ino, false).await?;
    fs.release(attr.ino, opened.fh).await
}

async fn read(fs: &Fs, file: &str) -> Result<Bytes, FsError> {
    let attr = fs.lookup(Ino::ROOT, FileName::new(file).expect("a name")).await?;
    let opened = fs.open(Caller::ROOT, attr.ino, libc::O_RDONLY).await?;
    let bytes = fs.read(attr.ino, opened.fh, 0, 64 << 10).await?;
    fs.release(attr.ino, opened.fh).await?;
    Ok(bytes)
}

/// The records whose keys hold `folder`.
fn records<T: serde::de::DeserializeOwned>(folder: &str) -> Result<Vec<(String, T)>, String> {
    let objects = sim().bucket.objects.borrow();
    let here = objects.iter().filter(|(key, _)| key.contains(folder));
    here.map(|(key, object)| {
        let record = serde_json::from_slice(&object.body);
        record.map(|record| (key.clone(), record)).map_err(|e| format!("{key}: {e}"))
    })
    .collect()
}

/// What lies in the bucket in the end.
struct Verdict<'a> {
    ledger: &'a Mutex<Ledger>,
    definitions: Vec<(VolumeId, Definition)>,
    entries: Vec<(String, PrefixEntry)>,
    /// Volumes that have a `format.json`, and all that have a state folder.
    formats: BTreeMap<VolumeId, VolumeFormat>,
    folders: BTreeSet<VolumeId>,
}

impl Verdict<'_> {
    fn new(ledger: &Mutex<Ledger>) -> Result<Verdict<'_>, String> {
        let definitions = records::<Definition>("/.s3vol/volumes/")?;
        let mut folders = BTreeSet::new();
        let mut formats = BTreeMap::new();
        for (key, object) in sim().bucket.objects.borrow().iter() {
            let Some((_, rest)) = key.split_once("/.s3vol/v/") else { continue };
            let (id, rest) = rest.split_once('/').ok_or(format!("{key} is no volume's"))?;
            let id = VolumeId(id.parse().map_err(|_| format!("{key} is no volume's"))?);
            folders.insert(id);
            if rest == "format.json" {
                let format = serde_json::from_slice(&object.body);
                formats.insert(id, format.map_err(|e| format!("{key}: {e}"))?);
            }
        }
        Ok(Verdict {
            ledger,
            definitions: definitions.into_iter().map(|(_, d)| (d.uuid, d)).collect(),
            entries: records::<PrefixEntry>("/.s3vol/by-prefix/")?,
            formats,
            folders,
        })
    }

    fn judge(&self) -> Result<(), String> {
        let entry_of = |id: VolumeId| self.entries.iter().find(|(_, entry)| entry.uuid == id);
        for (id, definition) in &self.definitions {
            let name = &definition.name;
            match self.formats.get(id) {
                None => return Err(format!("{name} leads to {id}, which has no format.json")),
                Some(format) if format.deleting.is_some() => {
                    return Err(format!("{name} leads to {id}, which was removed"));
                }
                _ => {}
            }
            let led = entry_of(*id).map(|(_, entry)| format!("{}/", entry.url));
            let url = format!("{}/", definition.options.url.trim_end_matches('/'));
            if led.map(|led| led.replace("//", "/")) != Some(url.replace("//", "/")) {
                return Err(format!("nothing leads from {url} to {name}"));
            }
        }
        let defined = |id: &VolumeId| self.definitions.iter().any(|(other, _)| other == id);
        for (key, entry) in &self.entries {
            if !self.formats.contains_key(&entry.uuid) {
                return Err(format!("{key} leads to {}, of which nothing is left", entry.uuid));
            }
            if !entry.adopted && !defined(&entry.uuid) {
                return Err(format!("{key} leads to {}, which has no name", entry.uuid));
            }
            for (_, other) in self.entries.iter().filter(|(_, other)| other.uuid != entry.uuid) {
                let place = |entry: &PrefixEntry| format!("{}/", entry.url.trim_end_matches('/'));
                if place(other).starts_with(&place(entry)) {
                    return Err(format!("{} lies in {}", other.url, entry.url));
                }
            }
        }
        // A mount that is under way while the volume is deleted leaves what it wrote before it saw that.
        let ledger = self.ledger.lock();
        let mounted = |id: &VolumeId| ledger.volumes.get(id).is_some_and(|k| !k.uses.is_empty());
        let left = |id: &&VolumeId| {
            entry_of(**id).is_none() && (self.formats.contains_key(id) || !mounted(id))
        };
        if let Some(id) = self.folders.iter().find(left) {
            return Err(format!("{id} has a state, and nothing leads there"));
        }
        drop(ledger);
        self.objects()?;
        self.promises()
    }

    fn objects(&self) -> Result<(), String> {
        let objects = sim().bucket.objects.borrow();
        for (key, object) in objects.iter().filter(|(key, _)| !key.contains("/.s3vol/")) {
            let Some(id) = object.attributes.get(ATTR_VOLUME) else { continue };
            if !self.formats.keys().any(|known| known.to_string() == *id) {
                return Err(format!("{key} is of {id}, which is removed"));
            }
        }
        for (key, bytes) in &self.ledger.lock().foreign {
            if objects.get(key).is_none_or(|object| object.body != *bytes) {
                return Err(format!("{key} is not as the tool put it"));
            }
        }
        Ok(())
    }

    fn promises(&self) -> Result<(), String> {
        let ledger = self.ledger.lock();
        for (id, known) in &ledger.volumes {
            let there = self.definitions.iter().any(|(other, _)| other == id);
            let brought = ledger.open.get(&known.name).copied().unwrap_or_default();
            // One that adopted objects is only forgotten, and found again by its place.
            let kept = self.entries.iter().any(|(_, entry)| entry.uuid == *id && entry.adopted);
            if known.stays() && !there && !kept {
                return Err(format!("{} ({id}) is gone: {known:?}", known.name));
            }
            if known.goes() && known.removed > Some(brought) && there {
                return Err(format!("{} ({id}) was removed, and is there", known.name));
            }
        }
        Ok(())
    }
}
