//! Directories that are listed before a program opens them: one that opens a directory and then one below it walks a
//! tree, and will open the others too.
//!
//! A page counts as of when it was requested, and only for half of `refresh`. Any later look at something in its
//! directory makes it stale, and it is dropped, even in flight. Its errors reach no program. A walk begins with a few
//! directories and may list two more for each page that was used, so a program that stops wastes little. With
//! `requester_pays` nothing is listed ahead.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Weak;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::listing::PAGE;
use super::{Reconciler, USE_TIMEOUT};
use crate::clock::{Deadline, boottime};
use crate::data::unescape_name;
use crate::meta::keys;
use crate::settle::SettleError;
use crate::store::{ListPage, ListRequest};
use crate::types::{Ino, ObjectKey};

/// Listings in flight at a time.
const PARALLEL: usize = 16;
/// Names in pages that were not used yet, and subdirectories that are remembered.
const NAMES: usize = 20_000;
/// How long a page, and what is known of a walk, is kept.
const KEPT: Duration = Duration::from_secs(60);
/// With a shorter `refresh` nothing is listed ahead.
const LEAST_REFRESH: Duration = Duration::from_secs(1);
/// Directories listed ahead when a walk begins, and for each page that was used.
const FIRST: usize = 8;
const MORE: usize = 2;
/// Directories of one walk.
const MOST: usize = 32 << 10;
/// After waiting this long for a page in flight, a reader asks itself, and so do all after it.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug)]
enum Page {
    /// Only the answer to the request of this number counts.
    OnWay(u64),
    Here {
        sent: Duration,
        page: ListPage,
    },
}

#[derive(Debug, Default)]
struct Walk {
    /// Pages that were not used yet.
    pages: HashMap<String, Page>,
    names: usize,
    under_way: usize,
    /// Requests so far.
    begun: u64,
    /// A directory whose first page a reader is asking for itself.
    asking: Option<String>,
    /// Subdirectories of those that were listed lately, and their number.
    below: HashMap<String, Vec<String>>,
    below_names: usize,
    /// Directories that were opened, and when the last was.
    opened: HashSet<String>,
    last: Duration,
    /// When the last walk began.
    began: Option<Duration>,
    next: VecDeque<String>,
    may: usize,
    forgetting: bool,
}

impl Walk {
    /// Forgets what is too old.
    fn age(&mut self, now: Duration) {
        self.pages.retain(|_, page| match page {
            Page::OnWay(_) => true,
            Page::Here { sent, .. } => now.saturating_sub(*sent) < KEPT,
        });
        self.count();
        if now.saturating_sub(self.last) >= KEPT {
            (self.may, self.next, self.opened) = Default::default();
            (self.below, self.below_names) = Default::default();
        }
    }

    fn is_over(&self) -> bool {
        self.opened.is_empty() && self.pages.is_empty() && self.below.is_empty()
    }

    fn count(&mut self) {
        let names = |page: &Page| match page {
            Page::OnWay(_) => 0,
            Page::Here { page, .. } => page.entries.len() + page.prefixes.len(),
        };
        self.names = self.pages.values().map(names).sum();
    }

    /// Remembers the subdirectories of one that was listed.
    fn saw(&mut self, prefix: &str, page: &ListPage) {
        if page.prefixes.is_empty() {
            return;
        }
        if self.below_names + page.prefixes.len() > NAMES {
            (self.below, self.below_names) = Default::default();
        }
        self.below_names += page.prefixes.len();
        if let Some(before) = self.below.insert(prefix.to_owned(), page.prefixes.clone()) {
            self.below_names -= before.len();
        }
    }

    /// A page was used. The credit is capped: there may be nothing to list for a long time.
    fn earns(&mut self) {
        self.may = (self.may + MORE).min(FIRST + PARALLEL);
    }

    /// A directory is opened. Says whether a walk enters it for the first time.
    fn opens(&mut self, prefix: &str, now: Duration) -> bool {
        let walking = prefix != above(prefix) && self.opened.contains(above(prefix));
        let new = self.opened.len() < MOST && self.opened.insert(prefix.to_owned());
        if new {
            self.last = now;
        }
        walking && new
    }

