//! One schedule: what a seed makes happen, from an empty bucket to a volume that is checked to the last byte.

mod disks;
mod successor;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use s3vol::catalog::Incarnation;
use s3vol::clock::Deadline;
use s3vol::config::{SettleMode, VolumeOptions};
use s3vol::fs::FsError;
use s3vol::store::Verb;
use s3vol::types::{Caller, FileName, Ino};
use s3vol::worker::{Bare, WorkerError};

use crate::bucket::Rates;
use crate::client::{Hands, work};
use crate::follower::Follower;
use crate::host::{self, END, Host};
use crate::model::{Found, Line, Rule};
use crate::outside;
use crate::proof;
use crate::random::Random;
use crate::removal;
use crate::requests::{self, Wire};
use crate::rest;
use crate::seam::{MICRO, MILLI, SECOND};
use crate::sim::{Process, sim};
use crate::tell;

/// What may happen in a schedule. A failing one is shrunk by taking of this away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub seed: u64,
    /// Mounts before the last ones.
    pub rounds: u64,
    /// Operations of each client in each of them.
    pub ops: u64,
    pub clients: usize,
    pub without: Vec<Kind>,
}

/// Kinds of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Refused,
    Lost,
    Unanswered,
    Late,
    Slow,
    Cut,
    Away,
    Kill,
    Power,
    Move,
    /// Another host takes the volume while one has it, or tries to.
    Takeover,
    /// Clocks are apart, and step.
    Clocks,
    /// Somebody with an S3 tool.
    Outside,
    /// Credentials expire, and are renewed.
    Denied,
    /// Of the store not everything is honoured.
    Weak,
    /// The volume keeps its files in segments, for hours.
    Never,
    /// The local log is written anew all the time.
    Short,
    /// Files are uploaded in parts, small ones as well.
    Parts,
    /// Programs write to what is published just then.
    Aim,
    /// Others fill the local disk for a while.
    Full,
    /// The local disk fails calls for a while.
    Broken,
    /// The mount stays when its worker dies, and its successor gets requests a second time.
    Resend,
    /// Bytes of the local state are others after a process has ended.
    Rot,
    /// Files above 8 MiB.
    Large,
    /// Commits go in small steps.
    Steps,
    /// A host follows the volume, read-only.
    Follow,
}

impl Kind {
    pub const ALL: &[(Kind, &str)] = &[
        (Kind::Refused, "refused"),
        (Kind::Lost, "lost"),
        (Kind::Unanswered, "unanswered"),
        (Kind::Late, "late"),
        (Kind::Slow, "slow"),
        (Kind::Cut, "cut"),
        (Kind::Away, "away"),
        (Kind::Kill, "kill"),
        (Kind::Power, "power"),
        (Kind::Move, "move"),
        (Kind::Takeover, "takeover"),
        (Kind::Clocks, "clocks"),
        (Kind::Outside, "outside"),
        (Kind::Denied, "denied"),
        (Kind::Weak, "weak"),
        (Kind::Never, "never"),
        (Kind::Short, "short"),
        (Kind::Parts, "parts"),
        (Kind::Aim, "aim"),
        (Kind::Full, "full"),
        (Kind::Broken, "broken"),
        (Kind::Resend, "resend"),
        (Kind::Rot, "rot"),
        (Kind::Large, "large"),
        (Kind::Steps, "steps"),
        (Kind::Follow, "follow"),
    ];
}

impl Plan {
    pub fn of(seed: u64) -> Plan {
        let random = Random::new(seed, 7);
        Plan {
            seed,
            rounds: random.between(1, 6),
            ops: random.between(3, 16),
            clients: random.between(1, 4) as usize,
            without: Vec::new(),
        }
    }

    pub fn has(&self, kind: Kind) -> bool {
        !self.without.contains(&kind)
    }

    /// Whether it is one of volumes by their names.
    fn is_by_name(&self) -> bool {
        self.seed % 5 == 3
    }

    pub fn rates(&self, random: &Random) -> Rates {
        let rate = |kind, most: u64| match self.has(kind) && random.chance(400) {
            true => random.below(most),
            false => 0,
        };
        Rates {
            refused: rate(Kind::Refused, 60),
            lost: rate(Kind::Lost, 30),
            unanswered: rate(Kind::Unanswered, 40),
            late: rate(Kind::Late, 20),
            slow: rate(Kind::Slow, 50),
            cut: rate(Kind::Cut, 40),
        }
    }
}

