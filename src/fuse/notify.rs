//! Telling the kernel that something changed behind its back.
//!
//! A notification is a write(2) that takes the locks of pages and inodes, and may so wait for requests
//! that this worker has to answer. It is therefore sent from a thread of its own, never from a FUSE
//! loop, a task, or under one of our locks. The order is: first make the new state visible, then
//! notify.
//!
//! A worker that is killed while its notification waits for a directory cannot end: a program has the
//! directory, and waits for an answer of this worker. So the thread that writes has no descriptor but the
//! FUSE device, and does nothing else: the locks, sockets and files of the worker are free when its other
//! threads are gone, and a successor may answer.
//!
//! Nothing is dropped: what is about the same inode or name is merged, and a caller waits while the
//! queue is full. Does not survive a crash of the worker, which is why whoever reads outside changes
//! must notify about the last ones again after a restart.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::thread::JoinHandle;

use fuser::INodeNo;
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::types::{FileName, Ino};

/// Distinct inodes and names that may wait.
const CAPACITY: usize = 4096;

/// Handle for sending notifications; clones share one queue.
#[derive(Debug, Clone)]
pub struct Notifier {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// For the thread: there is something to do.
    work: Condvar,
    /// For callers: there is room again.
    room: tokio::sync::Notify,
}

/// What is waiting, oldest first, at most one item for a key.
#[derive(Debug, Default)]
pub(super) struct Queue {
    order: VecDeque<Key>,
    items: HashMap<Key, Item>,
    /// Who wants to know when an item was sent. Registered before the item, so that it is the next
    /// one of its key that counts.
    waiting: HashMap<Key, Vec<oneshot::Sender<()>>>,
    closed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Inode(Ino),
    Entry(Ino, FileName),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    Inode(Range),
    Entry,
    Delete { child: Ino },
}

/// Which cached bytes of an inode are void, in the kernel's form: a negative offset means none (only
/// the attributes), a length of zero or less means up to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) offset: i64,
    pub(super) len: i64,
}

impl Notifier {
    /// `device` is the number of the descriptor that `kernel` writes to. The thread ends after
    /// [`Notifier::close`].
    pub(super) fn start(
        kernel: fuser::Notifier,
        device: RawFd,
    ) -> io::Result<(Self, JoinHandle<()>)> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            work: Condvar::new(),
            room: tokio::sync::Notify::new(),
        });
        let writer = Writer::start(kernel, device)?;
        let served = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("fuse-notify".to_owned())
            .spawn(move || served.run(writer))?;
        Ok((Notifier { shared }, thread))
    }

    /// The kernel forgets what `name` in `parent` is.
    pub async fn entry(&self, parent: Ino, name: FileName) {
        self.shared.push(Key::Entry(parent, name), Item::Entry).await;
    }

    /// Like [`entry`](Self::entry), and inotify watchers of `child` learn that it was deleted.
    pub async fn delete(&self, parent: Ino, child: Ino, name: FileName) {
        self.shared.push(Key::Entry(parent, name), Item::Delete { child }).await;
    }

    /// The kernel forgets attributes and the given content of `ino`: none for a negative `offset`, up
    /// to the end for `len` 0. Only attributes may be named for a file that somebody has open.
    pub async fn inode(&self, ino: Ino, offset: i64, len: i64) {
        self.shared.push(Key::Inode(ino), Item::Inode(Range { offset, len })).await;
    }

    /// Like [`inode`](Self::inode) for all content, and returns when the kernel has dropped it. No read
    /// of that inode may wait for this: the kernel waits for the pages that it is reading.
    pub async fn content_dropped(&self, ino: Ino) {
        let key = Key::Inode(ino);
        let (sender, sent) = oneshot::channel();
        self.shared.queue.lock().tell(key.clone(), sender);
        self.shared.push(key, Item::Inode(Range { offset: 0, len: 0 })).await;
        // An error: the notifier was closed, and there is no kernel to wait for.
        let _ = sent.await;
    }

    /// Ends the thread, without sending what waits: there is no mount to hear it.
    pub(super) fn close(&self) {
        self.shared.queue.lock().close();
        self.shared.work.notify_all();
        self.shared.room.notify_waiters();
    }
}

