//! The credentials that have a name on this host, without values.

use super::Finding;
use crate::credentials::{Listed, Places};

const ABOUT: &str = "credentials";

pub(super) fn look() -> Vec<Finding> {
    // Profiles are for other programs, too.
    let is_ours = |one: &Listed| !one.place.starts_with("the profile ");
    Places::of_process().list().into_iter().filter(is_ours).map(judge).collect()
}

fn judge(Listed { name, place, variables, problem }: Listed) -> Finding {
    match problem {
        None => Finding::good(ABOUT, format!("{name}: {place} ({})", variables.join(", "))),
        Some(problem) => Finding::bad(
            ABOUT,
            format!("{name}: {place}: {problem}"),
            "correct it; volumes that name it cannot be mounted (docs/CREDENTIALS.md)",
        ),
    }
}
