//! The end of a schedule: all is well, and a new host has to find everything.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use s3vol::clock::Deadline;
use s3vol::fs::FsError;
use s3vol::store::Verb;

use super::{Director, Mounted, home};
use crate::client::Hands;
use crate::follower::Follower;
use crate::host::{END, Host};
use crate::model::{Rule, Seen};
use crate::outside;
use crate::proof;
use crate::rest;
use crate::sim::{Process, sim};
use crate::tell;

impl Director {
    /// Everything is looked at, and brought to rest.
    pub(super) async fn finish(
        &mut self,
        host: usize,
        follower: Option<Follower>,
    ) -> Result<(), String> {
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
    ) -> Result<BTreeMap<String, Seen>, String> {
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
