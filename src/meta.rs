//! Metadata: the engine, the local log, the records. The only importer of `slatedb`.

/// Proof that everything handed to the engine before it was asked for is in the bucket. Only a
/// finished flush makes one; the reply to fsync needs it.
#[must_use]
#[derive(Debug)]
pub struct Receipt(());
