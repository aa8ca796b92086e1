//! One operation in both places, and whether the answers agree.

use std::os::unix::fs::MetadataExt;

use super::calls::{Answer, Given, Place, become_user};
use super::look::Look;
use crate::ops::Op;

pub fn step(
    ours: &mut Place,
    theirs: &mut Place,
    seen: &Look,
    op: &Op,
    actor: (u8, u16),
) -> Result<(), String> {
    become_user(actor.0, actor.1);
    let answers = (ours.play(op, seen), theirs.play(op, seen));
    become_user(0, 0);
    let (Some(here), Some(there)) = answers else { return Ok(()) };
    let judged = |place: &Place, answer: &Answer| match answer {
        Ok(Given::Sought { target, at, hole, found }) => {
            right_seek(&place.content(target), u64::from(*at), *hole, *found)
        }
        _ => Ok(()),
    };
    judged(ours, &here)?;
    judged(theirs, &there).map_err(|e| format!("the reference: {e}"))?;
    match (&here, &there) {
        (Ok(Given::Sought { .. }), Ok(Given::Sought { .. })) => Ok(()),
        (Err(here), Err(there)) if here != there => {
            let name = |e: &i32| std::io::Error::from_raw_os_error(*e);
            Err(format!("{}; on ext4 {}", name(here), name(there)))
        }
        _ if here != there => Err(format!("{}; on ext4 {}", brief(&here), brief(&there))),
        _ => Ok(()),
    }
}

pub fn changes_content(op: &Op) -> bool {
    matches!(
        op,
        Op::Write { .. }
            | Op::Append { .. }
            | Op::Truncate { .. }
            | Op::Rewrite { .. }
            | Op::Punch { .. }
            | Op::Zero { .. }
            | Op::Allocate { .. }
            | Op::CopyRange { .. }
    )
}

/// Where no group may execute a file, ext4 takes its set-group-ID bit away when somebody outside that
/// group writes to it; FUSE's own side of the kernel leaves it there.
pub fn take_setgid_as_fuse_does(ours: &Place, theirs: &Place) {
    for (path, here) in Look::at(ours).nodes {
        let there = std::fs::symlink_metadata(theirs.at(&path)).map_or(0, |meta| meta.mode());
        if here.is_file() && here.mode & 0o2010 == 0o2000 && there == here.mode & !0o2000 {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(there);
            std::fs::set_permissions(ours.at(&path), mode).unwrap();
        }
    }
}

fn brief(answer: &Answer) -> String {
    match answer {
        Ok(Given::Bytes(bytes)) => format!("{} bytes", bytes.len()),
        Err(errno) => std::io::Error::from_raw_os_error(*errno).to_string(),
        other => format!("{other:?}"),
    }
}

/// A hole reads as zeros, and nothing but zeros is skipped.
fn right_seek(data: &[u8], at: u64, hole: bool, found: Result<u64, i32>) -> Result<(), String> {
    let size = data.len() as u64;
    let zeros = |from: u64, to: u64| data[from as usize..to as usize].iter().all(|b| *b == 0);
    let right = match found {
        Ok(found) if !(at..=size).contains(&found) => false,
        Ok(found) if hole => at < size && (found == size || zeros(found, found + 1)),
        Ok(found) => found < size && zeros(at, found),
        Err(libc::ENXIO) => at >= size || !hole && zeros(at, size),
        Err(_) => false,
    };
    if right { Ok(()) } else { Err(format!("found {found:?} of {size} bytes")) }
}
