//! One schedule: what a seed makes happen, from an empty bucket to a volume that is checked to the last byte.

mod disks;
mod end;
mod ground;
mod look;
mod plan;
mod successor;
mod trouble;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use s3vol::catalog::Incarnation;
use s3vol::config::{SettleMode, VolumeOptions};
use s3vol::worker::{Bare, WorkerError};

use crate::client::{Hands, work};
use crate::follower::Follower;
use crate::host::{self, Host};
use crate::model::Line;
use crate::outside;
use crate::random::Random;
use crate::removal;
use crate::requests::{self, Wire};
use crate::seam::{MICRO, MILLI, SECOND};
use crate::sim::{Process, sim};
use crate::tell;

pub use plan::{Kind, Plan};

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
}

pub fn home(client: usize) -> String {
    format!("c{client}")
}
