//! Checks the publishing protocol (`docs/PROTOCOL.md`) in every interleaving of a small world.

#[path = "publish_model/model.rs"]
mod model;
#[path = "publish_model/state.rs"]
mod state;

use std::time::Instant;

use model::{Config, Mutant, Publish};
use stateright::{Checker, HasDiscoveries, Model};

/// One file that is written, truncated and published over itself.
const OVERWRITE: Config = Config {
    conditions: true,
    expiry: true,
    keys: 1,
    inodes: 1,
    writes: 3,
    puts: 2,
    renames: 0,
    takeovers: 1,
    pending: 2,
    namespace: false,
    foreign: false,
    claims: false,
    mutant: None,
};

/// A name that is removed and created again.
const RECREATE: Config = Config { inodes: 2, writes: 1, puts: 3, namespace: true, ..OVERWRITE };

/// Two names, renames over each other, COPY, DELETE, parking.
const RENAME: Config =
    Config { keys: 2, inodes: 2, writes: 1, puts: 2, renames: 2, namespace: true, ..OVERWRITE };

/// Somebody else writes to a key.
const FOREIGN: Config = Config { writes: 1, puts: 2, foreign: true, ..OVERWRITE };

/// Three hosts want the volume.
const CLAIMS: Config =
    Config { writes: 1, puts: 0, takeovers: 3, pending: 1, claims: true, ..OVERWRITE };

fn explore(name: &str, config: Config) -> impl Checker<Publish> {
    let began = Instant::now();
    let finish =
        if config.mutant.is_some() { HasDiscoveries::AnyFailures } else { HasDiscoveries::All };
    let checker = Publish::new(config).checker().threads(2).finish_when(finish).spawn_bfs().join();
    println!(
        "{name}: conditions {}, {:?}: {} states, depth {}, {:.1?}",
        config.conditions,
        config.mutant,
        checker.unique_state_count(),
        checker.max_depth(),
        began.elapsed()
    );
    println!("    {:?}", checker.model().seen);
    for (property, path) in checker.discoveries() {
        println!("    {property}:");
        for action in path.into_actions() {
            println!("        {action:?}");
        }
    }
    checker
}

fn holds(name: &str, config: Config) {
    for conditions in [true, false] {
        explore(name, Config { conditions, ..config }).assert_properties();
    }
}

#[test]
fn overwrite_holds() {
    holds("overwrite", OVERWRITE);
}

#[test]
fn recreate_holds() {
    holds("recreate", RECREATE);
}

#[test]
fn rename_holds() {
    holds("rename", RENAME);
}

#[test]
fn foreign_holds() {
    holds("foreign", FOREIGN);
}

#[test]
fn claims_hold() {
    holds("claims", CLAIMS);
}

#[test]
fn mutants() {
    let _ = Mutant::NoFence;
}
