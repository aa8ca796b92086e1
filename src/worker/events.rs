//! Changes of the state of volumes, for whoever follows them.
//!
//! A process remembers the last ones, by number, and lets others wait for the next; who comes back asks for what came
//! after the last that it saw, so that nothing is missed in between. Nothing here survives a crash: numbers begin anew,
//! which the name of the process's `instance` tells.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use uuid::Uuid;

use super::VolumeState;

/// So many are remembered.
const KEPT: usize = 256;
/// Whoever waits gets an empty answer after this long, and asks again.
const LONGEST_WAIT: Duration = Duration::from_secs(20);

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// It is served here from now on.
    Mounted,
    /// No process of this host has it any more.
    Unmounted,
    /// Back in order.
    Active,
    /// The store does not answer.
    Degraded,
    /// The engine's handle is being replaced.
    Reopening,
    /// No container uses it any more.
    Draining,
    /// Another host took it over.
    Fenced,
    Damaged,
    /// It could not be opened.
    Failed,
    /// A file was changed here and in the bucket, and both are kept.
    Conflict,
    /// What was not synced when another host took the volume over is kept apart, on this host or in the bucket.
    Recovered,
    /// Its process died.
    Died,
    /// What was left of a removed volume was deleted.
    Purged,
    /// More happened than was remembered.
    Missed,
    /// Something that this version does not know.
    #[serde(other)]
    Unknown,
}

impl What {
    pub fn name(self) -> &'static str {
        match self {
            What::Mounted => "mounted",
            What::Unmounted => "unmounted",
            What::Active => "active",
            What::Degraded => "degraded",
            What::Reopening => "reopening",
            What::Draining => "draining",
            What::Fenced => "fenced",
            What::Damaged => "damaged",
            What::Failed => "failed",
            What::Conflict => "conflict",
            What::Recovered => "recovered",
            What::Died => "died",
            What::Purged => "purged",
            What::Missed => "missed",
            What::Unknown => "unknown",
        }
    }

    /// Of a change to this state.
    pub(super) fn of(state: VolumeState) -> Option<What> {
        Some(match state {
            VolumeState::Opening => return None,
            VolumeState::Active => What::Active,
            VolumeState::Degraded => What::Degraded,
            VolumeState::Reopening => What::Reopening,
            VolumeState::Draining => What::Draining,
            VolumeState::Closed => What::Unmounted,
            VolumeState::Fenced => What::Fenced,
            VolumeState::Damaged => What::Damaged,
            VolumeState::Failed => What::Failed,
        })
    }
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeEvent {
    /// In the process that tells of it, from 1.
    pub number: u64,
    /// RFC 3339.
    pub at: String,
    pub volume: String,
    pub event: What,
    /// More about it, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// What came after the last one that was asked about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventPage {
    /// Of the process; numbers of another one mean nothing here.
    pub instance: String,
    /// The last number that there was by then.
    pub last: u64,
    pub events: Vec<VolumeEvent>,
}

/// After which event, of which process, more is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Since {
    /// 0 for all that are remembered; none for those that come from now on.
    #[serde(default)]
    pub after: Option<u64>,
    #[serde(default)]
    pub instance: Option<String>,
}

impl Since {
    /// From the first one that is remembered.
    pub fn start() -> Self {
        Since { after: Some(0), instance: None }
    }

    /// What comes after a page.
    pub fn page(page: &EventPage) -> Self {
        Since { after: Some(page.last), instance: Some(page.instance.clone()) }
    }

    /// As it stands in a URL.
    pub fn query(&self) -> String {
        let after = self.after.map(|after| format!("after={after}"));
        let instance = self.instance.as_ref().map(|instance| format!("instance={instance}"));
        let parts: Vec<String> = after.into_iter().chain(instance).collect();
        parts.join("&")
    }
}

/// What one process remembers. Clones share it.
#[derive(Debug, Clone)]
pub struct Events(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    instance: String,
    kept: Mutex<VecDeque<VolumeEvent>>,
    last: watch::Sender<u64>,
    /// The last one that somebody has who follows; none if nobody ever asked.
    heard: watch::Sender<Option<u64>>,
}

impl Default for Events {
    fn default() -> Self {
        Events(Arc::new(Inner {
            instance: Uuid::new_v4().to_string(),
            kept: Mutex::default(),
            last: watch::Sender::new(0),
            heard: watch::Sender::new(None),
        }))
    }
}

impl Events {
    /// It happened just now.
    pub fn tell(&self, volume: &str, event: What, text: Option<String>) {
        let at = time_of(crate::clock::now());
        self.pass_on(VolumeEvent { number: 0, at, volume: volume.to_owned(), event, text });
    }

    /// The same, as another process told it; it gets a number of this one.
    pub fn pass_on(&self, event: VolumeEvent) {
        let mut kept = self.0.kept.lock();
        let number = *self.0.last.borrow() + 1;
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(VolumeEvent { number, ..event });
        self.0.last.send_replace(number);
    }

