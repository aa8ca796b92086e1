//! Checks the publishing protocol (`docs/PROTOCOL.md`) in every interleaving of a small world, and
//! checks the check: without any one of its rules a counterexample must turn up.

#[path = "publish_model/host.rs"]
mod host;
#[path = "publish_model/model.rs"]
mod model;
#[path = "publish_model/state.rs"]
mod state;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use model::Mutant::*;
use model::{Conditions, Config, Mutant, Publish, Seen};
use stateright::{Checker, HasDiscoveries, Model};

/// One file that is written, truncated and published over itself.
const OVERWRITE: Config = Config {
    conditions: Conditions::Etag,
    expiry: true,
    heat: 2,
    keys: 1,
    inodes: 1,
    writes: 3,
    puts: 2,
    renames: 0,
    takeovers: 1,
    pending: 2,
    namespace: false,
    foreign: false,
    rejects: false,
    groups: false,
    claims: false,
    list: false,
    truncate: true,
    attributes: false,
    stale: true,
    mutant: None,
};

/// A name that is removed and created again, with two takeovers.
const RECREATE: Config =
    Config { inodes: 2, writes: 1, puts: 3, takeovers: 2, namespace: true, ..OVERWRITE };

/// Two names, renames over each other, COPY, DELETE, parking.
const RENAME: Config = Config {
    heat: 1,
    keys: 2,
    inodes: 2,
    writes: 1,
    puts: 2,
    renames: 2,
    pending: 1,
    namespace: true,
    truncate: false,
    stale: false,
    ..OVERWRITE
};

/// Somebody else writes to the key of a file.
const FOREIGN: Config = Config { writes: 2, puts: 2, foreign: true, ..OVERWRITE };

/// Somebody else writes to one of two keys while a file moves between them.
const FOREIGN_MOVE: Config = Config { inodes: 1, renames: 1, foreign: true, ..RENAME };

/// Attributes of a file at rest change beside its content, and somebody else writes to its key.
const ATTRIBUTES: Config = Config { writes: 1, truncate: false, attributes: true, ..FOREIGN };

/// The same of a file that moves as well: what it is copied from, and to, is written by others.
const ATTRIBUTES_MOVE: Config = Config { attributes: true, ..FOREIGN_MOVE };

/// Somebody else writes to a key, which LIST finds.
const LISTED: Config = Config {
    writes: 1,
    puts: 2,
    inodes: 2,
    namespace: true,
    truncate: false,
    pending: 1,
    foreign: true,
    list: true,
    ..OVERWRITE
};

/// The store refuses some requests whatever their conditions.
const REJECTED: Config = Config { writes: 2, truncate: false, rejects: true, ..OVERWRITE };

/// A name that is removed and created again, by deletions that are parts of groups.
const GROUPED: Config = Config { groups: true, takeovers: 1, ..RECREATE };

/// Three hosts want the volume.
const CLAIMS: Config =
    Config { writes: 1, puts: 0, takeovers: 3, pending: 1, claims: true, ..OVERWRITE };

const LOST: &str = "no durable byte is lost";
const MISREAD: &str = "the owner reads what it wrote";
const UNKNOWN: &str = "a cold key holds what the index says";
const UNANNOUNCED: &str = "every request was announced";
const FENCED: &str = "a fenced host gets no fsync acknowledged";
const ADOPTED: &str = "nothing is adopted without our put-id";
const TWO_OWNERS: &str = "an epoch has one owner";
const MISJUDGED: &str = "our own publish is no outside change";
const ROBBED: &str = "only a holder judged free is fenced";

fn with(config: Config, conditions: Conditions) -> Config {
    Config { conditions, ..config }
}

fn explore(name: &str, config: Config, finish: HasDiscoveries) -> impl Checker<Publish> {
    let began = Instant::now();
    let checker = Publish::new(config).checker().threads(2).finish_when(finish).spawn_bfs().join();
    println!(
        "{name}, conditions {:?}, expiry {}, mutant {:?}: {} states, depth {}, {:.1?}",
        config.conditions,
        config.expiry,
        config.mutant,
        checker.unique_state_count(),
        checker.max_depth(),
        began.elapsed()
    );
    checker
}

