//! What is mounted: volumes whose process is gone, other users of FUSE, and whether mounts reach containers.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::Finding;
use crate::sys::{Answers, FUSE_TYPE, MountEntry, answers, holder_of, mount_table};

/// How long a volume may take to say that it is there.
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) fn look(mounts: &Path) -> Vec<Finding> {
    let table = match mount_table() {
        Ok(table) => table,
        Err(error) => {
            return vec![Finding::note(
                "mounts",
                format!("/proc/self/mountinfo: {error}"),
                "mount /proc",
            )];
        }
    };
    let mut findings = volumes(&table, |path| answers(path, PATIENCE));
    findings.extend(others(&table));
    findings.extend(propagation(&table, mounts));
    findings
}

fn volumes(table: &[MountEntry], ask: impl Fn(&Path) -> Answers) -> Vec<Finding> {
    const ABOUT: &str = "volumes";
    let (mut served, mut findings) = (0, Vec::new());
    for mount in table.iter().filter(|mount| mount.kind == FUSE_TYPE) {
        let path = mount.path.display();
        match ask(&mount.path) {
            Answers::Yes => served += 1,
            Answers::Never => findings.push(Finding::bad(
                ABOUT,
                format!("{} at {path}: the process that served it is gone", mount.source),
                format!("umount -l {path}; then start its container, or mount it, again: what was synced is in the bucket, and the rest in the state folder"),
            )),
            Answers::NotNow => findings.push(Finding::bad(
                ABOUT,
                format!("{} at {path} does not answer within {} s", mount.source, PATIENCE.as_secs()),
                "look at last_error in s3vol status, and at the log",
            )),
        }
    }
    let text = match served {
        0 => "none is mounted in this view of the file system".to_owned(),
        served => format!("{served} mounted, and served"),
    };
    findings.push(Finding::good(ABOUT, text));
    findings
}

/// They share the kernel's limits, but no connection.
fn others(table: &[MountEntry]) -> Option<Finding> {
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    for mount in table {
        if mount.kind != FUSE_TYPE && (mount.kind == "fuse" || mount.kind.starts_with("fuse.")) {
            *kinds.entry(&mount.kind).or_default() += 1;
        }
    }
    let text: Vec<String> = kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    (!text.is_empty()).then(|| Finding::good("other FUSE", text.join(", ")))
}

/// Whether a mount below `folder` is seen by containers that run already, and goes where it is unmounted.
fn propagation(table: &[MountEntry], folder: &Path) -> Option<Finding> {
    const ABOUT: &str = "propagation";
    if !folder.exists() {
        // A managed plugin has its own, which dockerd makes.
        return None;
    }
    let holder = holder_of(table, folder)?;
    let at = holder.path.display();
    Some(match holder.shared {
        true => Finding::good(ABOUT, format!("{} lies on the shared mount {at}", folder.display())),
        false => Finding::note(
            ABOUT,
            format!(
                "{} lies on {at}, whose mounts are not propagated: containers do not see volumes that are mounted later",
                folder.display()
            ),
            format!("mount --make-rshared {at}"),
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;
    use crate::sys::parse_mount_table;

    const TABLE: &[u8] = b"22 1 0:20 / / rw shared:1 - ext4 /dev/vda rw\n\
        23 22 0:21 / /private rw - xfs /dev/vdb rw\n\
        36 22 0:50 / /vol/data rw - fuse.s3vol s3://b/data rw\n\
        37 22 0:51 / /vol/dead rw - fuse.s3vol s3://b/dead rw\n\
        38 22 0:52 / /vol/slow rw - fuse.s3vol s3://b/slow rw\n\
        39 22 0:53 / /sshfs rw - fuse.sshfs host: rw\n";

    #[test]
    fn a_volume_without_its_process_is_bad_and_named() {
        let found = volumes(&parse_mount_table(TABLE), |path| match path.to_str().unwrap() {
            "/vol/dead" => Answers::Never,
            "/vol/slow" => Answers::NotNow,
            _ => Answers::Yes,
        });
        let grades: Vec<_> = found.iter().map(|finding| finding.grade).collect();
        assert_eq!(grades, [Grade::Bad, Grade::Bad, Grade::Good]);
        assert!(found[0].cure.as_ref().unwrap().starts_with("umount -l /vol/dead;"));
        assert!(found[1].text.contains("/vol/slow does not answer"));
        assert_eq!(found[2].text, "1 mounted, and served");
    }

    #[test]
    fn others_are_counted_by_kind() {
        assert_eq!(others(&parse_mount_table(TABLE)).unwrap().text, "1 fuse.sshfs");
        assert_eq!(others(&[]), None);
    }

    #[test]
    fn mounts_that_containers_do_not_see_are_noted() {
        let table = parse_mount_table(TABLE);
        assert_eq!(propagation(&table, Path::new("/usr")).unwrap().grade, Grade::Good);
        assert_eq!(propagation(&table, Path::new("/private/none")), None);
        let private = parse_mount_table(b"22 1 0:20 / / rw - ext4 /dev/vda rw\n");
        let found = propagation(&private, Path::new("/usr")).unwrap();
        assert_eq!(
            (found.grade, found.cure.unwrap().as_str()),
            (Grade::Note, "mount --make-rshared /")
        );
    }
}
