//! What takes long: as many schedules as time allows, and the hunt for known faults.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use s3vol::fault::{Mutant, points};

use crate::run::begin;
use crate::schedule::Plan;
use crate::series::{many, report};
use crate::voice::Voice;

/// How long schedules are run, in seconds; else two minutes.
const SECONDS: &str = "S3VOL_SIMULATION_SECONDS";
/// The first seed; else one by the clock.
const FROM: &str = "S3VOL_SIMULATION_FROM";
/// A fault that no seed up to this one finds is not found.
const ENOUGH: u64 = 2000;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
#[ignore = "soak: runs for minutes"]
fn soak_schedules() {
    let began = Instant::now();
    let within = Duration::from_secs(number(SECONDS).unwrap_or(120));
    let from = number(FROM).unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.expect("a clock").as_secs() * 1_000_000
    });
    let mut passed: BTreeMap<String, u64> = BTreeMap::new();
    let (mut ran, mut seconds, mut requests, mut failed) = (0u64, 0u64, 0u64, Vec::new());
    many((from..).map(Plan::of), None, |plan, outcome| {
        ran += 1;
        seconds += outcome.seconds;
        requests += outcome.requests;
        for point in outcome.passed.split_whitespace() {
            *passed.entry(point.to_owned()).or_default() += 1;
        }
        if outcome.trouble.is_some() {
            eprintln!("seed {}: {}", plan.seed, outcome.trouble.as_deref().unwrap_or_default());
            failed.push((plan.clone(), outcome));
        }
        began.elapsed() < within
    });
    let hours = began.elapsed().as_secs_f64() / 3600.0;
    eprintln!(
        "{ran} schedules from seed {from} on, {:.0} an hour: {} simulated hours, {requests} requests, {} failed",
        ran as f64 / hours,
        seconds / 3600,
        failed.len()
    );
    let (all, met) = (points::ALL, passed.len());
    let never: Vec<_> = all.iter().filter(|point| !passed.contains_key(**point)).collect();
    eprintln!("{met} of {} points of failure were passed; not {never:?}", all.len());
    let reports: Vec<String> = failed.iter().take(5).map(|(plan, o)| report(plan, o)).collect();
    assert!(failed.is_empty(), "{}", reports.join("\n\n"));
}

#[test]
#[ignore = "soak: runs for minutes"]
fn soak_every_mutant_is_found() {
    let mut missed = Vec::new();
    let only = std::env::var("S3VOL_SIMULATION_MUTANT").ok();
    for mutant in Mutant::ALL {
        if only.as_ref().is_some_and(|only| *only != format!("{mutant:?}")) {
            continue;
        }
        let mut found = None;
        many((1..=ENOUGH).map(Plan::of), Some(*mutant), |plan, outcome| {
            // A seed that fails by itself shows nothing.
            let shows = |_: &String| begin(plan, None, Voice::Silent).end().trouble.is_none();
            found = outcome.trouble.filter(shows).map(|why| (plan.seed, why));
            found.is_none()
        });
        match found {
            Some((seed, why)) => {
                let why: String = why.chars().take(150).collect();
                eprintln!("{mutant:?}: found by seed {seed}: {why}");
            }
            None => {
                eprintln!("{mutant:?}: not found");
                missed.push(*mutant);
            }
        }
    }
    assert!(missed.is_empty(), "not found within {ENOUGH} seeds: {missed:?}");
}