impl Shared {
    async fn push(&self, key: Key, item: Item) {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            // Listens from here on, so that room made after the look at the queue is not missed.
            room.as_mut().enable();
            if self.queue.lock().add(&key, &item) {
                self.work.notify_one();
                return;
            }
            room.await;
        }
    }

    fn run(&self, writer: Writer) {
        loop {
            let (key, item, waiting) = {
                let mut queue = self.queue.lock();
                loop {
                    if queue.closed {
                        drop(queue);
                        return writer.end();
                    }
                    if let Some((key, item)) = queue.take() {
                        let waiting = queue.waiting.remove(&key).unwrap_or_default();
                        break (key, item, waiting);
                    }
                    self.work.wait(&mut queue);
                }
            };
            self.room.notify_waiters();
            match writer.send(&key, item) {
                Ok(()) => {}
                // The kernel keeps a name that is a mount point or a directory in use.
                Err(error) if is_refusal(&error) => {
                    tracing::debug!(?key, %error, "the kernel kept what it knows")
                }
                Err(error) => tracing::warn!(?key, %error, "cannot notify the kernel"),
            }
            for waiter in waiting {
                // Whoever waited may have given up.
                let _ = waiter.send(());
            }
        }
    }
}

/// The thread that is in the kernel. It wakes no task and logs nothing, because that takes descriptors.
struct Writer {
    items: Sender<(Key, Item)>,
    sent: Receiver<io::Result<()>>,
    thread: JoinHandle<fuser::Notifier>,
}

impl Writer {
    fn start(kernel: fuser::Notifier, device: RawFd) -> io::Result<Self> {
        let (items, asked) = std::sync::mpsc::channel::<(Key, Item)>();
        let (tell, sent) = std::sync::mpsc::channel();
        let thread =
            std::thread::Builder::new().name("fuse-kernel".to_owned()).spawn(move || {
                // Where that is not to be had it shares the worker's descriptors, as any other thread.
                let _ = crate::sys::keep_only(device);
                for (key, item) in asked {
                    if tell.send(send(&kernel, &key, &item)).is_err() {
                        break;
                    }
                }
                kernel
            })?;
        Ok(Writer { items, sent, thread })
    }

    fn send(&self, key: &Key, item: Item) -> io::Result<()> {
        let gone = || io::Error::other("the thread that notifies the kernel has ended");
        self.items.send((key.clone(), item)).map_err(|_| gone())?;
        self.sent.recv().map_err(|_| gone())?
    }

    /// The last copy of the descriptor's owner is dropped here: the writer can only close its own.
    fn end(self) {
        drop(self.items);
        // Its panic was printed by its hook.
        drop(self.thread.join());
    }
}

fn send(kernel: &fuser::Notifier, key: &Key, item: &Item) -> io::Result<()> {
    match (key, item) {
        (Key::Entry(parent, name), Item::Delete { child }) => {
            kernel.delete(INodeNo(parent.0), INodeNo(child.0), OsStr::from_bytes(name.as_bytes()))
        }
        (Key::Entry(parent, name), _) => {
            kernel.inval_entry(INodeNo(parent.0), OsStr::from_bytes(name.as_bytes()))
        }
        (Key::Inode(ino), Item::Inode(range)) => {
            kernel.inval_inode(INodeNo(ino.0), range.offset, range.len)
        }
        (Key::Inode(ino), _) => kernel.inval_inode(INodeNo(ino.0), -1, 0),
    }
}

fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EBUSY | libc::ENOTEMPTY | libc::ENOTDIR | libc::ENODEV)
    )
}

impl Queue {
    /// `sender` hears of the next item of `key`; at once when there will be none.
    fn tell(&mut self, key: Key, sender: oneshot::Sender<()>) {
        if !self.closed {
            self.waiting.entry(key).or_default().push(sender);
        }
    }

    fn close(&mut self) {
        self.closed = true;
        self.waiting.clear();
    }

    /// Whether `item` waits now, or need not; `false` when there is no room.
    pub(super) fn add(&mut self, key: &Key, item: &Item) -> bool {
        if self.closed {
            return true;
        }
        if let Some(waiting) = self.items.get_mut(key) {
            waiting.merge(item);
            return true;
        }
        if self.items.len() >= CAPACITY {
            return false;
        }
        self.order.push_back(key.clone());
        self.items.insert(key.clone(), item.clone());
        true
    }

    pub(super) fn take(&mut self) -> Option<(Key, Item)> {
        let key = self.order.pop_front()?;
        self.items.remove_entry(&key)
    }
}

impl Item {
    fn merge(&mut self, other: &Item) {
        match (&mut *self, other) {
            (Item::Inode(range), Item::Inode(more)) => *range = range.and(*more),
            (Item::Entry, Item::Delete { .. }) => *self = other.clone(),
            _ => {}
        }
    }
}

impl Range {
    /// The smallest range that holds both.
    pub(super) fn and(self, other: Range) -> Range {
        if self.offset < 0 {
            return other;
        }
        if other.offset < 0 {
            return self;
        }
        let offset = self.offset.min(other.offset);
        if self.len <= 0 || other.len <= 0 {
            return Range { offset, len: 0 };
        }
        let end = self.offset.saturating_add(self.len).max(other.offset.saturating_add(other.len));
        Range { offset, len: end - offset }
    }
}