/// Machines on which the volume is mounted before the end.
const HOSTS: usize = 3;

/// A mounted volume.
struct Mounted {
    process: Arc<Process>,
    bare: Arc<Bare>,
}

/// Who makes things happen.
struct Director {
    plan: Plan,
    random: Random,
    hosts: Vec<Host>,
    dir: PathBuf,
    /// The host whose local log goes on with the current line.
    owner: Option<usize>,
    /// The host of whose local log a byte has changed.
    rotten: Option<usize>,
    /// Lines that end in the local log of a host which another one took the volume from.
    old: BTreeMap<usize, usize>,
    line: usize,
    volume: Option<Incarnation>,
    /// Somebody else uses the bucket.
    outside: bool,
    /// The clients' directories are made.
    homes: bool,
    /// Of all mounts but the last one.
    options: VolumeOptions,
}

/// Runs the whole schedule below `dir`.
pub async fn run(plan: Plan, dir: PathBuf) -> Result<(), String> {
    if plan.is_by_name() {
        return Box::pin(removal::run(plan, dir)).await;
    }
    let random = Random::new(plan.seed, 3);
    let hosts = (0..HOSTS).map(|number| Host::new(&dir, number)).collect();
    sim().model.borrow_mut().push(Line::new(plan.clients));
    let (owner, rotten, old, line, volume) = (None, None, BTreeMap::new(), 0, None);
    let (outside, homes, options) = (false, false, host::options());
    Director { plan, random, hosts, dir, owner, rotten, old, line, volume, outside, homes, options }
        .direct()
        .await
}

impl Director {
    async fn direct(mut self) -> Result<(), String> {
        let latency = *self.random.of(&[100 * MICRO, MILLI, 5 * MILLI, 20 * MILLI]);
        sim().bucket.latency.set(latency);
        if self.plan.has(Kind::Clocks) && self.random.chance(400) {
            let day = 24 * 3600 * SECOND;
            for host in &mut self.hosts {
                host.ahead = self.random.below(4 * day) as i64 - 2 * day as i64;
            }
            sim()
                .bucket
                .ahead
                .set(self.random.below(4 * day / MILLI) as i64 - 2 * (day / MILLI) as i64);
        }
        self.outside = self.random.chance(400);
        self.choose_ground();
        self.make().await?;
        let follower = self.follower();
        let mut host = 0;
        for round in 0..self.plan.rounds {
            *sim().bucket.rates.borrow_mut() = self.plan.rates(&self.random);
            tell!("round {round} on host {host}: {:?}", sim().bucket.rates.borrow());
            self.rot(host, round);
            if let Some(mounted) = self.mount(host, true).await? {
                self.serve(&mounted, round, false).await?;
            }
            let rarely = if self.options.settle == SettleMode::Never { 300 } else { 80 };
            if self.random.chance(rarely) {
                tokio::time::sleep(Duration::from_secs(2 * 3600)).await;
            }
            if self.plan.has(Kind::Move) && self.random.chance(350) {
                host = self.other(host);
            }
        }
        self.finish(host, follower).await
    }

    /// Somebody who follows the volume from now on.
    fn follower(&self) -> Option<Follower> {
        let random = Random::new(self.plan.seed, 9);
        let volume = self.volume.clone().expect("it was made");
        let follows = self.plan.has(Kind::Follow) && random.chance(350);
        follows.then(|| Follower::start(&self.dir, volume, self.plan.clone(), random))
    }

