//! Test suites that cargo installs, each at a fixed version, below the target folder.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;

/// The program of crate `name`, installed if it is not there yet.
pub fn tool(name: &str, version: &str) -> PathBuf {
    // Two tests may want the same program at once.
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _one = INSTALLING.lock().unwrap_or_else(|e| e.into_inner());
    let root = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("tools");
    let program = root.join("bin").join(name);
    let installed = std::fs::read_to_string(root.join(".crates.toml")).unwrap_or_default();
    if program.exists() && installed.contains(&format!("\"{name} {version} (")) {
        return program;
    }
    let done = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["install", "--quiet", "--locked", "--debug", "--root"])
        .arg(&root)
        .arg(format!("{name}@{version}"))
        .env("CARGO_TARGET_DIR", root.join("build"))
        // How this project is linked is no concern of theirs.
        .env_remove("CARGO_BUILD_TARGET")
        .env_remove("RUSTFLAGS")
        .current_dir(std::env::temp_dir())
        .stdin(Stdio::null())
        .status()
        .expect("cargo starts");
    assert!(done.success(), "cargo install {name}@{version}: {done}");
    program
}
