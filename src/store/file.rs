//! `file://`: a directory as a bucket, for one machine.
//!
//! Objects are plain files at their natural paths ([`name`] tells the exceptions), `dir/` is a
//! directory, attributes are real ones and one extended attribute ([`record`]). Everything is
//! synced before it is answered. The store's clock is this host's. A directory may be used by
//! several processes; other programs may read and write the files too.

mod disk;
mod list;
mod name;
mod record;
mod upload;

use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use object_store::local::LocalFileSystem;

use self::disk::{Disk, Found, Stop, fill, in_time, outcome, pour};
use self::name::Place;
use self::record::{About, Record, attributes_of, sidecar_base, version_of};
use self::upload::Uploading;
use super::engine::{EngineStore, Gate};
use super::meter::{Kind, Meter, host_time};
use super::wire::{ANSWER_MAX, Progress};
use super::{
    Attributes, GetResult, ListPage, ListRequest, Location, ObjectInfo, Part, Properties,
    PutOutcome, RequestCounts, Send, StoreBackend, StoreError, StoreErrorKind, Tags, UploadId,
};
use crate::types::{KeyPrefix, ObjectKey, StoreTime, Version};

/// The local directory behind `file://`.
#[derive(Debug)]
pub(super) struct FileStore {
    disk: Disk,
    meter: Arc<Meter>,
    endpoint: String,
}

impl FileStore {
    pub(super) fn open(location: &Location) -> Result<Self, StoreError> {
        let bucket = PathBuf::from(&location.bucket);
        let endpoint = format!("file://{}", location.bucket);
        Ok(FileStore { disk: Disk { bucket }, meter: Arc::new(Meter::default()), endpoint })
    }

    /// Runs blocking work. When it got on with nothing for `timeout` the caller stops waiting, but the
    /// work goes on; what it may still change is bounded by its expiry.
    async fn run<T: std::marker::Send + 'static>(
        &self,
        timeout: Duration,
        work: impl FnOnce(&Disk, &Progress) -> Result<T, StoreError> + std::marker::Send + 'static,
    ) -> Result<T, StoreError> {
        let (disk, progress) = (self.disk.clone(), Progress::new(timeout));
        let moves = progress.clone();
        let running = tokio::task::spawn_blocking(move || work(&disk, &moves));
        match progress.watch(running).await {
            Ok(Ok(result)) => result,
            Ok(Err(e)) => Err(StoreError {
                kind: StoreErrorKind::Unreachable,
                message: format!("the work on {} was broken off", self.endpoint),
                source: Some(Box::new(e)),
            }),
            Err(_) => Err(StoreError::new(
                StoreErrorKind::Timeout,
                format!(
                    "{}: the disk did not answer within {:.1} s",
                    self.endpoint,
                    timeout.as_secs_f64()
                ),
            )),
        }
    }

    async fn change(
        &self,
        timeout: Duration,
        work: impl FnOnce(&Disk, &Progress) -> Result<Version, Stop> + std::marker::Send + 'static,
    ) -> PutOutcome {
        match self.run(timeout, move |disk, progress| Ok(outcome(work(disk, progress)))).await {
            Ok(outcome) => outcome,
            Err(e) => PutOutcome::Ambiguous(e),
        }
    }
}

#[async_trait]
impl StoreBackend for FileStore {
    async fn put(
        &self,
        key: &ObjectKey,
        body: Bytes,
        attributes: &Attributes,
        properties: &Properties,
        send: Send,
    ) -> PutOutcome {
        self.meter.sent(body.len());
        let (key, about) = (key.as_str().to_owned(), About::new(attributes, properties));
        let work = self.change(send.timeout, move |disk, progress| {
            in_time(&key, send.not_after)?;
            let record = Record::new(about, host_time());
            if key.ends_with('/') {
                if !body.is_empty() {
                    return Err(StoreError::new(
                        StoreErrorKind::Unsupported,
                        format!("{key:?} is a directory here, which has no content"),
                    )
                    .into());
                }
                return disk.put_marker(&key, record, &send.condition, send.not_after);
            }
            write(disk, &key, record, &send, |temp| fill(temp, &body, progress))
        });
        self.meter.local(Kind::Put, work).await
    }