/// The protocol holds, and what makes the check worth something did happen.
fn holds(name: &str, config: Config, must_see: &[fn(&Seen) -> &AtomicU32]) {
    let checker = explore(name, config, HasDiscoveries::All);
    checker.assert_properties();
    let seen = &checker.model().seen;
    for (at, counter) in must_see.iter().enumerate() {
        assert!(counter(seen).load(Ordering::Relaxed) > 0, "number {at} never happened: {seen:?}");
    }
}

/// Leaving out the rule breaks exactly this property.
fn breaks(name: &str, config: Config, property: &'static str) {
    let wanted = HasDiscoveries::AnyOf([property].into());
    let checker = explore(name, config, wanted);
    let path = checker.assert_any_discovery(property);
    println!("    breaks \"{property}\":");
    for action in path.into_actions() {
        println!("        {action:?}");
    }
}

fn mutant_breaks(name: &str, config: Config, mutant: Mutant, property: &'static str) {
    breaks(name, Config { mutant: Some(mutant), ..config }, property);
}

#[test]
fn what_the_store_refuses_needs_no_wait() {
    holds("rejected", REJECTED, &[|seen| &seen.rejected, |seen| &seen.resolved]);
    mutant_breaks("rejected", REJECTED, TrustProxy, UNKNOWN);
}

#[test]
fn what_the_answer_to_a_group_does_not_name_is_open() {
    for conditions in [Conditions::Etag, Conditions::Ignored] {
        let config = with(GROUPED, conditions);
        holds("grouped", config, &[|seen| &seen.unnamed, |seen| &seen.deleted]);
        mutant_breaks("grouped", config, TrustSilence, UNKNOWN);
    }
}

#[test]
fn overwriting_loses_nothing() {
    for conditions in [Conditions::Etag, Conditions::Ignored] {
        holds(
            "overwrite",
            with(OVERWRITE, conditions),
            &[
                |seen| &seen.resolved,
                |seen| &seen.takeover_with_intent,
                |seen| &seen.late_arrival,
                |seen| &seen.decided_by_head,
                |seen| &seen.fenced,
            ],
        );
    }
}

/// Only the store without conditions: with them the same states are reached, since no condition
/// ever fails where keys are left alone while they are hot.
#[test]
fn recreating_a_name_loses_nothing() {
    holds(
        "recreate",
        with(RECREATE, Conditions::Ignored),
        &[|seen| &seen.resolved, |seen| &seen.deleted, |seen| &seen.late_arrival],
    );
}

#[test]
fn renaming_loses_nothing_where_conditions_hold() {
    renaming_loses_nothing(Conditions::Etag);
}

#[test]
fn renaming_loses_nothing_where_conditions_are_ignored() {
    renaming_loses_nothing(Conditions::Ignored);
}

fn renaming_loses_nothing(conditions: Conditions) {
    holds(
        "rename",
        with(RENAME, conditions),
        &[
            |seen| &seen.copied,
            |seen| &seen.deleted,
            |seen| &seen.parked,
            |seen| &seen.stranded,
            |seen| &seen.late_arrival,
        ],
    );
}

/// The same with the margin and two batches on their way: minutes.
#[test]
#[ignore = "make soak: millions of states"]
fn soak_renaming_loses_nothing_in_a_larger_world() {
    let deep = Config { heat: 2, pending: 2, ..RENAME };
    for conditions in [Conditions::Ignored, Conditions::Etag] {
        holds("deep rename", with(deep, conditions), &[|seen| &seen.parked]);
    }
}

#[test]
fn foreign_writes_become_conflicts() {
    for conditions in [Conditions::Etag, Conditions::Version] {
        holds("foreign", with(FOREIGN, conditions), &[|s| &s.conflict, |s| &s.refused]);
        holds("foreign move", with(FOREIGN_MOVE, conditions), &[|s| &s.conflict, |s| &s.copied]);
    }
}

