//! The probe says what the store does, not what it claims.

use std::collections::BTreeSet;

use s3vol::store::{Groups, Store, Verb};
use s3vol::types::KeyPrefix;

use super::store_of;
use super::support::s3server::{Action, Op, Rule, TestS3};

/// What S3 has besides.
const GROUPS: [Verb; 2] = [Verb::DeleteMany, Verb::DeleteManyConditional];

/// Everything that every kind of store can honour.
pub const FULL: [Verb; 10] = [
    Verb::CreateIfAbsent,
    Verb::PutIfMatch,
    Verb::CompleteConditional,
    Verb::CopyConditional,
    Verb::DeleteConditional,
    Verb::Copy,
    Verb::PartCopy,
    Verb::Expiry,
    Verb::ReadAfterWrite,
    Verb::Checksum,
];

async fn missing(server: &TestS3, store: &Store) -> BTreeSet<Verb> {
    let found = store.probe(&KeyPrefix::new("v/.s3vol/probe")).await.unwrap();
    assert!(!found.has(Verb::UnquotedEtag));
    assert_eq!(server.keys(""), [""; 0], "the probe cleans up");
    assert_eq!(server.uploads(), []);
    FULL.into_iter().chain(GROUPS).filter(|verb| !found.has(*verb)).collect()
}

#[tokio::test]
async fn everything_is_found_where_everything_is_honoured() {
    let server = TestS3::start();
    assert_eq!(missing(&server, &store_of(&server)).await, [].into());
    let requests = server.log().len();
    assert!(requests < 115, "{requests} requests");
}

#[tokio::test]
async fn an_overlooked_condition_is_a_missing_verb() {
    let server = TestS3::start();
    for (op, verbs) in [
        (Some(Op::Put), &[Verb::CreateIfAbsent, Verb::PutIfMatch][..]),
        (Some(Op::Delete), &[Verb::DeleteConditional]),
        (Some(Op::CompleteUpload), &[Verb::CompleteConditional]),
        (Some(Op::DeleteMany), &[Verb::DeleteManyConditional]),
        (Some(Op::UploadPartCopy), &[Verb::PartCopy]),
    ] {
        server.clear_faults();
        server.fault(Rule::always(op, "", Action::IgnoreConditions));
        let want: BTreeSet<_> = verbs.iter().copied().collect();
        assert_eq!(missing(&server, &store_of(&server)).await, want, "{op:?}");
    }
    server.clear_faults();
    server.fault(Rule::always(Some(Op::Copy), "", Action::IgnoreConditions));
    let without = missing(&server, &store_of(&server)).await;
    assert!(without.contains(&Verb::CopyConditional), "{without:?}");
    assert!(
        without.contains(&Verb::Copy),
        "a copy that takes any source for the expected one is of no use: {without:?}"
    );
}

/// Word of a comparison counts only from a store that refuses what is wrong, and a refusal only from one that gives it.
#[tokio::test]
async fn a_checksum_that_is_not_compared_proves_nothing() {
    let server = TestS3::start();
    for action in [Action::IgnoreChecksum, Action::SayChecksum] {
        server.clear_faults();
        server.fault(Rule::always(Some(Op::Put), "", action.clone()));
        let want = [Verb::Checksum].into();
        assert_eq!(missing(&server, &store_of(&server)).await, want, "{action:?}");
    }
    // The wrong one is refused; of the right one nothing is said.
    server.clear_faults();
    server.fault(Rule::always(Some(Op::Put), "/sum", Action::IgnoreChecksum).after(1));
    assert_eq!(missing(&server, &store_of(&server)).await, [Verb::Checksum].into());
}

#[tokio::test]
async fn a_store_without_a_verb_is_still_usable() {
    let server = TestS3::start();
    for (op, verbs) in [
        (Op::Copy, &[Verb::Copy, Verb::CopyConditional][..]),
        (Op::CompleteUpload, &[Verb::CompleteConditional, Verb::PartCopy]),
        (Op::CreateUpload, &[Verb::CompleteConditional, Verb::PartCopy]),
        (Op::UploadPartCopy, &[Verb::PartCopy]),
    ] {
        server.clear_faults();
        server.fault(Rule::always(Some(op), "", Action::Status(501)));
        let want: BTreeSet<_> = verbs.iter().copied().collect();
        assert_eq!(missing(&server, &store_of(&server)).await, want, "{op:?}");
    }
}

#[tokio::test]
async fn groups_that_do_not_do_what_they_say_are_none() {
    let server = TestS3::start();
    let faults = [
        Action::Status(501),
        Action::Status(400),
        Action::OnlySaySo,
        Action::ApplyPart(1),
        Action::NamePart(1),
        Action::ApplyThenStatus(500),
        Action::CutBody(50),
    ];
    for action in faults {
        // From the first such request on, from the second, or from the third.
        for skip in 0..3 {
            server.clear_faults();
            server.fault(Rule::always(Some(Op::DeleteMany), "", action.clone()).after(skip));
            let missing = missing(&server, &store_of(&server)).await;
            let conditional = missing.contains(&Verb::DeleteManyConditional);
            assert!(missing.contains(&Verb::DeleteMany) && conditional, "{action:?}: {missing:?}");
        }
    }
}

