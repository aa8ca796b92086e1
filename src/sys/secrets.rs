//! Keeps the keys of this process from others: out of `/proc/PID/environ`, and out of core dumps.

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;

/// A variable whose name has one of these holds a secret, or may.
const SECRET: &[&str] =
    &["SECRET", "KEY", "TOKEN", "SAS", "PASSWORD", "CONNECTION_STRING", "CREDENTIAL_PROCESS"];
/// Whose variables those are.
const OURS: &[&str] = &["AWS_", "AZURE_", "GOOGLE_", "S3VOL_CREDENTIALS_"];

/// Whether a variable of that name holds keys.
pub fn is_secret_variable(name: &str) -> bool {
    OURS.iter().any(|prefix| name.starts_with(prefix))
        && SECRET.iter().any(|word| name.contains(word))
}

/// Moves the values of secret variables to where `/proc/PID/environ` does not show them, and forbids core dumps and
/// looks into this process's memory by others without special rights. First of all in `main`: no other thread runs,
/// and nothing has been set in the environment.
pub fn hide_secrets() {
    // Also undone by exec, so each program of ours does it.
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        tracing::debug!(%error, "core dumps cannot be forbidden");
    }
    for (name, value) in std::env::vars_os() {
        if !name.to_str().is_some_and(is_secret_variable) {
            continue;
        }
        let Ok(c_name) = CString::new(name.as_bytes()) else { continue };
        // SAFETY: no other thread runs; the pointer is used while the variable is that of exec.
        let before = unsafe { libc::getenv(c_name.as_ptr()) };
        // SAFETY: no other thread runs yet.
        unsafe { std::env::set_var(&name, &value) };
        // SAFETY: as above.
        let after = unsafe { libc::getenv(c_name.as_ptr()) };
        if before.is_null() || before == after {
            continue;
        }
        // SAFETY: the kernel put this string there, for this process to change; nothing points to it any more.
        let length = unsafe { CStr::from_ptr(before) }.count_bytes();
        for at in 0..length {
            // SAFETY: within the string, whose end stays.
            unsafe { before.add(at).write_volatile(0) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_secret_and_places_are_not() {
        for secret in [
            "AWS_SECRET_ACCESS_KEY",
            "AWS_ACCESS_KEY_ID",
            "AWS_SESSION_TOKEN",
            "AWS_CREDENTIAL_PROCESS",
            "AZURE_STORAGE_ACCOUNT_KEY",
            "AZURE_STORAGE_SAS_TOKEN",
            "GOOGLE_SERVICE_ACCOUNT_KEY",
            "S3VOL_CREDENTIALS_TEAM_AWS_SECRET_ACCESS_KEY",
        ] {
            assert!(is_secret_variable(secret), "{secret}");
        }
        for other in [
            "AWS_REGION",
            "S3VOL_URL",
            "AZURE_STORAGE_ACCOUNT_NAME",
            "S3VOL_SSE_KMS_KEY_ID",
            "PATH",
        ] {
            assert!(!is_secret_variable(other), "{other}");
        }
    }
}
