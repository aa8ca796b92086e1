//! What goes wrong while clients work.

use std::sync::Arc;
use std::time::Duration;

use s3vol::worker::WorkerError;

use super::{Director, Kind, Mounted};
use crate::host;
use crate::seam::SECOND;
use crate::sim::{Process, sim};
use crate::tell;

impl Director {
    /// Another host wants the volume while one has it.
    pub(super) async fn intrude(&mut self, mounted: &Mounted, round: u64) -> Result<(), String> {
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

    /// Processes die, clocks step, the bucket goes away.
    pub(super) fn trouble(&self, process: &Arc<Process>) {
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

    pub(super) fn after_death(&mut self, process: &Process) -> Result<(), String> {
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
}