    /// A walk enters this directory: its siblings are listed if the walk just began, its subdirectories first.
    fn goes_through(&mut self, prefix: &str, now: Duration, refresh: Duration) {
        let rests = self.began.is_none_or(|began| now.saturating_sub(began) >= refresh);
        if rests && self.next.is_empty() && self.pages.is_empty() {
            self.began = Some(now);
            self.may = self.may.max(FIRST);
            let beside = self.below.get(above(prefix)).cloned().unwrap_or_default();
            self.next.extend(in_order(prefix, above(prefix), beside));
        }
        let below = self.below.remove(prefix).unwrap_or_default();
        self.below_names -= below.len();
        for below in in_order("", prefix, below).into_iter().rev() {
            self.next.push_front(below);
        }
        self.next.truncate(MOST);
    }

    /// What to list now.
    fn begin(&mut self) -> Vec<(String, u64)> {
        let mut begun = Vec::new();
        while self.under_way < PARALLEL && self.may > 0 && self.names < NAMES {
            let Some(prefix) = self.next.pop_front() else { break };
            let asked = self.asking.as_ref() == Some(&prefix);
            if asked || self.opened.contains(&prefix) || self.pages.contains_key(&prefix) {
                continue;
            }
            self.begun += 1;
            self.pages.insert(prefix.clone(), Page::OnWay(self.begun));
            self.under_way += 1;
            self.may -= 1;
            begun.push((prefix, self.begun));
        }
        begun
    }

    /// A request has ended. `None`: its answer is not wanted any more.
    fn ends(&mut self, prefix: &str, number: u64) -> Option<Page> {
        self.under_way -= 1;
        match self.pages.get(prefix) {
            Some(Page::OnWay(own)) if *own == number => self.pages.remove(prefix),
            _ => None,
        }
    }
}

/// What is listed ahead.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    walk: Mutex<Walk>,
    arrived: Notify,
}

impl Ahead {
    /// Something of a directory was just seen: any page of it that was requested before is stale.
    pub(super) fn overtaken(&self, prefix: &str) {
        let mut walk = self.walk.lock();
        if walk.pages.remove(prefix).is_some() {
            walk.count();
            drop(walk);
            self.arrived.notify_waiters();
        }
    }

    /// A directory is gone, with all below it.
    pub(super) fn gone(&self, prefix: &str) {
        let mut walk = self.walk.lock();
        walk.pages.retain(|other, _| !other.starts_with(prefix));
        walk.count();
        drop(walk);
        self.arrived.notify_waiters();
    }
}

fn above(prefix: &str) -> &str {
    let name = prefix.trim_end_matches('/').rfind('/');
    name.map_or("", |at| &prefix[..=at])
}

/// Subdirectories of `above` in the order of the walk: by name if it began with the `first` by name, else as our own
/// listings have them. Keys that no directory can have are left out.
fn in_order(first: &str, above: &str, mut dirs: Vec<String>) -> Vec<String> {
    let cookie = |dir: &String| {
        let segment = dir.strip_prefix(above)?.strip_suffix('/')?;
        unescape_name(segment).map(|name| keys::cookie(&name))
    };
    dirs.retain(|dir| cookie(dir).is_some());
    if dirs.first().is_some_and(|dir| dir != first) {
        dirs.sort_by_cached_key(cookie);
    }
    dirs
}

/// The first page of this directory is not listed ahead meanwhile.
struct Asking<'a>(&'a Ahead);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.walk.lock().asking = None;
    }
}

impl Reconciler {
    /// The first page of a directory, and when it was requested.
    pub(super) async fn first_page(
        &self,
        prefix: &str,
    ) -> Result<(Duration, ListPage), SettleError> {
        let (sent, page) = match self.came_ahead(prefix).await {
            Some(came) => came,
            None => {
                self.ahead.walk.lock().asking = Some(prefix.to_owned());
                let _asking = Asking(&self.ahead);
                (boottime(), self.page(prefix, None).await?)
            }
        };
        if self.lists_ahead() && !page.prefixes.is_empty() {
            let mut walk = self.ahead.walk.lock();
            walk.saw(prefix, &page);
            walk.last = boottime();
            self.forget_later(&mut walk);
        }
        Ok((sent, page))
    }

