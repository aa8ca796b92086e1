//! Random sequences: the same every time, unless the environment asks for others or for more.

use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// The number that a variable names.
pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Draws so many sequences. Another `stream` has others of the same seed.
pub fn runner(cases: u32, seed: u64, stream: u64) -> TestRunner {
    let config = Config {
        cases,
        max_shrink_iters: 300,
        max_shrink_time: 120_000,
        failure_persistence: None,
        ..Config::default()
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..16].copy_from_slice(&stream.to_le_bytes());
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}
