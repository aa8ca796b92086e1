//! What only Google needs: generations that listings do not tell, and its own refusals.

use std::borrow::Cow;
use std::time::Duration;

use super::{Call, CloudStore, Dialect};
use crate::store::refused;
use crate::store::s3::xml::{self, ErrorBody};
use crate::store::wire::Answer;
use crate::store::{StoreBackend, StoreError, StoreErrorKind};
use crate::types::{ObjectKey, Version};

impl CloudStore {
    /// `version` as a condition can name it; `None` when the object is another one by now.
    ///
    /// Google's conditions are about generations, and the listings of `object_store` 0.14 have
    /// none. The object's head tells it then, if the object still is what was listed.
    pub(super) async fn pinned<'v>(
        &self,
        key: &str,
        version: &'v Version,
        timeout: Duration,
    ) -> Result<Option<Cow<'v, Version>>, StoreError> {
        if self.dialect != Dialect::Google || version.generation.is_some() {
            return Ok(Some(Cow::Borrowed(version)));
        }
        let info = self.head(&ObjectKey::new(key), timeout).await?;
        Ok(info.filter(|info| version.same(&info.version)).map(|info| Cow::Owned(info.version)))
    }

    /// The error that a refusing answer means.
    pub(super) fn refusal(&self, call: &Call, answer: &Answer) -> StoreError {
        let mut error = xml::refusal(&self.doing(call), &self.endpoint, &self.bucket, answer);
        if self.dialect == Dialect::Google
            && let Some((kind, why)) = googles_words(&ErrorBody::of(answer).code)
        {
            error.kind = kind;
            error.message = format!(
                "{} at {}: {why} (HTTP {})",
                self.doing(call),
                self.endpoint,
                answer.status.as_u16()
            );
        }
        refused::blamed(error, self.source.as_deref())
    }
}

/// Codes that mean something else here than on S3.
fn googles_words(code: &str) -> Option<(StoreErrorKind, &'static str)> {
    match code {
        // Of a signed URL, not of a session.
        "ExpiredToken" => {
            Some((StoreErrorKind::Timeout, "the request arrived after its expiry and was refused"))
        }
        "SignatureDoesNotMatch" | "AuthenticationRequired" | "InvalidSecurity" => Some((
            StoreErrorKind::Denied,
            "the service account's signature was refused; check the file that \
             GOOGLE_SERVICE_ACCOUNT or GOOGLE_APPLICATION_CREDENTIALS names, and that its key was \
             not deleted",
        )),
        _ => None,
    }
}
