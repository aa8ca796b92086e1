//! What the credentials of a store may do, tried with objects of its own, which are removed again.

use std::time::Duration;

use bytes::Bytes;

use super::{
    Attributes, ListRequest, Properties, PutOutcome, Scheme, Send, StoreBackend, StoreError,
    StoreErrorKind, Tags,
};
use crate::types::{KeyPrefix, ObjectKey};

/// For each request.
const REQUEST: Duration = Duration::from_secs(10);

/// One right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    List,
    Read,
    Write,
    Multipart,
    Tags,
    Delete,
}

impl Right {
    pub fn name(self) -> &'static str {
        match self {
            Right::List => "list",
            Right::Read => "read",
            Right::Write => "write",
            Right::Multipart => "multipart",
            Right::Tags => "tags",
            Right::Delete => "delete",
        }
    }

    /// Without tags a volume works, and leaves those of objects alone.
    pub fn is_needed(self) -> bool {
        self != Right::Tags
    }

    /// What the provider calls it.
    pub fn cure(self, scheme: Scheme) -> &'static str {
        match (scheme, self) {
            (Scheme::Azure, Right::Tags) => {
                "give them the role Storage Blob Data Owner, or a SAS with the right to tags"
            }
            (Scheme::Azure, Right::List | Right::Read) => {
                "give them the role Storage Blob Data Reader, and to write Contributor"
            }
            (Scheme::Azure, _) => "give them the role Storage Blob Data Contributor",
            (Scheme::Google, Right::List | Right::Read) => {
                "give the service account the role Storage Object Viewer, and to write Storage Object User"
            }
            (Scheme::Google, _) => "give the service account the role Storage Object User",
            (_, Right::List) => "give them s3:ListBucket on the bucket",
            (_, Right::Read) => "give them s3:GetObject on the objects",
            (_, Right::Write) => "give them s3:PutObject on the objects",
            (_, Right::Multipart) => {
                "give them s3:PutObject and s3:AbortMultipartUpload on the objects"
            }
            (_, Right::Tags) => {
                "give them s3:GetObjectTagging and s3:PutObjectTagging on the objects"
            }
            (_, Right::Delete) => "give them s3:DeleteObject on the objects",
        }
    }
}

/// Tries what there is to try below `scratch`, and to list at `prefix`. `reads`: nothing is written.
pub(super) async fn rights(
    store: &dyn StoreBackend,
    prefix: &KeyPrefix,
    scratch: &KeyPrefix,
    reads: bool,
) -> Vec<(Right, Result<(), StoreError>)> {
    let request = ListRequest {
        prefix: prefix.as_str().to_owned(),
        delimiter: true,
        token: None,
        max_keys: 2,
    };
    let listed = store.list(request, REQUEST).await.map(drop);
    let goes_on = listed.as_ref().err().is_none_or(|e| e.kind == StoreErrorKind::Denied);
    let mut found = vec![(Right::List, listed)];
    // It cannot be used at all.
    if !goes_on {
        return found;
    }
    let key = scratch.key("rights");
    if reads {
        found.push((Right::Read, read(store, &key).await));
        return found;
    }
    let put = async |key: &ObjectKey, tags: Option<Tags>| {
        let properties = Properties { tags, ..Properties::default() };
        let (body, send) = (Bytes::from_static(b"rights\n"), Send::plain(REQUEST));
        told(store.put(key, body, &Attributes::new(), &properties, send).await)
    };
    let written = put(&key, None).await;
    found.push((Right::Read, read(store, &key).await));
    found.push((Right::Write, written));
    let (large, tagged) = (scratch.key("rights-multipart"), scratch.key("rights-tags"));
    found.push((Right::Multipart, multipart(store, &large).await));
    let tags = Tags::from([("s3vol".to_owned(), "rights".to_owned())]);
    let tags = match put(&tagged, Some(tags)).await {
        Ok(()) => store.get_tags(&tagged, REQUEST).await.map(drop),
        Err(error) => Err(error),
    };
    found.push((Right::Tags, tags));
    // All, whatever an answer said of whether they were made; a key without an object will do.
    let mut deleted = Ok(());
    for key in [&key, &large, &tagged] {
        let one = told(store.delete(key, Send::plain(REQUEST)).await);
        deleted = deleted.and(match one {
            Err(error) if error.kind == StoreErrorKind::NotFound => Ok(()),
            one => one,
        });
    }
    found.push((Right::Delete, deleted));
    found
}

async fn read(store: &dyn StoreBackend, key: &ObjectKey) -> Result<(), StoreError> {
    match store.get(key, None, None, REQUEST).await {
        Err(error) if error.kind != StoreErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

async fn multipart(store: &dyn StoreBackend, key: &ObjectKey) -> Result<(), StoreError> {
    let (attributes, properties) = (Attributes::new(), Properties::default());
    let upload = store.create_upload(key, &attributes, &properties, REQUEST).await?;
    store.abort_upload(key, &upload, REQUEST).await
}

/// Who sent it alone and without condition needs no more than its error.
fn told(outcome: PutOutcome) -> Result<(), StoreError> {
    match outcome {
        PutOutcome::Won(_) | PutOutcome::Lost => Ok(()),
        PutOutcome::Failed(error) | PutOutcome::Ambiguous(error) => Err(error),
    }
}