    async fn get(
        &self,
        key: &ObjectKey,
        range: Option<Range<u64>>,
        expect: Option<&Version>,
        timeout: Duration,
    ) -> Result<GetResult, StoreError> {
        let (key, expect) = (key.as_str().to_owned(), expect.cloned());
        let work = self.run(timeout, move |disk, _| {
            let found = disk.find(&key)?.ok_or_else(|| {
                StoreError::new(StoreErrorKind::NotFound, format!("{key:?} does not exist"))
            })?;
            let changed = || {
                StoreError::new(
                    StoreErrorKind::Changed,
                    format!("{key:?} is no longer the expected version"),
                )
            };
            let version = found.version();
            if expect.is_some_and(|expect| !expect.same(&version)) {
                return Err(changed());
            }
            let range = range.unwrap_or(0..version.size);
            let end = range.end.min(version.size);
            let start = range.start.min(end);
            if end - start > ANSWER_MAX {
                let text = format!("{key:?} is too long to be read at once; who put it there?");
                return Err(StoreError::new(StoreErrorKind::Protocol, text));
            }
            let mut data = vec![0; (end - start) as usize];
            match found.file.read_exact_at(&mut data, start) {
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Err(changed()),
                Err(e) => return Err(disk.error(&format!("read {key:?}"), e)),
                Ok(()) => {}
            }
            // Somebody may have written into the file meanwhile.
            let meta =
                found.file.metadata().map_err(|e| disk.error(&format!("read {key:?}"), e))?;
            if version_of(&meta, found.record.as_ref()) != version {
                return Err(changed());
            }
            Ok(GetResult { info: info(&found), data: data.into() })
        });
        let result = self.meter.local(Kind::Get, work).await?;
        self.meter.received(result.data.len());
        Ok(result)
    }

    async fn head(
        &self,
        key: &ObjectKey,
        timeout: Duration,
    ) -> Result<Option<ObjectInfo>, StoreError> {
        let key = key.as_str().to_owned();
        let work = self.run(timeout, move |disk, _| Ok(disk.find(&key)?.as_ref().map(info)));
        self.meter.local(Kind::Head, work).await
    }

    async fn get_tags(
        &self,
        key: &ObjectKey,
        timeout: Duration,
    ) -> Result<Option<Tags>, StoreError> {
        let key = key.as_str().to_owned();
        let work = self.run(timeout, move |disk, _| {
            let found = disk.find(&key)?.ok_or_else(|| {
                StoreError::new(StoreErrorKind::NotFound, format!("{key:?} does not exist"))
            })?;
            Ok(Some(found.record.and_then(|record| record.properties.tags).unwrap_or_default()))
        });
        self.meter.local(Kind::Get, work).await
    }

    async fn list(&self, request: ListRequest, timeout: Duration) -> Result<ListPage, StoreError> {
        let work = self.run(timeout, move |disk, _| disk.list(&request));
        self.meter.local(Kind::List, work).await
    }

    async fn delete(&self, key: &ObjectKey, send: Send) -> PutOutcome {
        let key = key.as_str().to_owned();
        let work = self.change(send.timeout, move |disk, _| {
            in_time(&key, send.not_after)?;
            disk.delete(&key, &send.condition, send.not_after)
        });
        self.meter.local(Kind::Delete, work).await
    }

    async fn copy(
        &self,
        from: &ObjectKey,
        expect: &Version,
        to: &ObjectKey,
        attributes: &Attributes,
        properties: &Properties,
        send: Send,
    ) -> PutOutcome {
        let (from, to) = (from.as_str().to_owned(), to.as_str().to_owned());
        let (expect, mut about) = (expect.clone(), About::new(attributes, properties));
        let work = self.change(send.timeout, move |disk, progress| {
            in_time(&to, send.not_after)?;
            let source = disk.find(&from)?.ok_or(Stop::Lost)?;
            if !expect.same(&source.version()) {
                return Err(Stop::Lost);
            }
            if about.properties.tags.is_none() {
                about.properties.tags =
                    source.record.as_ref().and_then(|r| r.properties.tags.clone());
            }
            let record = Record::new(about, host_time());
            if to.ends_with('/') {
                return disk.put_marker(&to, record, &send.condition, send.not_after);
            }
            let mut same = true;
            let version = write(disk, &to, record, &send, |temp| {
                pour(&source.file, temp, progress)?;
                let meta = source.file.metadata()?;
                same = version_of(&meta, source.record.as_ref()) == source.version();
                if same { Ok(()) } else { Err(io::ErrorKind::StaleNetworkFileHandle.into()) }
            });
            if same { version } else { Err(Stop::Lost) }
        });
        self.meter.local(Kind::Copy, work).await
    }

    async fn create_upload(
        &self,
        key: &ObjectKey,
        attributes: &Attributes,
        properties: &Properties,
        timeout: Duration,
    ) -> Result<UploadId, StoreError> {
        let (key, about) = (key.as_str().to_owned(), About::new(attributes, properties));
        let work = self.run(timeout, move |disk, _| Uploading::begin(disk, &key, &about));
        self.meter.local(Kind::Multipart, work).await
    }

    async fn upload_part(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        part: Part,
        body: Bytes,
        timeout: Duration,
    ) -> Result<String, StoreError> {
        self.meter.sent(body.len());
        let (key, upload) = (key.as_str().to_owned(), upload.clone());
        let work = self.run(timeout, move |disk, progress| {
            Uploading::of(disk, &key, &upload)?.write(part, &body, progress)
        });
        self.meter.local(Kind::Multipart, work).await
    }

