//! What the kernel has to forget after outside changes, on its way to whoever tells it.
//!
//! Changes are found while a request of the kernel waits for its answer, often under the lock of the
//! directory in which they are; the kernel takes that lock, too, to forget a name. So nobody waits to
//! put something in, however much there is: a change that is there already is not there twice, and
//! there are no more than names and inodes.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::types::{FileName, Ino};

/// What the kernel has to forget after an outside change.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Changed {
    Entry { parent: Ino, name: FileName },
    Inode { ino: Ino },
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    more: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    order: VecDeque<Changed>,
    there: HashSet<Changed>,
    /// One of the two ends is gone.
    ended: bool,
}

/// Where changes are put in.
#[derive(Debug)]
pub struct Tell(Arc<Shared>);

/// Where they come out, each once however often it was put in meanwhile.
#[derive(Debug)]
pub struct Changes(Arc<Shared>);

/// Both ends of a new queue.
pub fn changes() -> (Tell, Changes) {
    let shared = Arc::<Shared>::default();
    (Tell(Arc::clone(&shared)), Changes(shared))
}

/// Tells when it is dropped. To be made before a change of the tree is handed over: one that is given
/// up on its way may have happened all the same.
#[must_use = "it tells when it is dropped"]
#[derive(Debug)]
pub(in crate::settle) struct Telling<'t> {
    tell: &'t Tell,
    changes: Vec<Changed>,
}

impl Tell {
    pub(super) fn at_end(&self, changes: Vec<Changed>) -> Telling<'_> {
        Telling { tell: self, changes }
    }
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        let shared = &self.tell.0;
        {
            let mut waiting = shared.waiting.lock();
            if waiting.ended {
                return;
            }
            for change in self.changes.drain(..) {
                if waiting.there.insert(change.clone()) {
                    waiting.order.push_back(change);
                }
            }
        }
        shared.more.notify_one();
    }
}

impl Drop for Tell {
    fn drop(&mut self) {
        self.0.waiting.lock().ended = true;
        self.0.more.notify_one();
    }
}

impl Changes {
    /// The next one, when there is one; `None` when there will be no more.
    pub async fn recv(&mut self) -> Option<Changed> {
        loop {
            {
                let mut waiting = self.0.waiting.lock();
                if let Some(change) = waiting.order.pop_front() {
                    waiting.there.remove(&change);
                    return Some(change);
                }
                if waiting.ended {
                    return None;
                }
            }
            self.0.more.notified().await;
        }
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        *self.0.waiting.lock() = Waiting { ended: true, ..Waiting::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inode(ino: u64) -> Changed {
        Changed::Inode { ino: Ino(ino) }
    }

    #[tokio::test]
    async fn a_change_that_waits_is_not_put_in_again() {
        let (tell, mut changes) = changes();
        drop(tell.at_end(vec![inode(1), inode(2), inode(1)]));
        drop(tell.at_end(vec![inode(2), inode(3)]));
        assert_eq!(changes.recv().await, Some(inode(1)));
        // It is on its way: this is about a later change.
        drop(tell.at_end(vec![inode(1)]));
        drop(tell);
        for wanted in [Some(inode(2)), Some(inode(3)), Some(inode(1)), None] {
            assert_eq!(changes.recv().await, wanted);
        }
    }

    #[tokio::test]
    async fn a_change_is_told_also_when_its_task_is_cancelled() {
        let (tell, mut changes) = changes();
        let task = tokio::spawn(async move {
            let _told = tell.at_end(vec![inode(1)]);
            std::future::pending::<()>().await;
        });
        tokio::task::yield_now().await;
        task.abort();
        assert_eq!(changes.recv().await, Some(inode(1)));
        assert_eq!(changes.recv().await, None);
    }

    #[test]
    fn nothing_is_kept_for_nobody() {
        let (tell, changes) = changes();
        drop(changes);
        drop(tell.at_end(vec![inode(1)]));
        assert!(tell.0.waiting.lock().order.is_empty());
    }
}
