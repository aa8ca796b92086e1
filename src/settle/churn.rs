//! Trees in which many names come and go (an archive being unpacked, a build) settle when it is quiet
//! there: names that live shorter cost nothing.
//!
//! The smallest tree around the changes waits, not the volume. In memory only.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Duration;

use parking_lot::Mutex;

use super::{SettleError, Settler};
use crate::clock::boottime;
use crate::meta::keys;
use crate::types::Ino;

/// More changes of names than this within [`WINDOW`] make a tree wait.
const MANY: u64 = 1000;
const WINDOW: Duration = Duration::from_secs(60);
/// Until nothing happened in it for this long.
const QUIET: Duration = Duration::from_secs(30);
/// But no longer than this.
const LONGEST: Duration = Duration::from_secs(3600);
/// What was counted is looked at this often.
const PACE: Duration = Duration::from_secs(1);
/// No directory is deeper.
const DEPTH: usize = 10_000;

/// A directory and those above it, the root last.
type Chain = Vec<Ino>;

#[derive(Debug, Default)]
pub(super) struct Churning(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    looked: Option<Duration>,
    /// Changes by directory, the latest last.
    window: VecDeque<(Duration, Vec<(Chain, u32)>)>,
    waiting: HashMap<Ino, Waiting>,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    since: Duration,
    changed: Duration,
}

impl Churning {
    /// Takes in the changes of names since the last call.
    fn learn(&self, now: Duration, changes: Vec<(Chain, u32)>) {
        let inner = &mut *self.0.lock();
        inner.waiting.retain(|_, tree| now.saturating_sub(tree.changed) < QUIET);
        for (chain, _) in &changes {
            for dir in chain {
                if let Some(tree) = inner.waiting.get_mut(dir) {
                    tree.changed = now;
                }
            }
        }
        let touched: HashSet<Ino> = changes.iter().flat_map(|(chain, _)| chain.clone()).collect();
        if !changes.is_empty() {
            inner.window.push_back((now, changes));
        }
        while inner.window.front().is_some_and(|(at, _)| now.saturating_sub(*at) > WINDOW) {
            inner.window.pop_front();
        }
        // The deepest first: a tree that waits does not count for those around it.
        let mut counts: BTreeMap<(usize, Ino), (Option<Ino>, u64)> = BTreeMap::new();
        for (chain, count) in inner.window.iter().flat_map(|(_, changes)| changes) {
            for (index, dir) in chain.iter().enumerate() {
                let depth = chain.len() - 1 - index;
                let entry =
                    counts.entry((depth, *dir)).or_insert((chain.get(index + 1).copied(), 0));
                if index == 0 {
                    entry.1 += u64::from(*count);
                }
            }
        }
        while let Some(((depth, dir), (above, count))) = counts.pop_last() {
            if count > MANY && touched.contains(&dir) {
                inner.waiting.entry(dir).or_insert(Waiting { since: now, changed: now });
            } else if let Some(above) = above
                && let Some(entry) = counts.get_mut(&(depth.saturating_sub(1), above))
            {
                entry.1 += count;
            }
        }
    }

    /// How long what lies in the first directory of `chain` has to wait.
    fn wait(&self, now: Duration, chain: &[Ino]) -> Option<Duration> {
        let inner = self.0.lock();
        chain
            .iter()
            .filter_map(|dir| inner.waiting.get(dir))
            .filter(|tree| now.saturating_sub(tree.since) < LONGEST)
            .filter_map(|tree| (tree.changed + QUIET).checked_sub(now).filter(|w| !w.is_zero()))
            .max()
    }

    fn is_calm(&self) -> bool {
        self.0.lock().waiting.is_empty()
    }

    /// Whether it is time to look again.
    fn due(&self, now: Duration, counted: u64) -> bool {
        let inner = &mut *self.0.lock();
        if counted == 0 && inner.waiting.is_empty() {
            return false;
        }
        let soon = inner.looked.is_some_and(|at| now.saturating_sub(at) < PACE);
        if soon && counted <= MANY {
            return false;
        }
        inner.looked = Some(now);
        true
    }
}