    /// What the volume is like, and the store below it.
    fn choose_ground(&mut self) {
        let random = Random::new(self.plan.seed, 8);
        let is = |kind, chance| {
            let chosen = random.chance(chance);
            let (numbers, plan) = ((random.next(), random.next()), &self.plan);
            (chosen && plan.has(kind)).then_some(numbers)
        };
        if is(Kind::Never, 150).is_some() {
            tell!("nothing settles before the end");
            self.options.settle = SettleMode::Never;
        }
        if let Some((size, _)) = is(Kind::Short, 250) {
            let size = 500 + size % 16_000;
            tell!("the local log is written anew beyond {size} bytes");
            set(s3vol::fault::LONG_LOG, size);
        }
        if let Some((size, _)) = is(Kind::Parts, 300) {
            let size = 300 + size % 3000;
            tell!("files are uploaded in parts of {size} bytes");
            set(s3vol::fault::PART, size);
        }
        self.choose_sizes();
        if let Some((which, _)) = is(Kind::Weak, 200) {
            let all = [
                Verb::DeleteConditional,
                Verb::CompleteConditional,
                Verb::CopyConditional,
                Verb::Copy,
                Verb::Expiry,
                Verb::PutIfMatch,
            ];
            let chosen = |(place, _): &(usize, &Verb)| which >> place & 1 == 1;
            let overlooked = all.iter().enumerate().filter(chosen).map(|(_, verb)| *verb);
            sim().bucket.overlooks.borrow_mut().extend(overlooked);
            tell!("the store does not honour {:?}", sim().bucket.overlooks.borrow());
        }
        if self.plan.has(Kind::Aim) && random.chance(500) {
            tell!("programs write to what is published just then");
            sim().aims.set(true);
            sim().kills.set(self.plan.has(Kind::Kill));
        }
    }

    /// Another host than `host`.
    fn other(&self, host: usize) -> usize {
        (host + self.random.between(1, HOSTS as u64) as usize) % HOSTS
    }

    async fn make(&mut self) -> Result<(), String> {
        let host = &mut self.hosts[0];
        let process = host.process();
        let made = host::make(host, &process, host::options()).await;
        self.volume = Some(made.ok_or("the volume was not made")??);
        sim().kill(&process);
        Ok(())
    }

    /// Opens the volume on a host, and looks whether it is as it may be. `None`: that was not to be.
    async fn mount(&mut self, number: usize, troubled: bool) -> Result<Option<Mounted>, String> {
        let volume = self.volume.clone().expect("it was made");
        for attempt in 0..60 {
            let process = self.hosts[number].process();
            let dies = troubled && self.plan.has(Kind::Kill) && self.random.chance(150);
            if dies {
                process.machine.dies_at.set(Some(self.random.below(60)));
            }
            let options = if troubled { self.options.clone() } else { host::options() };
            let opened = host::mount(&self.hosts[number], &process, &volume, options).await;
            process.machine.dies_at.set(None);
            let before = self.owner;
            match opened {
                None => {
                    // It may have claimed the volume.
                    if before != Some(number) {
                        self.leaves(number);
                    }
                    continue;
                }
                Some(Ok(bare)) => {
                    tell!("{} has the volume", process.name);
                    let mounted = Mounted { process, bare };
                    return match self.look(number, &mounted).await? {
                        true => Ok(Some(mounted)),
                        false => Ok(None),
                    };
                }
                Some(Err(error)) => {
                    tell!("{}: {error}", process.name);
                    sim().kill(&process);
                    if !matches!(error, WorkerError::Held(_)) && before != Some(number) {
                        self.leaves(number);
                    }
                    if !troubled && attempt > 40 {
                        return Err(format!("a healthy volume cannot be opened: {error}"));
                    }
                    if attempt == 20 {
                        sim().heal();
                    }
                }
            }
            tokio::time::sleep(Duration::from_secs(self.random.between(1, 20))).await;
        }
        if troubled { Ok(None) } else { Err("a healthy volume cannot be opened".to_owned()) }
    }

    /// `number` may have the volume now: the log of the host before it may go on, or not.
    fn leaves(&mut self, number: usize) {
        if let Some(owner) = self.owner.take()
            && owner != number
        {
            self.old.insert(owner, self.line);
        }
    }