    /// Something of a directory was seen other than by a listing.
    pub(in crate::settle) fn saw_newer(&self, prefix: &str) {
        self.ahead.overtaken(prefix);
    }

    fn lists_ahead(&self) -> bool {
        let careful = self.volume.options.requester_pays;
        self.volume.tuned().refresh >= LEAST_REFRESH && !careful
    }

    async fn came_ahead(&self, prefix: &str) -> Option<(Duration, ListPage)> {
        let deadline = Deadline::after(PATIENCE);
        loop {
            let arrived = self.ahead.arrived.notified();
            {
                let mut walk = self.ahead.walk.lock();
                if let Page::Here { .. } = walk.pages.get(prefix)? {
                    let found = walk.pages.remove(prefix);
                    walk.count();
                    let Some(Page::Here { sent, page }) = found else { return None };
                    let age = boottime().saturating_sub(sent);
                    // An older page would soon have to be listed again.
                    let counts = age < KEPT.min(self.volume.tuned().refresh / 2);
                    if counts {
                        walk.earns();
                    }
                    return counts.then_some((sent, page));
                }
            }
            if tokio::time::timeout(deadline.left(), arrived).await.is_err() {
                let mut walk = self.ahead.walk.lock();
                walk.pages.retain(|_, page| matches!(page, Page::Here { .. }));
                walk.next.clear();
                return None;
            }
        }
    }

    /// A known directory was opened. If its parent was opened shortly before, its siblings and subdirectories come
    /// next.
    pub(super) async fn walks(&self, dir: Ino) {
        if !self.lists_ahead() || self.bucket_is_away() {
            return;
        }
        // What is wrong with it, whoever opened it meets elsewhere: nothing is listed ahead, that is all.
        let Ok(Some(prefix)) = self.volume.dir_key(dir, &mut Default::default()).await else {
            return;
        };
        let now = boottime();
        let mut walk = self.ahead.walk.lock();
        walk.age(now);
        let new = walk.opens(&prefix, now);
        self.forget_later(&mut walk);
        if new {
            walk.goes_through(&prefix, now, self.volume.tuned().refresh);
        }
        let begun = walk.begin();
        drop(walk);
        self.list_ahead(begun);
    }

    /// Frees the memory when the walk is over.
    fn forget_later(&self, walk: &mut Walk) {
        if !std::mem::replace(&mut walk.forgetting, true) {
            tokio::spawn(forget(Weak::clone(&self.this)));
        }
    }

    fn list_ahead(&self, begun: Vec<(String, u64)>) {
        for (prefix, number) in begun {
            tokio::spawn(list(Weak::clone(&self.this), prefix, number));
        }
    }

    /// Whether what is known of a directory is still fresh.
    async fn is_fresh_at(&self, prefix: &str) -> bool {
        let dir = match prefix == self.volume.prefix.as_str() {
            true => Some(Ino::ROOT),
            false => self.volume.lookup_key(&ObjectKey::new(prefix)).await.unwrap_or_default(),
        };
        dir.is_some_and(|dir| self.is_fresh(dir))
    }
}

async fn list(reconciler: Weak<Reconciler>, prefix: String, number: u64) {
    let Some(this) = reconciler.upgrade() else { return };
    if this.is_fresh_at(&prefix).await {
        let mut walk = this.ahead.walk.lock();
        walk.ends(&prefix, number);
        walk.may += 1;
        let begun = walk.begin();
        drop(walk);
        this.ahead.arrived.notify_waiters();
        return this.list_ahead(begun);
    }
    let (store, sent) = (std::sync::Arc::clone(&this.volume.store), boottime());
    let request =
        ListRequest { prefix: prefix.clone(), delimiter: true, token: None, max_keys: PAGE };
    drop(this);
    let listed = store.list(request, USE_TIMEOUT).await;
    let Some(this) = reconciler.upgrade() else { return };
    let begun = {
        let mut walk = this.ahead.walk.lock();
        let wanted = walk.ends(&prefix, number).is_some();
        match listed {
            Ok(page) if wanted => {
                walk.next.extend(in_order("", &prefix, page.prefixes.clone()));
                walk.next.truncate(MOST);
                walk.saw(&prefix, &page);
                walk.names += page.entries.len() + page.prefixes.len();
                walk.pages.insert(prefix, Page::Here { sent, page });
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(prefix, %error, "a directory was not listed ahead");
                walk.next.clear();
            }
        }
        walk.begin()
    };
    this.ahead.arrived.notify_waiters();
    this.list_ahead(begun);
}

