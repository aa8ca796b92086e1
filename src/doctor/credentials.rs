//! The credentials that have a name on this host, without values.

use super::Finding;
use crate::credentials::{Listed, Places};

const ABOUT: &str = "credentials";

pub(super) fn look() -> Vec<Finding> {
    Places::of_process().list().into_iter().map(judge).collect()
}

fn judge(Listed { name, place, variables, problem }: Listed) -> Finding {
    match problem {
        None => Finding::good(ABOUT, format!("{name}: {place} ({})", variables.join(", "))),
        // People have profiles for other programs, too.
        Some(problem) if place.starts_with("the profile ") => Finding::note(
            ABOUT,
            format!("{name}: {place}: {problem}"),
            "no volume can use it; docs/CREDENTIALS.md says what can be used",
        ),
        Some(problem) => Finding::bad(
            ABOUT,
            format!("{name}: {place}: {problem}"),
            "mend it; volumes that name it cannot be mounted (docs/CREDENTIALS.md)",
        ),
    }
}
