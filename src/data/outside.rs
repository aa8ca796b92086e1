//! The question that the file system asks before it answers from what it knows: did somebody else
//! change the bucket?

use async_trait::async_trait;

use super::DataError;
use crate::types::{FileName, Ino};

/// Looks at the bucket when knowledge is older than `refresh`, and brings the tree up to date through
/// the sequencer.
#[async_trait]
pub trait Outside: std::fmt::Debug + Send + Sync + 'static {
    /// Before a directory is listed: its names are as fresh as `refresh` asks.
    async fn directory(&self, dir: Ino) -> Result<(), DataError>;

    /// Before a name is looked up.
    async fn name(&self, dir: Ino, name: &FileName) -> Result<(), DataError>;

    /// Before a directory is renamed or removed: everything below it is known.
    async fn subtree(&self, dir: Ino) -> Result<(), DataError>;

    /// Before the attributes of an adopted object are shown.
    async fn attributes(&self, ino: Ino) -> Result<(), DataError>;

    /// A directory was just made; nothing of ours or others is below it.
    fn made(&self, dir: Ino);
}

/// A bucket that nobody else touches: for tests of the layers below.
#[derive(Debug)]
pub struct NothingOutside;

#[async_trait]
impl Outside for NothingOutside {
    async fn directory(&self, _dir: Ino) -> Result<(), DataError> {
        Ok(())
    }
    async fn name(&self, _dir: Ino, _name: &FileName) -> Result<(), DataError> {
        Ok(())
    }
    async fn subtree(&self, _dir: Ino) -> Result<(), DataError> {
        Ok(())
    }
    async fn attributes(&self, _ino: Ino) -> Result<(), DataError> {
        Ok(())
    }
    fn made(&self, _dir: Ino) {}
}