#[test]
fn copies_onto_themselves_lose_nothing() {
    for conditions in [Conditions::Etag, Conditions::Version] {
        let seen: &[fn(&Seen) -> &AtomicU32] =
            &[|s| &s.copied, |s| &s.refused, |s| &s.late_arrival, |s| &s.conflict];
        holds("attributes", with(ATTRIBUTES, conditions), seen);
        holds("attributes and move", with(ATTRIBUTES_MOVE, conditions), seen);
    }
    mutant_breaks("attributes", ATTRIBUTES, NoHotKeys, LOST);
}

#[test]
fn an_old_listing_is_not_believed() {
    for conditions in [Conditions::Etag, Conditions::Ignored] {
        holds("listed", with(LISTED, conditions), &[|s| &s.conflict, |s| &s.spoiled]);
    }
    mutant_breaks("listed", LISTED, StaleList, MISJUDGED);
}

/// A store that ignores conditions lets us overwrite what somebody put there a moment ago; nothing
/// of our own is lost by it.
#[test]
fn without_conditions_a_foreign_write_can_be_overwritten() {
    let ignored = Conditions::Ignored;
    holds("foreign", with(FOREIGN, ignored), &[|s| &s.conflict, |s| &s.trampled]);
    holds("foreign move", with(FOREIGN_MOVE, ignored), &[|s| &s.conflict, |s| &s.trampled]);
}

#[test]
fn one_challenger_wins_an_epoch() {
    holds("claims", CLAIMS, &[|seen| &seen.claim_lost, |seen| &seen.fenced]);
}

#[test]
fn extents_go_with_the_resolution_and_no_earlier() {
    mutant_breaks("overwrite", OVERWRITE, ReleaseAtAnnouncement, LOST);
    mutant_breaks("overwrite", OVERWRITE, SegmentsEarly, LOST);
}

#[test]
fn extents_of_newer_generations_stay() {
    mutant_breaks("overwrite", OVERWRITE, DropNewerExtents, LOST);
    mutant_breaks("overwrite", OVERWRITE, LiftAnyCut, LOST);
}

#[test]
fn hot_keys_are_left_alone_until_the_margin_is_over() {
    for conditions in [Conditions::Etag, Conditions::Ignored] {
        mutant_breaks("recreate", with(RECREATE, conditions), NoHotKeys, LOST);
        mutant_breaks("overwrite", with(OVERWRITE, conditions), NoMargin, LOST);
    }
}

#[test]
fn an_intent_is_durable_before_its_request_leaves() {
    mutant_breaks("overwrite", OVERWRITE, SendBeforeDurable, UNANNOUNCED);
    mutant_breaks("overwrite", OVERWRITE, SendBeforeDurable, LOST);
}

#[test]
fn an_etag_is_no_identity() {
    mutant_breaks("recreate", RECREATE, TrustEtag, ADOPTED);
    mutant_breaks("recreate", RECREATE, TrustEtag, UNKNOWN);
}

/// Conditions do not replace expiry, not even with versions that are unique.
#[test]
fn a_request_must_expire() {
    for conditions in [Conditions::Ignored, Conditions::Etag, Conditions::Version] {
        breaks("no expiry", Config { conditions, expiry: false, ..OVERWRITE }, UNANNOUNCED);
        breaks("no expiry", Config { conditions, expiry: false, ..OVERWRITE }, LOST);
    }
}

#[test]
fn a_base_moves_only_from_where_the_intent_saw_it() {
    mutant_breaks("rename", RENAME, MoveAnyBase, MISREAD);
}

#[test]
fn the_base_of_another_inode_is_not_touched() {
    mutant_breaks("rename", RENAME, IgnoreOtherBase, LOST);
}

#[test]
fn a_copy_counts_only_with_the_right_bytes() {
    let config = with(FOREIGN_MOVE, Conditions::Ignored);
    mutant_breaks("foreign move", config, CopyUnchecked, MISREAD);
}

#[test]
fn the_engine_fences_by_epoch() {
    mutant_breaks("overwrite", OVERWRITE, NoFence, FENCED);
}

#[test]
fn a_claim_names_the_epoch_it_saw() {
    mutant_breaks("claims", CLAIMS, BlindClaim, ROBBED);
    mutant_breaks("claims", CLAIMS, OwnCounter, TWO_OWNERS);
}