/// A late deletion counts as refused only where the signature was refused, and one in time is taken.
#[tokio::test]
async fn a_store_that_is_not_well_does_not_honour_expiry_by_that() {
    let expired = |times, action| Rule::new(Op::Delete, "/expiry", times, action);
    for action in [Action::Status(503), Action::Status(429), Action::DropBeforeApply] {
        let server = TestS3::start();
        // It ignores the expiry, once it is well.
        server.fault(expired(1, action.clone()));
        server.fault(Rule::always(Some(Op::Delete), "/expiry", Action::IgnoreExpiry));
        let store = store_of(&server);
        assert_eq!(missing(&server, &store).await, [Verb::Expiry].into(), "{action:?}");
        assert!(!in_doubt(&store), "the second answer was clear");
    }
    // Whoever refuses what is in time as well says nothing about time.
    let server = TestS3::start();
    server.fault(expired(2, Action::Status(403)));
    assert_eq!(missing(&server, &store_of(&server)).await, [Verb::Expiry].into());
}

fn in_doubt(store: &Store) -> bool {
    store.known().current().expect("a finding").in_doubt
}

#[tokio::test]
async fn a_passing_error_is_no_missing_verb() {
    let server = TestS3::start();
    for op in [
        Op::Put,
        Op::Delete,
        Op::Copy,
        Op::CreateUpload,
        Op::CompleteUpload,
        Op::UploadPartCopy,
        Op::DeleteMany,
    ] {
        for skip in [1, 2, 5] {
            server.clear_faults();
            server.fault(Rule::new(op, "", 1, Action::Status(503)).after(skip));
            let store = store_of(&server);
            // A plain write that fails ends a probe.
            let Ok(found) = store.probe(&KeyPrefix::new("v/.s3vol/probe")).await else {
                assert_eq!(op, Op::Put);
                continue;
            };
            let missing: Vec<_> =
                FULL.into_iter().chain(GROUPS).filter(|verb| !found.has(*verb)).collect();
            assert!(missing.is_empty() && !in_doubt(&store), "{op:?}, {skip}: {missing:?}");
        }
    }
}

#[tokio::test]
async fn what_a_lasting_error_hides_is_in_doubt_and_takes_nothing_from_what_is_sure() {
    let server = TestS3::start();
    let store = store_of(&server);
    server.fault(Rule::always(Some(Op::Copy), "", Action::Status(503)));
    let without = missing(&server, &store).await;
    assert!(without.contains(&Verb::Copy) && in_doubt(&store), "{without:?}");
    server.clear_faults();
    assert_eq!(missing(&server, &store).await, [].into());
    assert!(!in_doubt(&store));
    server.fault(Rule::always(Some(Op::Copy), "", Action::Status(503)));
    assert!(missing(&server, &store).await.contains(&Verb::Copy));
    let known = store.known().current().unwrap();
    assert!(known.capabilities.has(Verb::Copy) && !known.in_doubt);
}

#[tokio::test]
async fn groups_whose_signature_never_ends_are_none() {
    let server = TestS3::start();
    server.fault(Rule::always(Some(Op::DeleteMany), "", Action::IgnoreExpiry));
    assert_eq!(missing(&server, &store_of(&server)).await, GROUPS.into());
}

#[tokio::test]
async fn what_is_known_of_groups_is_found_out_when_it_is_needed() {
    let server = TestS3::start();
    let store = store_of(&server);
    assert_eq!(store.known_groups(), None);
    let scratch = KeyPrefix::new("v/.s3vol/probe");
    assert_eq!(store.groups(&scratch).await, Groups::Conditional);
    assert_eq!(server.keys(""), [""; 0], "it cleans up");
    let requests = server.log().len();
    assert!(requests < 30, "{requests} requests");
    assert_eq!(store.groups(&scratch).await, Groups::Conditional);
    assert_eq!((server.log().len(), store.known_groups()), (requests, Some(Groups::Conditional)));
    // One that cannot tell is not asked again at once.
    let other = store_of(&server);
    server.fault(Rule::always(Some(Op::Put), "", Action::Status(503)));
    assert_eq!(other.groups(&scratch).await, Groups::No);
    let requests = server.log().len();
    assert_eq!(other.groups(&scratch).await, Groups::No);
    assert_eq!(server.log().len(), requests);
}

#[tokio::test]
async fn a_store_that_fails_is_not_judged() {
    let server = TestS3::start();
    for action in [Action::Status(500), Action::Status(403), Action::DropBeforeApply] {
        server.clear_faults();
        server.fault(Rule::always(Some(Op::Put), "", action.clone()));
        let judged = store_of(&server).probe(&KeyPrefix::new("probe")).await;
        assert!(judged.is_err(), "{action:?}: {judged:?}");
    }
}