impl Settler {
    pub(super) async fn watch_churn(&self) -> Result<(), SettleError> {
        let now = boottime();
        if !self.churning.due(now, self.volume.churn.total()) {
            return Ok(());
        }
        let mut parents = HashMap::new();
        let mut changes = Vec::new();
        for (dir, count) in self.volume.churn.take() {
            changes.push((self.chain(dir, &mut parents).await?, count));
        }
        self.churning.learn(now, changes);
        Ok(())
    }

    /// How long an inode has to wait because of what happens around it. `parents` is a memo.
    pub(super) async fn churn_wait(
        &self,
        ino: Ino,
        parents: &mut HashMap<Ino, Option<Ino>>,
    ) -> Result<Option<Duration>, SettleError> {
        if self.hurried() || self.churning.is_calm() {
            return Ok(None);
        }
        let Some(parent) = self.parent(ino).await? else { return Ok(None) };
        let chain = self.chain(parent, parents).await?;
        Ok(self.churning.wait(boottime(), &chain))
    }

    async fn chain(
        &self,
        dir: Ino,
        parents: &mut HashMap<Ino, Option<Ino>>,
    ) -> Result<Chain, SettleError> {
        let mut chain = vec![dir];
        let mut at = dir;
        while at != Ino::ROOT && chain.len() < DEPTH {
            let above = match parents.get(&at) {
                Some(above) => *above,
                None => {
                    let above = self.parent(at).await?;
                    parents.insert(at, above);
                    above
                }
            };
            // What is no longer linked counts for the root.
            at = above.unwrap_or(Ino::ROOT);
            chain.push(at);
        }
        Ok(chain)
    }

    async fn parent(&self, ino: Ino) -> Result<Option<Ino>, SettleError> {
        let found = self.volume.meta.scan(keys::of_inode(keys::PARENT, ino), 1).await?;
        Ok(found.first().and_then(|(key, _)| keys::parse_parent(key)).map(|(parent, _)| parent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: Ino = Ino::ROOT;
    const APP: Ino = Ino(10);
    const MODULES: Ino = Ino(11);
    const LOGS: Ino = Ino(12);

    fn at(secs: u64) -> Duration {
        Duration::from_secs(1000 + secs)
    }

    /// A package of its own below `MODULES`.
    fn package(number: u64) -> Chain {
        vec![Ino(100 + number), MODULES, APP, ROOT]
    }

    #[test]
    fn the_smallest_busy_tree_waits_until_it_is_quiet() {
        let churning = Churning::default();
        churning.learn(at(0), (0..101).map(|n| (package(n), 10)).collect());
        assert_eq!(churning.wait(at(0), &package(7)), Some(QUIET));
        assert_eq!(churning.wait(at(0), &[MODULES, APP, ROOT]), Some(QUIET));
        assert_eq!(churning.wait(at(0), &[APP, ROOT]), None);
        assert_eq!(churning.wait(at(0), &[LOGS, ROOT]), None);
        churning.learn(at(20), vec![(package(3), 1)]);
        assert_eq!(churning.wait(at(40), &package(7)), Some(Duration::from_secs(10)));
        assert_eq!(churning.wait(at(50), &package(7)), None);
        churning.learn(at(50), Vec::new());
        assert!(churning.is_calm());
    }

    #[test]
    fn what_happens_slowly_does_not_wait() {
        let churning = Churning::default();
        for second in 0..600 {
            churning.learn(at(second), vec![(vec![LOGS, ROOT], 16)]);
            assert!(churning.is_calm(), "after {second} s");
        }
        churning.learn(at(600), vec![(vec![LOGS, ROOT], 100)]);
        assert_eq!(churning.wait(at(600), &[LOGS, ROOT]), Some(QUIET));
    }

    #[test]
    fn no_tree_waits_for_ever() {
        let churning = Churning::default();
        for second in 0..3600 {
            churning.learn(at(second), vec![(vec![LOGS, ROOT], 5000)]);
            assert!(churning.wait(at(second), &[LOGS, ROOT]).is_some(), "after {second} s");
        }
        for second in 3600..3700 {
            churning.learn(at(second), vec![(vec![LOGS, ROOT], 5000)]);
            assert_eq!(churning.wait(at(second), &[LOGS, ROOT]), None, "after {second} s");
        }
    }
}
