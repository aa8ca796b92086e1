//! `s3vol about`: what this program is, for one whose place it is to take.

use std::io::Write;

use crate::worker::About;

/// Prints it as JSON.
pub fn about() -> anyhow::Result<()> {
    if crate::fault::noted("about").is_some() {
        crate::fault::hang();
    }
    let text = serde_json::to_string(&About::this_program())?;
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}
