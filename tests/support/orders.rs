//! Orders to the program to die at a place of the test's choice (`src/fault.rs`).

use std::path::{Path, PathBuf};

/// Orders to die.
pub struct Orders(PathBuf);

impl Orders {
    /// In a folder of the test.
    pub fn below(dir: &Path) -> Orders {
        let folder = dir.join("points");
        std::fs::create_dir_all(&folder).unwrap();
        Orders(folder)
    }

    pub fn give(&self, name: &str, point: &str, how: &str) {
        // Whole, or not there.
        let (written, order) = (self.0.join("order"), self.0.join(format!("{name}.{point}")));
        std::fs::write(&written, how).unwrap();
        std::fs::rename(written, order).unwrap();
    }

    pub fn is_open(&self, name: &str, point: &str) -> bool {
        self.0.join(format!("{name}.{point}")).exists()
    }

    pub fn env(&self) -> (&'static str, &str) {
        (s3vol::fault::POINTS, self.0.to_str().unwrap())
    }
}