    /// Compares what a mount shows with what may be there, and goes on from that. False: it died meanwhile.
    async fn look(&mut self, number: usize, mounted: &Mounted) -> Result<bool, String> {
        let ours = self.owner == Some(number);
        let mut rule = if ours { Rule::Whole } else { Rule::Synced };
        if !ours {
            self.leaves(number);
        }
        let fs = Arc::clone(mounted.bare.fs());
        let clients = self.plan.clients;
        let mut surveys = Vec::new();
        for client in 0..clients {
            let hands = Hands { fs: Arc::clone(&fs), home: home(client) };
            let mut attempts = 0;
            loop {
                let at = Hands { fs: Arc::clone(&hands.fs), home: hands.home.clone() };
                let survey = mounted.process.run(async move { at.survey().await }).await;
                match survey {
                    None => return Ok(false),
                    Some(Ok(survey)) => break surveys.push(Some(survey)),
                    Some(Err(FsError::NotFound)) if !self.homes && attempts < 3 => {
                        break surveys.push(None);
                    }
                    Some(Err(error)) if attempts > 8 => {
                        return Err(format!("the volume cannot be read: {error}"));
                    }
                    Some(Err(error)) => tell!("looking: {error}"),
                }
                attempts += 1;
                if attempts == 5 {
                    sim().heal();
                }
            }
        }
        if surveys.iter().all(Option::is_none) {
            return self.make_homes(number, mounted).await;
        }
        // Another host may have claimed the volume and not opened it, or made nothing durable: then this one's log goes
        // on, and what it brings back is as little durable as before.
        let old = self.old.get(&number).copied();
        let old = old.filter(|old| *old == self.line || !sim().model.borrow()[self.line].synced);
        if let Some(old) = old
            && self.find(old, &surveys, Rule::Whole).is_ok()
        {
            (self.line, rule) = (old, Rule::Whole);
        }
        let mut found = self.find(self.line, &surveys, rule);
        let rotten = self.rotten == Some(number);
        let ways = [(old, Rule::Synced), (Some(self.line), Rule::Mixed), (old, Rule::Mixed)];
        for (line, other) in ways {
            // That log was set aside, and the bucket is as it was; or it ends before its time.
            if let (Err(why), Some(line)) = (&found, line)
                && (other != Rule::Mixed || rotten)
            {
                tell!("not of the last host's line: {why}");
                found = self.find(line, &surveys, other);
                (self.line, rule) = if found.is_ok() { (line, other) } else { (self.line, rule) };
            }
        }
        self.rotten = self.rotten.filter(|rotten| *rotten != number);
        let found = found.map_err(|why| format!("on host {number}: {why}"))?;
        let mut model = sim().model.borrow_mut();
        if !ours {
            let next = model[self.line].clone();
            model[self.line].found = Some(found.clone());
            self.line = model.len();
            model.push(Line { synced: false, found: None, ..next });
        }
        for (history, found) in model[self.line].clients.iter_mut().zip(&found) {
            history.go_on(found, rule);
        }
        if !ours {
            let line = &mut model[self.line];
            line.born = line.clients.iter().map(|history| history.durable).collect();
        }
        drop(model);
        self.old.remove(&number);
        self.owner = Some(number);
        Ok(true)
    }

    fn find(
        &self,
        line: usize,
        surveys: &[Option<crate::model::Survey>],
        rule: Rule,
    ) -> Result<Vec<Found>, String> {
        let model = sim().model.borrow();
        let mut found = Vec::new();
        for (client, (history, survey)) in model[line].clients.iter().zip(surveys).enumerate() {
            let survey = survey.as_ref().ok_or("a client's directory is missing")?;
            let is = history.find(survey, rule);
            found.push(is.map_err(|why| format!("client {client}: {why}"))?);
        }
        Ok(found)
    }

    /// The first mount makes the directories of the clients.
    async fn make_homes(&mut self, number: usize, mounted: &Mounted) -> Result<bool, String> {
        let clients = self.plan.clients;
        let fs = Arc::clone(mounted.bare.fs());
        let made = mounted.process.run(async move {
            for client in 0..clients {
                let name = FileName::new(home(client)).expect("a name");
                loop {
                    match fs.mkdir(Caller::ROOT, Ino::ROOT, name.clone(), 0o755).await {
                        Ok(_) | Err(FsError::Exists) => break,
                        Err(FsError::Io { .. } | FsError::NoSpace(_)) => {
                            tokio::time::sleep(Duration::from_secs(5)).await;
                        }
                        Err(error) => return Err(error),
                    }
                }
            }
            while fs.fsync(Ino::ROOT, false).await.is_err() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Ok(())
        });
        match made.await {
            None => Ok(false),
            Some(Err(error)) => Err(format!("a directory: {error}")),
            Some(Ok(())) => {
                self.owner = Some(number);
                self.homes = true;
                sim().shown.set(true);
                Ok(true)
            }
        }
    }