    fn since(&self, since: &Since) -> EventPage {
        let kept = self.0.kept.lock();
        let last = *self.0.last.borrow();
        let ours = since.instance.as_ref().is_none_or(|instance| *instance == self.0.instance);
        let after = if ours { since.after.unwrap_or(last) } else { 0 };
        let mut events: Vec<VolumeEvent> =
            kept.iter().filter(|event| event.number > after).cloned().collect();
        let first = kept.front().map_or(last, |event| event.number);
        // Who asks for all that is remembered misses nothing.
        if after > 0 && after + 1 < first {
            let missed = VolumeEvent {
                number: after,
                at: time_of(crate::clock::now()),
                volume: String::new(),
                event: What::Missed,
                text: Some(format!("{} are not remembered any more", first - after - 1)),
            };
            events.insert(0, missed);
        }
        EventPage { instance: self.0.instance.clone(), last, events }
    }

    /// Waits until one of those who follow has heard all that was told, `limit` at most: before the end of a process.
    pub async fn heard(&self, limit: Duration) {
        let last = *self.0.last.borrow();
        let mut heard = self.0.heard.subscribe();
        if heard.borrow_and_update().is_some() {
            let all = heard.wait_for(|heard| *heard >= Some(last));
            // Whoever followed may be gone.
            drop(tokio::time::timeout(limit, all).await);
        }
    }

    /// What came since; waits for some seconds if that is nothing.
    pub async fn wait(&self, since: Since) -> EventPage {
        let ours = since.instance.as_ref() == Some(&self.0.instance);
        let has = since.after.filter(|_| ours).unwrap_or(0);
        self.0.heard.send_if_modified(|heard| {
            let more = *heard < Some(has);
            *heard = (*heard).max(Some(has));
            more
        });
        let mut last = self.0.last.subscribe();
        let mut page = self.since(&since);
        if page.events.is_empty() && since.after.is_some() {
            let after = page.last;
            let waits = last.wait_for(|last| *last > after);
            // No answer but an empty one.
            drop(tokio::time::timeout(LONGEST_WAIT, waits).await);
            page = self.since(&Since::page(&page));
        }
        page
    }
}

fn time_of(now: crate::types::Timestamp) -> String {
    let nanos = i32::try_from(now.nanos / 1_000_000 * 1_000_000).unwrap_or(0);
    match jiff::Timestamp::new(now.secs, nanos) {
        Ok(time) => time.to_string(),
        Err(_) => now.secs.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(page: &EventPage) -> Vec<(u64, What)> {
        page.events.iter().map(|event| (event.number, event.event)).collect()
    }

    #[tokio::test]
    async fn whoever_comes_back_misses_nothing_and_hears_nothing_twice() {
        let events = Events::default();
        let none = events.wait(Since::default()).await;
        assert!(told(&none).is_empty());
        events.tell("v", What::Mounted, None);
        let page = events.wait(Since::page(&none)).await;
        assert_eq!(told(&page), [(1, What::Mounted)]);
        let waits = tokio::spawn({
            let events = events.clone();
            async move { events.wait(Since::page(&page)).await }
        });
        events.tell("v", What::Fenced, Some("why".to_owned()));
        let page = waits.await.unwrap();
        assert_eq!(told(&page), [(2, What::Fenced)]);
        assert_eq!(told(&events.wait(Since::start()).await).len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_ends_when_those_who_follow_have_heard_of_it() {
        let limit = Duration::from_secs(3600);
        let events = Events::default();
        events.tell("v", What::Mounted, None);
        let begun = tokio::time::Instant::now();
        events.heard(limit).await;
        assert_eq!(begun.elapsed(), Duration::ZERO, "nobody follows");
        let page = events.wait(Since::start()).await;
        let follows = tokio::spawn({
            let events = events.clone();
            async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let page = events.wait(Since::page(&page)).await;
                events.wait(Since::page(&page)).await
            }
        });
        events.tell("v", What::Recovered, None);
        events.heard(limit).await;
        assert_eq!(begun.elapsed(), Duration::from_secs(1), "until it asks for what comes then");
        follows.await.unwrap();
        events.tell("v", What::Fenced, None);
        events.heard(Duration::from_secs(5)).await;
        assert!(begun.elapsed() < Duration::from_secs(60), "it does not ask any more");
    }

    #[tokio::test]
    async fn numbers_of_another_process_count_for_nothing() {
        let (old, new) = (Events::default(), Events::default());
        old.tell("v", What::Mounted, None);
        new.tell("v", What::Active, None);
        let page = new.wait(Since::page(&old.wait(Since::start()).await)).await;
        assert_eq!(told(&page), [(1, What::Active)]);
    }

    #[tokio::test]
    async fn what_is_not_remembered_is_told_as_missed() {
        let events = Events::default();
        events.tell("v", What::Mounted, None);
        let page = events.wait(Since::start()).await;
        for _ in 0..KEPT + 2 {
            events.tell("v", What::Conflict, None);
        }
        let page = events.wait(Since::page(&page)).await;
        assert_eq!(page.events.len(), KEPT + 1);
        assert_eq!(page.events[0].event, What::Missed);
        assert!(page.events[0].text.as_ref().unwrap().starts_with("2 "), "{page:?}");
    }
}
