//! What the tools for bad days say of a volume that is at rest: `s3vol fsck --data`, and `s3vol verify`, whose reader
//! shares no code with what wrote the volume.

use std::collections::BTreeMap;

use s3vol::catalog::Incarnation;
use s3vol::fsck::Kind;
use s3vol::store::Store;
use s3vol::types::FileKind;
use s3vol::verify::{Expected, verify};
use s3vol::worker::{WorkerSpec, bare_fsck, bare_verify};
use sha2::{Digest, Sha256};

use crate::host::{self, Host, PortOpener};
use crate::model::Seen;
use crate::port::Port;
use crate::sim::{Process, Stays};

/// `shown`: all that the volume showed. `collected`: no garbage may be left.
pub async fn check(
    host: &Host,
    process: &Process,
    volume: &Incarnation,
    shown: &BTreeMap<String, Seen>,
    collected: bool,
) -> Result<(), String> {
    let spec = host::spec(host, volume, host::options());
    let store = Store::stand_in(Port::new(host.number), &host::location(), &host.known());
    let opener = PortOpener { host: host.number, known: host.known() };
    let files: Vec<(String, String)> = shown
        .iter()
        .filter(|(_, seen)| seen.kind == FileKind::File)
        .map(|(path, seen)| (path.clone(), hex(&Sha256::digest(&seen.bytes))))
        .collect();
    let proof = async move {
        no_findings(&spec, &store, &opener, collected).await?;
        all_proven(&spec, &store, files).await
    };
    process.run(Stays(Box::pin(proof))).await.ok_or("the last process died")?
}

async fn no_findings(
    spec: &WorkerSpec,
    store: &Store,
    opener: &PortOpener,
    collected: bool,
) -> Result<(), String> {
    let report = bare_fsck(spec, store, opener).await.map_err(|e| format!("no fsck: {e}"))?;
    // What the last mount could not collect yet is for the next one.
    let found = report.findings.iter().find(|found| collected || found.kind != Kind::Garbage);
    match found {
        None if report.in_use => Err("fsck: a volume that was given back is in use".to_owned()),
        None => Ok(()),
        Some(found) => Err(format!("fsck: {found}, of {} findings", report.findings.len())),
    }
}

async fn all_proven(
    spec: &WorkerSpec,
    store: &Store,
    files: Vec<(String, String)>,
) -> Result<(), String> {
    let verified = bare_verify(spec, store).await.map_err(|e| format!("no verify: {e}"))?;
    if let Some(why) = verified.plain {
        return Err(format!("verify: only plain objects count: {why}"));
    }
    for (path, hash) in files {
        let one = Expected { hash, path: path.clone().into_bytes() };
        match verify(&verified.places, &one).await {
            Ok(verdict) if verdict.is_ok() => {}
            Ok(verdict) => return Err(format!("verify: {path}: {verdict}")),
            Err(error) => return Err(format!("verify: {path}: {error}")),
        }
    }
    if let Some(rows) = verified.places.rows {
        rows.close().await;
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
