//! The bucket as the metadata engine of one process reaches it: `object_store`'s client, with its retries.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::DateTime;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    Result,
};
use s3vol::store::{Attributes, Properties, Verb};

use crate::bucket::{Access, Bucket, Object, Trouble, ask};

/// As long as a real request may go without a byte.
const IDLE: Duration = Duration::from_secs(30);
/// `object_store` tries again ten times at most.
const ATTEMPTS: u32 = 10;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// And no longer than this.
const RETRIES: Duration = Duration::from_secs(180);

#[derive(Debug)]
pub struct EnginePort {
    pub host: usize,
    /// Ends in `/`.
    pub prefix: String,
}

impl std::fmt::Display for EnginePort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the simulated bucket below {}", self.prefix)
    }
}

fn generic(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Generic { store: "simulated", source: why.into() }
}

fn meta(prefix: &str, key: &str, object: &Object) -> ObjectMeta {
    let path = key.strip_prefix(prefix).unwrap_or(key);
    ObjectMeta {
        location: Path::parse(path).expect("the engine's own names"),
        last_modified: DateTime::from_timestamp_millis(object.modified).unwrap_or_default(),
        size: object.body.len() as u64,
        e_tag: Some(object.etag.clone()),
        version: None,
    }
}

impl EnginePort {
    fn key(&self, path: &Path) -> String {
        format!("{}{path}", self.prefix)
    }

    async fn ask<T: Send + 'static>(
        &self,
        access: Access,
        what: &'static str,
        key: &str,
        apply: impl Fn(&Bucket) -> T + Send + Clone + 'static,
    ) -> Result<T> {
        let mut pause = FIRST_PAUSE;
        let end = s3vol::clock::Deadline::after(RETRIES);
        for attempt in 1.. {
            match ask(self.host, access, what, key, None, IDLE, apply.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(Trouble::Denied | Trouble::Expired) => {
                    let source = "credentials have expired".into();
                    return Err(Error::PermissionDenied { path: key.to_owned(), source });
                }
                Err(trouble) if attempt >= ATTEMPTS || end.passed() => {
                    return Err(generic(format!("{what} of {key}: {trouble:?}")));
                }
                Err(_) => tokio::time::sleep(pause).await,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        Err(generic("not reached"))
    }

    async fn listed(&self, prefix: Option<&Path>, after: Option<&Path>) -> Result<Vec<ObjectMeta>> {
        let below = match prefix {
            Some(path) if !path.as_ref().is_empty() => format!("{}/", self.key(path)),
            _ => self.prefix.clone(),
        };
        let (own, start) = (self.prefix.clone(), after.map(|path| self.key(path)));
        let list = move |bucket: &Bucket| -> Vec<ObjectMeta> {
            let objects = bucket.objects.borrow();
            let found =
                objects.range(below.clone()..).take_while(|(key, _)| key.starts_with(&below));
            found
                .filter(|(key, _)| start.as_ref().is_none_or(|start| *key > start))
                .map(|(key, object)| meta(&own, key, object))
                .collect()
        };
        self.ask(Access::Reads, "LIST", "of the engine", list).await
    }
}

#[async_trait]
impl ObjectStore for EnginePort {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        let key = self.key(location);
        let (at, body) = (key.clone(), Bytes::from(payload));
        let mode = opts.mode.clone();
        let mut attributes = Attributes::new();
        for (name, value) in &opts.attributes {
            if let object_store::Attribute::Metadata(name) = name {
                attributes.insert(name.to_string(), value.to_string());
            }
        }
        let put = move |bucket: &Bucket| {
            let now = bucket.objects.borrow().get(&at).map(|object| object.etag.clone());
            match (&mode, &now) {
                (PutMode::Create, Some(_)) => return Err(Some(true)),
                (PutMode::Update(version), now)
                    if version.e_tag != *now && bucket.honours(Verb::PutIfMatch) =>
                {
                    return Err(None);
                }
                _ => {}
            }
            bucket.put(&at, body.clone(), attributes.clone(), Properties::default());
            Ok(bucket.objects.borrow()[&at].etag.clone())
        };
        match self.ask(Access::Writes, "PUT", &key, put).await? {
            Ok(etag) => {
                Ok(PutResult { e_tag: Some(etag), version: None, extensions: Default::default() })
            }
            Err(Some(_)) => Err(Error::AlreadyExists { path: key, source: "412".into() }),
            Err(None) => Err(Error::Precondition { path: key, source: "412".into() }),
        }
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Err(generic("no file of a simulation is so large"))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let key = self.key(location);
        let at = key.clone();
        let get = move |bucket: &Bucket| bucket.objects.borrow().get(&at).cloned();
        let what = if options.head { "HEAD" } else { "GET" };
        let Some(object) = self.ask(Access::Reads, what, &key, get).await? else {
            return Err(Error::NotFound { path: key, source: "404".into() });
        };
        let meta = meta(&self.prefix, &key, &object);
        options.check_preconditions(&meta)?;
        let range = match &options.range {
            Some(range) => range.as_range(meta.size).map_err(generic)?,
            None => 0..meta.size,
        };
        let body = match options.head {
            true => Bytes::new(),
            false => object.body.slice(range.start as usize..range.end as usize),
        };
        let mut attributes = object_store::Attributes::new();
        for (name, value) in object.attributes {
            attributes.insert(object_store::Attribute::Metadata(name.into()), value.into());
        }
        Ok(GetResult {
            payload: GetResultPayload::Stream(stream::iter([Ok(body)]).boxed()),
            meta,
            range,
            attributes,
            extensions: Default::default(),
        })
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let port = EnginePort { host: self.host, prefix: self.prefix.clone() };
        locations
            .then(move |location| {
                let port = EnginePort { host: port.host, prefix: port.prefix.clone() };
                async move {
                    let location = location?;
                    let key = port.key(&location);
                    let at = key.clone();
                    let delete = move |bucket: &Bucket| {
                        bucket.objects.borrow_mut().remove(&at);
                    };
                    port.ask(Access::Writes, "DELETE", &key, delete).await?;
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.after(prefix, None)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.after(prefix, Some(offset.clone()))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let all = self.listed(prefix, None).await?;
        let below = prefix.filter(|path| !path.as_ref().is_empty());
        let depth = below.map_or(0, |path| path.parts().count());
        let mut objects = Vec::new();
        let mut common_prefixes: Vec<Path> = Vec::new();
        for meta in all {
            match meta.location.parts().count() == depth + 1 {
                true => objects.push(meta),
                false => {
                    let folder = Path::from_iter(meta.location.parts().take(depth + 1));
                    if common_prefixes.last() != Some(&folder) {
                        common_prefixes.push(folder);
                    }
                }
            }
        }
        Ok(ListResult { common_prefixes, objects, extensions: Default::default() })
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(generic("the engine copies nothing"))
    }
}

impl EnginePort {
    fn after(
        &self,
        prefix: Option<&Path>,
        after: Option<Path>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let port = EnginePort { host: self.host, prefix: self.prefix.clone() };
        let prefix = prefix.cloned();
        stream::once(async move { port.listed(prefix.as_ref(), after.as_ref()).await })
            .flat_map(|listed| match listed {
                Ok(all) => stream::iter(all.into_iter().map(Ok).collect::<Vec<_>>()),
                Err(error) => stream::iter(vec![Err(error)]),
            })
            .boxed()
    }
}