/// Drops pages that were never used.
async fn forget(reconciler: Weak<Reconciler>) {
    loop {
        tokio::time::sleep(KEPT).await;
        let Some(this) = reconciler.upgrade() else { return };
        let mut walk = this.ahead.walk.lock();
        walk.age(boottime());
        if walk.is_over() {
            *walk = Walk {
                under_way: walk.under_way,
                begun: walk.begun,
                began: walk.began,
                asking: walk.asking.take(),
                ..Walk::default()
            };
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_above_is_found_by_its_key() {
        assert_eq!(above("data/a/b/"), "data/a/");
        assert_eq!(above("data/"), "");
        assert_eq!(above(""), "");
    }

    #[test]
    fn only_the_answer_that_is_waited_for_is_kept() {
        let mut walk = Walk { may: 10, next: VecDeque::from(["a/".to_owned()]), ..Walk::default() };
        let begin = |walk: &mut Walk| walk.begin().pop().unwrap();
        let (_, old) = begin(&mut walk);
        walk.pages.remove("a/");
        walk.next.push_back("a/".to_owned());
        let (_, new) = begin(&mut walk);
        assert!(walk.ends("a/", old).is_none() && walk.pages.contains_key("a/"));
        assert!(walk.ends("a/", new).is_some());
        assert_eq!((walk.under_way, walk.pages.len()), (0, 0));
    }

    #[test]
    fn a_directory_that_is_opened_again_and_again_lists_nothing_more() {
        let mut walk = Walk::default();
        let page = |names: &[&str]| ListPage {
            prefixes: names.iter().map(|name| format!("a/{name}/")).collect(),
            ..ListPage::default()
        };
        walk.saw("a/", &page(&["b", "c", "d"]));
        assert!(!walk.opens("a/", KEPT));
        let mut listed = 0;
        for second in 0..600 {
            let now = KEPT + Duration::from_secs(second);
            walk.age(now);
            if walk.opens("a/b/", now) {
                walk.goes_through("a/b/", now, KEPT);
            }
            for (prefix, number) in walk.begin() {
                listed += 1;
                assert!(walk.ends(&prefix, number).is_some());
            }
        }
        assert_eq!(listed, 2);
        walk.age(Duration::from_secs(10_000));
        assert!(walk.is_over());
    }

    #[test]
    fn a_walk_that_uses_no_page_lists_few() {
        let mut walk = Walk { may: FIRST, ..Walk::default() };
        walk.next.extend((0..1000).map(|dir| format!("{dir}/")));
        let mut list = || {
            let mut listed = 0;
            loop {
                let begun = walk.begin();
                if begun.is_empty() {
                    return listed;
                }
                listed += begun.len();
                begun.iter().for_each(|(prefix, number)| drop(walk.ends(prefix, *number)));
            }
        };
        assert_eq!((list(), list()), (FIRST, 0));
        walk.earns();
        assert_eq!(walk.may, MORE);
        (0..1000).for_each(|_| walk.earns());
        assert_eq!(walk.may, FIRST + PARALLEL);
    }

    #[test]
    fn directories_are_listed_in_the_order_of_the_walk() {
        let dirs: Vec<String> = ["b", "c", "d", "e"].map(|name| format!("a/{name}/")).to_vec();
        assert_eq!(in_order("a/b/", "a/", dirs.clone()), dirs);
        let hashed = in_order("", "a/", dirs.clone());
        let first = hashed.iter().find(|dir| **dir != dirs[0]).unwrap();
        assert_eq!(in_order(first, "a/", dirs), hashed);
        let strange = ["a/.s3vol/", "a//"].map(str::to_owned).to_vec();
        assert!(in_order("", "a/", strange).is_empty());
    }
}