    /// Clients work, things go wrong, and it ends somehow.
    async fn serve(&mut self, mounted: &Mounted, round: u64, beside: bool) -> Result<(), String> {
        let process = &mounted.process;
        requests::forget(process.host);
        self.trouble(process);
        self.disk_trouble(process.host, round * 2 + u64::from(beside));
        self.dies_unanswered(process, round * 2 + u64::from(beside));
        let (mut works, mut met) = (Vec::new(), Vec::new());
        for client in 0..self.plan.clients {
            let hands = Hands { fs: Arc::clone(mounted.bare.fs()), home: home(client) };
            let stream = round * 100 + u64::from(beside) * 50 + client as u64;
            let random = Random::new(self.plan.seed, 10_000 + stream);
            let wire = Wire::of(process.host, &hands.home);
            let work = work(hands, wire, (self.line, client), self.plan.ops, random);
            works.push(process.run(work));
        }
        if self.plan.has(Kind::Outside) && self.outside {
            let name = format!("n{round}{}", u8::from(beside));
            let random = Random::new(self.plan.seed, 20_000 + round * 2 + u64::from(beside));
            let meets = outside::meet(Arc::clone(mounted.bare.fs()), name, random);
            met.push(process.run(meets));
            outside::visits(&self.random);
        }
        let works = async {
            let (done, met) = futures::join!(join_all(works), join_all(met));
            done.into_iter().chain(met).collect::<Vec<_>>()
        };
        let (done, intruded) = match beside {
            true => (works.await, Ok(())),
            false => futures::join!(works, Box::pin(self.intrude(mounted, round))),
        };
        intruded?;
        if self.owner != Some(process.host) {
            // What it still has it saves for people to find.
            let bare = Arc::clone(&mounted.bare);
            let closed = process.run(async move { bare.close().await }).await;
            tell!("closed after it was taken: {closed:?}");
            sim().kill(process);
            return Ok(());
        }
        if done.iter().any(Option::is_none) || process.is_dead() {
            return match beside {
                true => self.after_death(process),
                false => Box::pin(self.goes_on(process, round)).await,
            };
        }
        self.part(mounted).await
    }

    /// Clients are done.
    async fn part(&mut self, mounted: &Mounted) -> Result<(), String> {
        let process = &mounted.process;
        match self.random.below(10) {
            0..2 => {
                let bare = Arc::clone(&mounted.bare);
                let drained = process.run(async move { bare.drain().await }).await;
                if let Some(reply) = &drained {
                    tell!("drained: {reply:?}");
                    if reply.committed {
                        sim().model.borrow_mut()[self.line].keep_all();
                    }
                }
                let pause = self.random.below(40 * SECOND);
                tokio::time::sleep(Duration::from_nanos(pause)).await;
                self.close(mounted).await
            }
            2..7 => self.close(mounted).await,
            _ if self.plan.has(Kind::Kill) => {
                sim().kill(process);
                self.after_death(process)
            }
            _ => self.close(mounted).await,
        }
    }

    /// Another host wants the volume while one has it.
    async fn intrude(&mut self, mounted: &Mounted, round: u64) -> Result<(), String> {
        if !self.plan.has(Kind::Takeover) || !self.random.chance(250) {
            return Ok(());
        }
        let since = sim().now();
        let begins = self.random.below(10 * SECOND);
        tokio::time::sleep(Duration::from_nanos(begins)).await;
        let process = &mounted.process;
        let (host, other) = (process.host, self.other(process.host));
        let length = self.random.between(40 * SECOND, 300 * SECOND);
        match self.random.below(3) {
            0 => sim().pause(process, length),
            1 => {
                tell!("host {host} is cut off");
                sim().bucket.cut_off.borrow_mut().insert(host);
                sim().at(length, move || {
                    tell!("host {host} is back");
                    sim().bucket.cut_off.borrow_mut().remove(&host);
                });
            }
            _ => return self.ask(mounted, other, since).await,
        }
        if let Some(mounted) = self.mount(other, true).await? {
            self.serve(&mounted, round, true).await?;
        }
        Ok(())
    }

