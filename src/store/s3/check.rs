//! Telling what is wrong with a bucket before a volume is made of it.

use std::time::Duration;

use super::S3Store;
use crate::store::meter::{about, host_time};
use crate::store::{ListPage, ListRequest, StoreBackend, StoreError, StoreErrorKind};
use crate::types::KeyPrefix;

/// Whoever waits for `docker volume create` gets an answer within ten seconds.
const CHECK_TIME: Duration = Duration::from_secs(9);
/// S3 refuses signatures that are 15 minutes off. The engine signs by this host's clock, so a bit
/// less is already an error.
const MAX_SKEW_MS: i64 = 14 * 60 * 1000;

impl S3Store {
    pub(super) async fn check_bucket(&self, prefix: &KeyPrefix) -> Result<ListPage, StoreError> {
        let request = ListRequest {
            prefix: prefix.as_str().to_owned(),
            delimiter: true,
            token: None,
            max_keys: 2,
        };
        let listed = match tokio::time::timeout(CHECK_TIME, self.list(request, CHECK_TIME)).await {
            Ok(listed) => listed,
            Err(_) => Err(StoreError::new(
                StoreErrorKind::Timeout,
                format!(
                    "no answer from {} within {} s; check the endpoint and the network",
                    self.endpoint,
                    CHECK_TIME.as_secs()
                ),
            )),
        };
        // A clock that is off explains other refusals, so it comes first.
        if let Some(store) = self.wire.clock().now() {
            let ahead = host_time().0 - store.0;
            if ahead.abs() > MAX_SKEW_MS {
                let way = if ahead > 0 { "ahead of" } else { "behind" };
                return Err(StoreError {
                    kind: StoreErrorKind::ClockSkew,
                    message: format!(
                        "this host's clock is {} {way} the one of {}; set it (for example with \
                         NTP) and try again",
                        about(ahead),
                        self.endpoint
                    ),
                    source: listed.err().map(|e| Box::new(e) as _),
                });
            }
        }
        listed
    }
}
