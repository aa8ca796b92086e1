//! Uploads that were not published and still can be: whatever came in between (a flush that was late, a lapse of the
//! lease, an error about another file), their parts need not be sent again as long as they are the file's content.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::bodies::Ready;
use super::body::{Body, unchanged};
use super::dress::Dress;
use super::item::Item;
use super::{SettleError, Settler};
use crate::clock::{Deadline, boottime};
use crate::data::Inode;
use crate::meta::records::ContentRec;
use crate::types::{Ino, ObjectKey, PutId};

/// A file that does not come again under its key in this time has another one by now.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// The object that an upload is to become, and the state of the file that it shows.
pub(super) struct Upload {
    pub inode: Arc<Inode>,
    pub content: ContentRec,
    pub write_seq: u64,
    pub put_id: PutId,
    pub dress: Dress,
    /// `None`: it is not up yet.
    pub body: Option<Body>,
    /// How long it took.
    pub prepared: Duration,
}

impl std::fmt::Debug for Upload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upload").field("ino", &self.inode.ino).finish_non_exhaustive()
    }
}

impl Upload {
    pub fn ino(&self) -> Ino {
        self.inode.ino
    }

    fn is_current(&self) -> bool {
        unchanged(&self.inode, &self.content, self.write_seq)
    }

    /// Sends it; `None`: the file changed meanwhile. `ready`: what was read of it before.
    pub async fn send(
        &self,
        settler: &Settler,
        key: &ObjectKey,
        ready: Option<&Ready>,
    ) -> Result<Option<Body>, SettleError> {
        settler.body(&self.inode, key, &self.content, self.write_seq, &self.dress, ready).await
    }
}

/// By the key that each is for, and since when.
pub(super) type Kept = Mutex<HashMap<ObjectKey, (Duration, Upload)>>;

impl Settler {
    /// Keeps what was uploaded for an item that is not published now.
    pub(super) async fn keep(&self, item: Item) {
        let Item { inode, put_id, intent, dress, body, write_seq, prepared } = item;
        let content = ContentRec { generation: intent.generation, ..ContentRec::default() };
        let body = Some(body);
        let upload = Upload { inode, content, write_seq, put_id, dress, body, prepared };
        self.keep_upload(intent.key, upload).await;
    }

    pub(super) async fn keep_upload(&self, key: ObjectKey, upload: Upload) {
        if !matches!(upload.body, Some(Body::Upload { .. })) {
            return;
        }
        let useless = match upload.is_current() {
            true => self.kept.lock().insert(key.clone(), (boottime(), upload)).map(|(_, old)| old),
            false => Some(upload),
        };
        if let Some(useless) = useless {
            self.drop_upload(&key, &useless).await;
        }
    }

    /// What is kept for a key, if it is this state of the inode and bears what `dress` says that it has to.
    pub(super) async fn take_kept(
        &self,
        key: &ObjectKey,
        (inode, content, write_seq): (&Arc<Inode>, &ContentRec, u64),
        dress: impl FnOnce(PutId) -> Dress,
    ) -> Option<Upload> {
        let (_, upload) = self.kept.lock().remove(key)?;
        let same = Arc::ptr_eq(&upload.inode, inode)
            && (upload.content.generation, upload.write_seq) == (content.generation, write_seq)
            && upload.is_current()
            && dress(upload.put_id) == upload.dress;
        if !same {
            self.drop_upload(key, &upload).await;
            return None;
        }
        tracing::debug!(%key, "an upload of before is published");
        Some(upload)
    }

    /// What is kept for a key is gone from the store.
    pub(super) fn forget_kept(&self, key: &ObjectKey) {
        self.kept.lock().remove(key);
    }

    /// Drops what is kept and no longer what its file is.
    pub(super) async fn sweep_kept(&self) {
        let old = |since: Duration| boottime().saturating_sub(since) > KEPT;
        let stale: Vec<_> = {
            let mut kept = self.kept.lock();
            kept.extract_if(|_, (since, upload)| !upload.is_current() || old(*since)).collect()
        };
        for (key, (_, upload)) in stale {
            self.drop_upload(&key, &upload).await;
        }
    }

    /// Drops all that is kept, as far as there is time.
    pub(super) async fn drop_kept(&self, deadline: Deadline) {
        let kept = std::mem::take(&mut *self.kept.lock());
        let drops = kept.iter().map(|(key, (_, upload))| self.drop_upload(key, upload));
        drop(tokio::time::timeout(deadline.left(), futures::future::join_all(drops)).await);
    }

    async fn drop_upload(&self, key: &ObjectKey, upload: &Upload) {
        if let Some(body) = &upload.body {
            self.drop_body(key, body).await;
        }
    }
}
