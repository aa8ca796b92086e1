//! The log: one line a record on standard output, without colour.
//!
//! Docker marks every line of a plugin's standard error as an error, so nothing goes there.
//! Secrets cannot appear: their type has no `Debug`. Nothing here survives a crash.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Docker cuts longer lines in pieces and loses their order.
const LONGEST_LINE: usize = 60 * 1024;

/// Starts the log with `filter` (a level, or levels by module, as in `s3vol=debug,info`). The error
/// says what is wrong with the filter. Calling it again in one process does nothing.
pub fn init(filter: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter).map_err(|e| e.to_string())?;
    let plain = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(|| OneLine { buffer: Vec::with_capacity(256) });
    // dockerd stamps each line itself; a terminal does not.
    let done = if std::io::stdout().is_terminal() {
        plain.try_init()
    } else {
        plain.without_time().try_init()
    };
    match done {
        Ok(()) => {
            // The process has no other one yet.
            let _ = log::set_logger(&Libraries);
            log::set_max_level(log::LevelFilter::Warn);
        }
        Err(error) => tracing::debug!(%error, "the log was started before"),
    }
    Ok(())
}

/// What libraries say in their own way. `fuser` so tells of answers that it could not give.
struct Libraries;

impl log::Log for Libraries {
    fn enabled(&self, what: &log::Metadata<'_>) -> bool {
        what.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            tracing::warn!(library = record.target(), "{}", record.args());
        }
    }

    fn flush(&self) {}
}

/// An error and its causes in one line. A cause that the text before it already has is not said again.
pub fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(cause) = next {
        let part = cause.to_string();
        next = cause.source();
        if text.contains(&part) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&part);
    }
    text
}

/// Gathers one record and writes it as one line when it is dropped.
struct OneLine {
    buffer: Vec<u8>,
}

impl std::io::Write for OneLine {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for OneLine {
    fn drop(&mut self) {
        use std::io::Write;
        let line = one_line(std::mem::take(&mut self.buffer));
        // A closed pipe must not end the process that serves the volumes.
        drop(std::io::stdout().lock().write_all(&line));
    }
}

fn one_line(mut record: Vec<u8>) -> Vec<u8> {
    while record.last() == Some(&b'\n') {
        record.pop();
    }
    record.truncate(LONGEST_LINE);
    for byte in &mut record {
        if *byte == b'\n' || *byte == b'\r' {
            *byte = b' ';
        }
    }
    record.push(b'\n');
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_bounded_line() {
        assert_eq!(one_line(b"a\nb\n".to_vec()), b"a b\n");
        assert_eq!(one_line(vec![b'x'; 100_000]).len(), LONGEST_LINE + 1);
    }

    #[test]
    fn no_cause_is_said_twice() {
        let error = anyhow::anyhow!("no such host").context("asking s3: no such host");
        assert_eq!(with_causes(error.as_ref()), "asking s3: no such host");
        assert_eq!(
            with_causes(error.context("mounting").as_ref()),
            "mounting: asking s3: no such host"
        );
    }

    #[test]
    fn a_wrong_filter_is_named() {
        assert!(init("s3vol=loud").is_err());
    }
}
