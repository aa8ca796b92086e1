//! What a host finds when it has mounted the volume, and what that means for what may be there from then on.

use std::sync::Arc;
use std::time::Duration;

use s3vol::fs::FsError;
use s3vol::types::{Caller, FileName, Ino};

use super::{Director, Mounted, home};
use crate::client::Hands;
use crate::model::{Found, Line, Rule, Survey};
use crate::sim::sim;
use crate::tell;

impl Director {
    /// `number` may have the volume now: the log of the host before it may go on, or not.
    pub(super) fn leaves(&mut self, number: usize) {
        if let Some(owner) = self.owner.take()
            && owner != number
        {
            self.old.insert(owner, self.line);
        }
    }

    /// Compares what a mount shows with what may be there, and goes on from that. False: it died meanwhile.
    pub(super) async fn look(&mut self, number: usize, mounted: &Mounted) -> Result<bool, String> {
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
            history.go_on(found, rule, !rotten);
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
        surveys: &[Option<Survey>],
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
}
