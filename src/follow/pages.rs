//! What the kernel's page cache shows of each file.
//!
//! The kernel keeps pages until it is told to drop them, and shows as much of them as the size that it
//! was last told. A page at a file's end that was read before the file grew has zeros where the
//! new bytes are. So the order is: first the pages go, then the new size is said ([`Pages::agree`]).
//! Files that are open are also looked after when nobody asks for their attributes
//! ([`Pages::catch_up`]).

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;

use crate::meta::records::ContentRec;
use crate::meta::{Lookup, View, keys};
use crate::types::Ino;

/// Dropping pages waits for reads of them that are under way.
const DROP: Duration = Duration::from_secs(10);
/// Files remembered that nobody has open.
const KEEP: usize = 16 << 10;

/// The way to the kernel.
#[async_trait]
pub trait KernelPages: std::fmt::Debug + Send + Sync + 'static {
    /// Returns when the kernel has dropped what it had of this file's content.
    async fn drop_pages(&self, ino: Ino);
}

#[derive(Debug, Clone, Copy, Default)]
struct File {
    /// Of the content that pages may show.
    generation: u64,
    opens: u64,
}

#[derive(Debug)]
pub(super) struct Pages {
    kernel: OnceLock<Arc<dyn KernelPages>>,
    /// Files that were opened. Of others the kernel has no pages, unless an earlier worker opened them.
    files: Mutex<HashMap<Ino, File>>,
    inherited: bool,
}

impl Pages {
    pub fn new(inherited: bool) -> Self {
        Pages { kernel: OnceLock::new(), files: Mutex::default(), inherited }
    }

    pub fn tell(&self, kernel: Arc<dyn KernelPages>) {
        // The first one stays.
        let _ = self.kernel.set(kernel);
    }

    /// Whether pages may be read without a request that we see.
    pub fn in_use(&self) -> bool {
        self.inherited || self.files.lock().values().any(|file| file.opens > 0)
    }

    /// Whether the kernel has pages of no other generation.
    pub fn agrees(&self, ino: Ino, generation: u64) -> bool {
        match self.files.lock().get(&ino) {
            Some(file) => file.generation == generation,
            None => !self.inherited,
        }
    }

    /// Sees to it that the kernel has no pages of an older generation. False when it has newer ones:
    /// whoever asks must look at the newest state.
    pub async fn agree(&self, ino: Ino, generation: u64) -> bool {
        match self.files.lock().get(&ino) {
            Some(file) if file.generation > generation => return false,
            Some(file) if file.generation == generation => return true,
            None if !self.inherited => return true,
            _ => {}
        }
        self.drop_pages(ino).await;
        let mut files = self.files.lock();
        let file = files.entry(ino).or_default();
        file.generation = file.generation.max(generation);
        file.generation == generation
    }

    /// A file whose attributes were agreed on was opened.
    pub fn opened(&self, ino: Ino, generation: u64) {
        let mut files = self.files.lock();
        let file = files.entry(ino).or_insert(File { generation, opens: 0 });
        file.opens += 1;
    }

    pub fn closed(&self, ino: Ino) {
        // One that an earlier worker opened was not counted here.
        if let Some(file) = self.files.lock().get_mut(&ino) {
            file.opens = file.opens.saturating_sub(1);
        }
    }

    /// Open files follow `view`.
    pub async fn catch_up(&self, view: &View) {
        let open: Vec<(Ino, u64)> = {
            let files = self.files.lock();
            let open = files.iter().filter(|(_, file)| file.opens > 0);
            open.map(|(ino, file)| (*ino, file.generation)).collect()
        };
        for (ino, generation) in open {
            // One that is gone keeps its pages: they are the last that it was. One that cannot be
            // looked up is seen to with the next state.
            let content = Lookup::get::<ContentRec>(view, &keys::content(ino)).await;
            if let Ok(Some(content)) = content
                && content.generation > generation
            {
                self.agree(ino, content.generation).await;
            }
        }
        self.forget_some().await;
    }

    /// Of many files that nobody has open some are forgotten, and their pages with them.
    async fn forget_some(&self) {
        let closed: Vec<Ino> = {
            let files = self.files.lock();
            if files.len() <= KEEP {
                return;
            }
            let closed = files.iter().filter(|(_, file)| file.opens == 0);
            closed.map(|(ino, _)| *ino).take(files.len() - KEEP / 2).collect()
        };
        for ino in closed {
            let removed = {
                let mut files = self.files.lock();
                let unused = files.get(&ino).is_some_and(|file| file.opens == 0);
                if unused { files.remove(&ino) } else { None }
            };
            if removed.is_some() {
                self.drop_pages(ino).await;
            }
        }
    }

    async fn drop_pages(&self, ino: Ino) {
        let Some(kernel) = self.kernel.get() else { return };
        if tokio::time::timeout(DROP, kernel.drop_pages(ino)).await.is_err() {
            tracing::warn!(%ino, "the kernel does not let go of old pages; a read may be hanging");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Ino = Ino(5);

    #[derive(Debug, Default)]
    struct Kernel(Mutex<Vec<Ino>>);

    #[async_trait]
    impl KernelPages for Kernel {
        async fn drop_pages(&self, ino: Ino) {
            self.0.lock().push(ino);
        }
    }

    fn pages(inherited: bool) -> (Pages, Arc<Kernel>) {
        let (pages, kernel) = (Pages::new(inherited), Arc::new(Kernel::default()));
        pages.tell(Arc::clone(&kernel) as _);
        (pages, kernel)
    }

    #[tokio::test]
    async fn pages_of_an_older_generation_go_before_a_new_size_is_told() {
        let (pages, kernel) = pages(false);
        assert!(pages.agree(FILE, 1).await);
        assert!(kernel.0.lock().is_empty(), "nobody opened it, so there is nothing to drop");
        pages.opened(FILE, 1);
        assert!(!pages.agrees(FILE, 2));
        assert!(pages.agree(FILE, 2).await);
        assert_eq!(*kernel.0.lock(), [FILE]);
        assert!(!pages.agree(FILE, 1).await, "an older view must not be shown over newer pages");
        pages.closed(FILE);
        assert!(!pages.in_use() && pages.agree(FILE, 2).await);
        assert_eq!(kernel.0.lock().len(), 1);
    }

    #[tokio::test]
    async fn pages_that_an_earlier_worker_left_are_of_no_known_generation() {
        let (pages, kernel) = pages(true);
        assert!(pages.in_use() && !pages.agrees(FILE, 1));
        assert!(pages.agree(FILE, 1).await);
        assert_eq!(*kernel.0.lock(), [FILE]);
        assert!(pages.agrees(FILE, 1));
    }
}
