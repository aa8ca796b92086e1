//! Many schedules, as many at a time as there are processors.

use std::collections::VecDeque;

use s3vol::fault::Mutant;

use crate::run::{Outcome, VARIABLE, begin, describe, shrink};
use crate::schedule::Plan;
use crate::voice::Voice;

/// Runs them until they end or `each` says that it is enough.
pub fn many(
    plans: impl Iterator<Item = Plan>,
    mutant: Option<Mutant>,
    mut each: impl FnMut(&Plan, Outcome) -> bool,
) {
    let width = std::thread::available_parallelism().map_or(1, usize::from);
    let mut running = VecDeque::new();
    let mut enough = false;
    for plan in plans {
        let schedule = begin(&plan, mutant, Voice::Silent);
        running.push_back((plan, schedule));
        if running.len() > width
            && let Some((plan, schedule)) = running.pop_front()
        {
            enough = !each(&plan, schedule.end());
        }
        if enough {
            break;
        }
    }
    for (plan, schedule) in running {
        let outcome = schedule.end();
        enough = enough || !each(&plan, outcome);
    }
}

/// How a failing schedule is repeated, after making it as small as it gets.
pub fn report(plan: &Plan, outcome: &Outcome) -> String {
    const LINES: usize = 60;
    let small = shrink(plan, None, 60);
    let again = begin(&small, None, Voice::Silent).end();
    let (small, outcome) = match again.trouble {
        Some(_) => (&small, &again),
        None => (plan, outcome),
    };
    let lines: Vec<&str> = outcome.story.lines().collect();
    format!(
        "{}\n{}\nrepeat it with: {VARIABLE}='{}' cargo test --test simulation -- --ignored --nocapture one_schedule\n",
        outcome.trouble.as_deref().unwrap_or_default(),
        lines[lines.len().saturating_sub(LINES)..].join("\n"),
        describe(small),
    )
}
