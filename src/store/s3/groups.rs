//! Many keys deleted by one request, and what its answer says of each.
//!
//! The answer is a list that the store, or whatever lies between, may have cut short: only what it names has an
//! outcome. Keys that XML cannot hold as they are go by themselves, so that no server deletes what lies at a key that
//! only looks like one of them.

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use http::{Method, StatusCode};
use md5::{Digest, Md5};

use super::objects::nothing;
use super::xml::{ErrorBody, Said, group_answer, hides_error, is_rejection, refused};
use super::{Call, S3Store};
use crate::store::wire::{Answer, Progress, unanswered};
use crate::store::{Condition, Doomed, PutOutcome, Send, StoreBackend, StoreError, StoreErrorKind};
use crate::types::StoreTime;

/// S3's most.
const MOST: usize = 1000;
/// Keys that go by themselves, side by side.
const PARALLEL: usize = 16;

/// With these the store says that it did not do it, and will not.
const REJECTIONS: [&str; 6] = [
    "AccessDenied",
    "InvalidArgument",
    "InvalidRequest",
    "KeyTooLongError",
    "MethodNotAllowed",
    "NotImplemented",
];

impl S3Store {
    /// See [`StoreBackend::delete_many`].
    pub(super) async fn delete_group(
        &self,
        group: &[Doomed],
        not_after: Option<StoreTime>,
        timeout: Duration,
    ) -> Result<Vec<PutOutcome>, StoreError> {
        let (named, alone): (Vec<&Doomed>, Vec<&Doomed>) =
            group.iter().partition(|one| can_be_named(one.key.as_str()));
        let mut requests = Vec::with_capacity(alone.len());
        for one in alone {
            let send = Send { condition: one.condition.clone(), not_after, timeout };
            requests.push(self.delete(&one.key, send));
        }
        let singly = stream::iter(requests).buffered(PARALLEL).collect::<Vec<_>>();
        let together = self.delete_named(&named, not_after, timeout);
        let (together, singly) = futures::join!(together, singly);
        if singly.is_empty() {
            return together;
        }
        let together = together.unwrap_or_else(|error| {
            named.iter().map(|_| PutOutcome::Failed(error.again())).collect()
        });
        let (mut together, mut singly) = (together.into_iter(), singly.into_iter());
        let outcomes = group.iter().filter_map(|one| match can_be_named(one.key.as_str()) {
            true => together.next(),
            false => singly.next(),
        });
        Ok(outcomes.collect())
    }

    async fn delete_named(
        &self,
        group: &[&Doomed],
        not_after: Option<StoreTime>,
        timeout: Duration,
    ) -> Result<Vec<PutOutcome>, StoreError> {
        if group.is_empty() {
            return Ok(Vec::new());
        }
        if group.len() > MOST {
            let text = format!("{} keys are more than one request deletes", group.len());
            return Err(StoreError::new(StoreErrorKind::Unsupported, text));
        }
        let call = Call { not_after, ..group_call(group) };
        let answer = match self.send(&call, &Progress::new(timeout)).await {
            Ok(answer) => answer,
            Err(error) => {
                return match unanswered(error) {
                    PutOutcome::Failed(error) => Err(error),
                    PutOutcome::Ambiguous(error) => Ok(nobody_knows(group, &error)),
                    PutOutcome::Won(_) | PutOutcome::Lost => Ok(Vec::new()),
                };
            }
        };
        if answer.status.is_success() && !hides_error(&answer) {
            return Ok(match group_answer(&answer.body) {
                Ok(said) => group.iter().map(|one| self.outcome(one, &said)).collect(),
                Err(why) => {
                    let text = format!("{} at {}: {why}", self.doing(&call), self.endpoint);
                    nobody_knows(group, &StoreError::new(StoreErrorKind::Unreachable, text))
                }
            });
        }
        match self.refused_group(&call, &answer) {
            Ok(error) => Err(error),
            Err(error) => Ok(nobody_knows(group, &error)),
        }
    }

