//! Both sides changed a file: theirs keeps the name, ours stands beside it.

use super::SettleError;
use super::reconcile::Reconciler;
use crate::data::Tx;
use crate::meta::records::WorkRec;
use crate::types::{FileKind, FileName, Ino};

impl Reconciler {
    /// Moves our file to a name of its own in the same directory: `NAME.s3vol-conflict-HOST-TIME`,
    /// shortened to what a name may hold, made unique by a number.
    pub(super) async fn set_aside(
        &self,
        tx: &mut Tx<'_>,
        parent: Ino,
        name: &FileName,
        ino: Ino,
        kind: FileKind,
    ) -> Result<FileName, SettleError> {
        let stamp = jiff_stamp();
        let mut number = 0;
        let aside = loop {
            let suffix = match number {
                0 => format!(".s3vol-conflict-{}-{stamp}", self.settler.host),
                n => format!(".s3vol-conflict-{}-{stamp}-{n}", self.settler.host),
            };
            let suffix = &suffix.as_bytes()[..suffix.len().min(200)];
            let keep = name.as_bytes().len().min(255 - suffix.len());
            let candidate = [&name.as_bytes()[..keep], suffix].concat();
            let candidate = FileName::new(candidate).map_err(|_| bad_name())?;
            if tx.dirent(parent, &candidate).await?.is_none() {
                break candidate;
            }
            number += 1;
        };
        tx.unlink(parent, name, ino);
        tx.link(parent, &aside, ino, kind);
        tx.needs_rest(ino, WorkRec::Inode).await?;
        self.settler.conflicts.send_modify(|count| *count += 1);
        tracing::warn!(name = %name, kept = %aside, "a file was changed here and in the bucket; both are kept");
        Ok(aside)
    }
}

fn jiff_stamp() -> String {
    let now = crate::clock::now();
    match jiff::Timestamp::from_second(now.secs) {
        Ok(t) => t.strftime("%Y%m%dT%H%M%SZ").to_string(),
        Err(_) => now.secs.to_string(),
    }
}

fn bad_name() -> SettleError {
    crate::data::DataError::Damaged("a conflict name could not be made".into()).into()
}