    /// Another host asks for a volume whose holder is well.
    async fn ask(&mut self, mounted: &Mounted, other: usize, since: u64) -> Result<(), String> {
        let volume = self.volume.clone().expect("it was made");
        let process = self.hosts[other].process();
        let options = self.options.clone();
        let opened = host::mount(&self.hosts[other], &process, &volume, options).await;
        let well = sim().bucket.troubled.get() < since && !mounted.process.is_dead();
        if let Some(Ok(bare)) = opened {
            if well && !mounted.bare.is_yielded() {
                return Err(format!("{} got a volume that another host uses", process.name));
            }
            let taken = Mounted { process, bare };
            if self.look(other, &taken).await? {
                sim().kill(&taken.process);
            }
            return Ok(());
        }
        if !matches!(opened, Some(Err(WorkerError::Held(_)))) {
            // It may have claimed it.
            self.leaves(other);
        }
        sim().kill(&process);
        Ok(())
    }

    /// What goes wrong while clients work.
    fn trouble(&self, process: &Arc<Process>) {
        let random = &self.random;
        if self.plan.has(Kind::Kill) && random.chance(350) {
            match random.chance(600) {
                true if random.chance(400) => {
                    let point = *random.of(s3vol::fault::points::ALL);
                    process.machine.dies_there.set(Some((point, random.below(8))));
                }
                true => {
                    let at = process.machine.changes.get() + random.below(150);
                    process.machine.dies_at.set(Some(at));
                }
                false => {
                    let process = Arc::clone(process);
                    sim().at(random.below(40 * SECOND), move || sim().kill(&process));
                }
            }
        }
        if self.plan.has(Kind::Clocks) && random.chance(100) {
            let (machine, step) = (process.machine, 3600 * SECOND as i64);
            let step = if random.chance(500) { step } else { -step };
            sim().at(random.below(20 * SECOND), move || {
                machine.ahead.set(machine.ahead.get() + step)
            });
        }
        if self.plan.has(Kind::Away) && random.chance(150) {
            sim().at(random.below(20 * SECOND), || sim().bucket.goes_away(true));
            let back = random.between(20 * SECOND, 240 * SECOND);
            sim().at(back, || sim().bucket.goes_away(false));
        }
        self.denials();
    }

    fn denials(&self) {
        let random = &self.random;
        if self.plan.has(Kind::Denied) && random.chance(60) {
            sim().at(random.below(20 * SECOND), || sim().bucket.denies(true));
            let back = random.between(20 * SECOND, 120 * SECOND);
            sim().at(back, || sim().bucket.denies(false));
        }
    }

    fn after_death(&mut self, process: &Process) -> Result<(), String> {
        let number = process.host;
        if self.plan.has(Kind::Power) && self.random.chance(400) {
            match self.random.chance(500) {
                true => {
                    tell!("host {number} loses its power");
                    self.hosts[number].lose_power(&self.random);
                }
                false => {
                    tell!("host {number} is wiped");
                    self.hosts[number].wipe();
                }
            }
            self.owner = None;
            self.old.remove(&number);
        }
        Ok(())
    }

    /// The worker ends. What it could not bring into the bucket is in its log.
    async fn close(&mut self, mounted: &Mounted) -> Result<(), String> {
        let bare = Arc::clone(&mounted.bare);
        let closed = mounted.process.run(async move { bare.close().await }).await;
        match closed {
            None => return self.after_death(&mounted.process),
            Some(Ok(left)) => {
                tell!("closed, {left} unsettled");
                sim().model.borrow_mut()[self.line].keep_all();
            }
            Some(Err(error)) => tell!("not closed: {error}"),
        }
        sim().kill(&mounted.process);
        Ok(())
    }