    /// The error with which the store refused the request as a whole; `Err`: it may have done it all the same.
    fn refused_group(&self, call: &Call<'_>, answer: &Answer) -> Result<StoreError, StoreError> {
        let error = self.refusal(call, answer);
        if answer.status == StatusCode::NOT_IMPLEMENTED {
            self.known.contradicted();
        }
        if !is_rejection(answer) {
            return Err(error);
        }
        // One that has expired on its way says nothing of the next.
        if !error.is_transient() {
            tracing::warn!(%error, "objects are deleted one by one for a while");
            self.known.no_groups();
        }
        Ok(error)
    }

    /// What the answer says of one key.
    fn outcome(&self, one: &Doomed, said: &HashMap<String, Said>) -> PutOutcome {
        let doing = format!("DELETE of {:?} in bucket {:?}", one.key.as_str(), self.bucket.name());
        let unclear = |why: &str| {
            let text = format!("{doing} at {}: {why}", self.endpoint);
            PutOutcome::Ambiguous(StoreError::new(StoreErrorKind::Unreachable, text))
        };
        let error = match said.get(one.key.as_str()) {
            Some(Said::Deleted) => return PutOutcome::Won(nothing()),
            Some(Said::Refused(error)) => error,
            Some(Said::Nonsense) => return unclear("the answer says two things of it"),
            None => return unclear("the answer does not name it"),
        };
        let unconditional = one.condition == Condition::None;
        match error.code.as_str() {
            "NoSuchKey" | "NotFound" if unconditional => PutOutcome::Won(nothing()),
            "NoSuchKey" | "NotFound" => PutOutcome::Lost,
            "PreconditionFailed" if !unconditional => PutOutcome::Lost,
            code => {
                let about = (doing.as_str(), self.endpoint.as_str());
                let error = refused(about, self.bucket.name(), status(error), error);
                match REJECTIONS.contains(&code) {
                    true => PutOutcome::Failed(error),
                    false => PutOutcome::Ambiguous(error),
                }
            }
        }
    }
}

/// Any of the group may be deleted, now or later.
fn nobody_knows(group: &[&Doomed], error: &StoreError) -> Vec<PutOutcome> {
    group.iter().map(|_| PutOutcome::Ambiguous(error.again())).collect()
}

/// The status that a request for this key alone would have been answered.
fn status(error: &ErrorBody) -> StatusCode {
    match error.code.as_str() {
        "AccessDenied" => StatusCode::FORBIDDEN,
        "MethodNotAllowed" => StatusCode::METHOD_NOT_ALLOWED,
        "NotImplemented" => StatusCode::NOT_IMPLEMENTED,
        "InvalidArgument" | "InvalidRequest" | "KeyTooLongError" => StatusCode::BAD_REQUEST,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// Whether a key comes out of XML as it went in, whoever reads it, and names an object in a URL as well.
fn can_be_named(key: &str) -> bool {
    let mangled =
        |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{fffe}' | '\u{ffff}');
    !key.is_empty()
        // Some servers take the first one away.
        && !key.starts_with('/')
        && key.trim() == key
        && !key.contains(mangled)
        && !key.split('/').any(|segment| segment == "." || segment == "..")
}

pub(super) fn group_call(group: &[&Doomed]) -> Call<'static> {
    let mut body = String::from(r#"<Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/">"#);
    for one in group {
        let key = quick_xml::escape::escape(one.key.as_str());
        body.push_str(&format!("<Object><Key>{key}</Key>"));
        if let Condition::Is(version) = &one.condition {
            let etag = quick_xml::escape::escape(version.etag.as_str());
            body.push_str(&format!("<ETag>{etag}</ETag>"));
        }
        body.push_str("</Object>");
    }
    body.push_str("</Delete>");
    // AWS takes no such request without a checksum, and this is the one that all others know.
    let md5 = base64::engine::general_purpose::STANDARD.encode(Md5::digest(&body));
    let call = Call { method: Method::POST, body: Bytes::from(body), ..Call::default() };
    call.query("delete", "").header("content-md5", md5)
}

#[cfg(test)]
mod tests;
