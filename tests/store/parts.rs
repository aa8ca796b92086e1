//! Parts that are copied on the server.

use bytes::Bytes;
use s3vol::store::{
    Attributes, Part, PartSource, Properties, PutOutcome, Send, Store, StoreErrorKind, UploadId,
};
use s3vol::types::{ObjectKey, Version};

use super::support::s3server::{Action, Op, Rule, TestS3};
use super::{TIMEOUT, store_of};

const PART: usize = 5 << 20;

struct World {
    server: TestS3,
    store: Store,
    source: PartSource,
    upload: UploadId,
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new(name)
}

impl World {
    async fn new() -> Self {
        let server = TestS3::start();
        let store = store_of(&server);
        let body: Vec<u8> = (0..3 * PART).map(|at| (at / 4099 % 251) as u8).collect();
        let (none, plain) = (Attributes::new(), Properties::default());
        let (from, send) = (key("a source"), Send::plain(TIMEOUT));
        let put = store.put(&from, body.into(), &none, &plain, send).await;
        let PutOutcome::Won(expect) = put else { panic!("{put:?}") };
        let upload = store.create_upload(&key("to"), &none, &plain, TIMEOUT).await.unwrap();
        let source = PartSource { key: from, expect, range: None };
        World { server, store, source, upload }
    }

    async fn copy(&self, number: u32, source: &PartSource) -> Result<String, StoreErrorKind> {
        let part = Part { number, offset: 0 };
        let copied = self.store.copy_part(&key("to"), &self.upload, part, source, TIMEOUT).await;
        copied.map_err(|error| error.kind)
    }

    fn source(&self) -> Bytes {
        self.server.get("a source").unwrap().body
    }
}

#[tokio::test]
async fn parts_are_copied_whole_and_in_ranges() {
    let world = World::new().await;
    let range = Some(7..7 + PART as u64);
    let tags = [
        world.copy(1, &PartSource { range, ..world.source.clone() }).await.unwrap(),
        world.copy(2, &world.source).await.unwrap(),
    ];
    assert_eq!(tags[1], world.source.expect.etag);
    let size = 4 * PART as u64;
    let (to, send) = (key("to"), Send::plain(TIMEOUT));
    let done = world.store.complete_upload(&to, &world.upload, &tags, size, send).await;
    assert!(matches!(done, PutOutcome::Won(_)), "{done:?}");
    let wanted = [&world.source()[7..7 + PART], &world.source()[..]].concat();
    assert!(world.server.get("to").unwrap().body == wanted);
    let requests = world.store.requests();
    assert!(requests.bytes_up < 4 * PART as u64, "{requests}");
}

#[tokio::test]
async fn a_source_that_is_another_or_gone_is_told() {
    let world = World::new().await;
    let expect = Version { etag: "0".repeat(32), ..world.source.expect.clone() };
    let other = PartSource { expect, ..world.source.clone() };
    assert_eq!(world.copy(1, &other).await, Err(StoreErrorKind::Changed));
    world.server.put_foreign("a source", "another", &[]);
    assert_eq!(world.copy(1, &world.source).await, Err(StoreErrorKind::Changed));
    assert!(world.server.delete_foreign("a source"));
    assert_eq!(world.copy(1, &world.source).await, Err(StoreErrorKind::NotFound));
}

#[tokio::test]
async fn an_error_that_a_200_hides_is_one() {
    let world = World::new().await;
    for action in [Action::HiddenError, Action::ApplyThenProxy(200)] {
        world.server.fault(Rule::new(Op::UploadPartCopy, "to", 1, action));
        world.copy(1, &world.source).await.unwrap_err();
    }
    world.copy(1, &world.source).await.unwrap();
}