    async fn complete_upload(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        parts: &[String],
        size: u64,
        send: Send,
    ) -> PutOutcome {
        let (key, upload, parts) = (key.as_str().to_owned(), upload.clone(), parts.to_vec());
        let work = self.change(send.timeout, move |disk, _| {
            in_time(&key, send.not_after)?;
            let (about, temp, place) = Uploading::of(disk, &key, &upload)?.take(&parts, size)?;
            finish(disk, &key, &place, temp, Record::new(about, host_time()), &send)
        });
        self.meter.local(Kind::Multipart, work).await
    }

    async fn abort_upload(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        timeout: Duration,
    ) -> Result<(), StoreError> {
        let (key, upload) = (key.as_str().to_owned(), upload.clone());
        let work = self.run(timeout, move |disk, _| Uploading::of(disk, &key, &upload)?.abort());
        self.meter.local(Kind::Multipart, work).await
    }

    async fn now(&self, _timeout: Duration) -> Result<StoreTime, StoreError> {
        Ok(host_time())
    }

    fn requests(&self) -> RequestCounts {
        self.meter.counts()
    }

    fn measured(&self) -> Option<Arc<crate::metrics::Requests>> {
        Some(Arc::clone(self.meter.requests()))
    }

    fn endpoint(&self) -> &str {
        &self.endpoint
    }
}

#[async_trait]
impl super::Backend for FileStore {
    fn engine(&self, prefix: &KeyPrefix) -> Result<EngineStore, StoreError> {
        self.disk.need_bucket()?;
        let dir = match prefix.as_str() {
            "" => self.disk.bucket.clone(),
            prefix => self.disk.place(prefix)?.dir,
        };
        self.disk.make_dirs(&dir)?;
        let store = LocalFileSystem::new_with_prefix(&dir).map_err(|e| StoreError {
            kind: StoreErrorKind::Unreachable,
            message: format!("the folder {} cannot be opened: {e}", dir.display()),
            source: Some(Box::new(e)),
        })?;
        let store = Arc::new(store.with_fsync(true));
        Ok(EngineStore::new(store, Gate::new(), Some(Arc::clone(&self.meter))))
    }

    async fn check(&self, prefix: &KeyPrefix) -> Result<ListPage, StoreError> {
        const CHECK_TIME: Duration = Duration::from_secs(9);
        let key = format!("{prefix}check");
        self.run(CHECK_TIME, move |disk, _| {
            let place = disk.place(&key)?;
            // Only a real file shows that the disk takes one.
            let temp = disk.temp(&place)?;
            temp.file.sync_all().map_err(|e| disk.error("write a file", e))?;
            disk.sweep(&place.own());
            Ok(())
        })
        .await?;
        let prefix = prefix.as_str().to_owned();
        let first = ListRequest { prefix, delimiter: true, token: None, max_keys: 2 };
        self.list(first, CHECK_TIME).await
    }

    async fn expired_delete(&self, key: &ObjectKey, timeout: Duration) -> Result<bool, StoreError> {
        let send = Send { not_after: Some(super::probe::LONG_AGO), ..Send::plain(timeout) };
        // Nobody but this process judges the expiry here.
        Ok(!matches!(self.delete(key, send).await, PutOutcome::Won(_)))
    }
}

/// Fills a temporary file and makes it the object.
fn write(
    disk: &Disk,
    key: &str,
    record: Record,
    send: &Send,
    content: impl FnOnce(&mut disk::Temp) -> io::Result<()>,
) -> Result<Version, Stop> {
    let place = disk.place(key)?;
    let mut temp = disk.temp(&place)?;
    content(&mut temp).map_err(|e| disk.error(&format!("write {key:?}"), e))?;
    finish(disk, key, &place, temp, record, send)
}

/// Gives a temporary file that has its content its attributes, syncs it and commits it.
fn finish(
    disk: &Disk,
    key: &str,
    place: &Place,
    temp: disk::Temp,
    mut record: Record,
    send: &Send,
) -> Result<Version, Stop> {
    record
        .apply(&temp.file, &sidecar_base(&place.own(), key))
        .and_then(|()| temp.file.sync_all())
        .map_err(|e| disk.error(&format!("write {key:?}"), e))?;
    disk.commit(key, place, temp, &record, &send.condition, send.not_after)
}

fn info(found: &Found) -> ObjectInfo {
    let attributes = attributes_of(&found.meta, found.record.as_ref());
    let mut properties = found.record.as_ref().map(|r| r.properties.clone()).unwrap_or_default();
    let tags = properties.tags.take();
    let tag_count = Some(tags.map_or(0, |tags| tags.len() as u32));
    ObjectInfo { version: found.version(), attributes, properties, tag_count }
}

#[cfg(test)]
mod tests;