    /// All is well; a new host has to find everything, and to bring it to rest.
    async fn finish(&mut self, host: usize, follower: Option<Follower>) -> Result<(), String> {
        tell!("all is well from now on");
        sim().stay_well();
        if self.random.chance(600)
            && let Some(mounted) = self.mount(host, false).await?
        {
            self.close(&mounted).await?;
        }
        // Segments that no batch names are left for an hour, and looked for once a mount.
        let collected = self.random.chance(500);
        if collected {
            tokio::time::sleep(Duration::from_secs(2 * 3600)).await;
        }
        let fresh = self.hosts.len();
        self.hosts.push(Host::new(&self.dir, fresh));
        let mounted = self.mount(fresh, false).await?.ok_or("the last mount died")?;
        self.settle(&mounted).await?;
        // Garbage is collected by and by, and a key whose last request may still arrive is left alone that long.
        let by_and_by = if sim().bucket.honours(Verb::Expiry) { 200 } else { 1500 };
        tokio::time::sleep(Duration::from_secs(by_and_by)).await;
        let fs = Arc::clone(mounted.bare.fs());
        let last = self.last_look(&mounted.process, fs).await?;
        let bare = Arc::clone(&mounted.bare);
        match mounted.process.run(async move { bare.close().await }).await {
            Some(Ok(0)) => {}
            other => return Err(format!("a healthy volume is not given back: {other:?}")),
        }
        sim().model.borrow_mut()[self.line].keep_all();
        if let Some(follower) = follower {
            follower.end().await?;
        }
        rest::check(&last, collected)?;
        let volume = self.volume.clone().expect("it was made");
        let process = self.hosts[fresh].process();
        proof::check(&self.hosts[fresh], &process, &volume, &last, collected).await
    }

    /// Everything comes to rest. What was refused, because somebody else had changed it, is looked at again soon.
    async fn settle(&self, mounted: &Mounted) -> Result<(), String> {
        // Where requests do not expire, a key whose last one was not answered is left alone for a quarter of an hour.
        let patience = match sim().bucket.honours(Verb::Expiry) {
            true => END,
            false => END + Duration::from_secs(1200),
        };
        let deadline = Deadline::after(patience);
        loop {
            let settler = Arc::clone(mounted.bare.settler());
            let settled = async move { settler.settle_all(deadline).await };
            let left = mounted.process.run(settled).await.ok_or("the last mount died")?;
            match left {
                Ok(0) => return Ok(()),
                Ok(_) if !deadline.passed() => tokio::time::sleep(Duration::from_secs(2)).await,
                Ok(left) => {
                    return Err(format!("{left} files of a healthy volume do not come to rest"));
                }
                Err(error) => return Err(format!("a healthy volume does not settle: {error}")),
            }
        }
    }

    async fn last_look(
        &self,
        process: &Process,
        fs: Arc<s3vol::fs::Fs>,
    ) -> Result<BTreeMap<String, crate::model::Seen>, String> {
        let mut all = BTreeMap::new();
        let mut others = BTreeMap::new();
        for place in [outside::THEIRS, outside::SHARED] {
            let hands = Hands { fs: Arc::clone(&fs), home: place.to_owned() };
            let survey = process.run(async move { hands.survey().await }).await;
            match survey.ok_or("the last mount died")? {
                Ok(survey) => drop(others.insert(place, survey)),
                Err(FsError::NotFound) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        outside::check(others.get(outside::THEIRS), others.get(outside::SHARED))?;
        for (place, survey) in others {
            all.extend(survey.into_iter().map(|(path, seen)| (format!("{place}/{path}"), seen)));
        }
        for client in 0..self.plan.clients {
            let hands = Hands { fs: Arc::clone(&fs), home: home(client) };
            let survey = process.run(async move { hands.survey().await }).await;
            let survey = survey.ok_or("the last mount died")?.map_err(|e| e.to_string())?;
            let model = sim().model.borrow();
            let history = &model[self.line].clients[client];
            history.find(&survey, Rule::Whole).map_err(|why| format!("at the end: {why}"))?;
            let home = home(client);
            all.extend(survey.into_iter().map(|(path, seen)| (format!("{home}/{path}"), seen)));
        }
        Ok(all)
    }
}

/// Sets a seam of the code under test for this schedule, which is a process of its own.
fn set(name: &str, value: u64) {
    // SAFETY: no other thread of this process is left that could read it.
    unsafe { std::env::set_var(name, value.to_string()) };
}

pub fn home(client: usize) -> String {
    format!("c{client}")
}
