//! The kernel and FUSE.

use std::path::Path;

use super::Finding;
use crate::sys::open_fuse_device;

/// What a kernel must have, and what is missing before that.
const SINCE: &[((u32, u32), &str)] = &[
    (
        (4, 20),
        "requests carry 128 KiB instead of 1 MiB, and the targets of symbolic links are asked for again and again",
    ),
    ((5, 2), "a change of a file by others drops more of the page cache than it has to"),
    ((6, 6), "mmap fails for files that are open with O_DIRECT"),
];
/// Pages of the largest request.
const PAGES: u64 = 256;
/// CAP_SYS_ADMIN, as a bit of CapEff (capabilities(7)).
const SYS_ADMIN: u64 = 1 << 21;

pub(super) fn look() -> Vec<Finding> {
    let mut findings = vec![kernel(), device(), rights()];
    findings.extend(limits(Path::new("/")));
    findings
}

fn kernel() -> Finding {
    const ABOUT: &str = "kernel";
    let release = match nix::sys::utsname::uname() {
        Ok(names) => names.release().to_string_lossy().into_owned(),
        Err(error) => {
            return Finding::note(
                ABOUT,
                format!("it does not say what it is: {error}"),
                "look at uname -r",
            );
        }
    };
    let text = format!("Linux {release}");
    match missing(&release) {
        None => Finding::note(
            ABOUT,
            text,
            "this version cannot be read, so nothing is known of what it can do",
        ),
        Some(missing) if missing.is_empty() => Finding::good(ABOUT, text),
        Some(missing) => Finding::note(
            ABOUT,
            format!("{text}: {}", missing.join("; ")),
            "a newer kernel does better; s3vol works all the same",
        ),
    }
}

/// What a kernel of this release does not do. `None`: it is no version.
fn missing(release: &str) -> Option<Vec<&'static str>> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let version = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some(SINCE.iter().filter(|(since, _)| version < *since).map(|(_, what)| *what).collect())
}

fn device() -> Finding {
    match open_fuse_device() {
        Ok(_) => Finding::good("/dev/fuse", "it can be opened"),
        Err(error) => Finding::bad(
            "/dev/fuse",
            error.to_string(),
            "without it no volume can be mounted by this process; a managed plugin has its own",
        ),
    }
}

fn rights() -> Finding {
    const ABOUT: &str = "rights";
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = line.and_then(|line| u64::from_str_radix(line.trim(), 16).ok());
    match effective {
        Some(bits) if bits & SYS_ADMIN != 0 => {
            Finding::good(ABOUT, "this process may mount (CAP_SYS_ADMIN)")
        }
        Some(_) => Finding::note(
            ABOUT,
            "this process may not mount (no CAP_SYS_ADMIN)",
            "s3vol mount and s3vol plugin need root; a managed plugin has its own rights",
        ),
        None => Finding::note(ABOUT, "/proc does not tell what this process may do", "mount /proc"),
    }
}

/// Limits of the kernel for everybody who uses FUSE. `root`: of the file system that has `sys` and `proc`.
fn limits(root: &Path) -> Vec<Finding> {
    const ABOUT: &str = "FUSE limits";
    let number = |path: &str| {
        let text = std::fs::read_to_string(root.join(path)).ok()?;
        text.trim().parse::<u64>().ok()
    };
    let mut findings = Vec::new();
    // Since Linux 6.14: the kernel ends a connection that leaves a request unanswered for so many seconds.
    for name in ["default_request_timeout", "max_request_timeout"] {
        if let Some(seconds) = number(&format!("proc/sys/fs/fuse/{name}")).filter(|s| *s > 0) {
            findings.push(Finding::bad(
                ABOUT,
                format!("fs.fuse.{name} is {seconds}: the kernel ends a mount of which one request takes longer, as an fsync may while the bucket does not answer"),
                format!("sysctl -w fs.fuse.{name}=0, also in /etc/sysctl.d"),
            ));
        }
    }
    if let Some(pages) = number("proc/sys/fs/fuse/max_pages_limit").filter(|pages| *pages < PAGES) {
        findings.push(Finding::note(
            ABOUT,
            format!(
                "fs.fuse.max_pages_limit is {pages}: reads and writes are cut into smaller requests"
            ),
            format!("sysctl -w fs.fuse.max_pages_limit={PAGES}"),
        ));
    }
    let connections = std::fs::read_dir(root.join("sys/fs/fuse/connections"));
    let open = connections.map(|entries| entries.filter_map(Result::ok).count()).unwrap_or(0);
    if open == 0 && !root.join("sys/fs/fuse").exists() {
        findings.push(Finding::bad(
            ABOUT,
            "the kernel has no FUSE",
            "load the module: modprobe fuse",
        ));
    } else if findings.is_empty() {
        let text = match open {
            0 => "nothing in the way".to_owned(),
            open => format!("nothing in the way; {open} FUSE connections are open on this host"),
        };
        findings.push(Finding::good(ABOUT, text));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;

    #[test]
    fn a_kernel_is_told_by_its_release() {
        let lacks = |release: &str| missing(release).map(|missing| missing.len());
        assert_eq!(lacks("6.18.5-cloud-amd64"), Some(0));
        assert_eq!(lacks("6.1.0-13-amd64"), Some(1));
        assert_eq!(lacks("4.18.0-553.el8.x86_64"), Some(3));
        assert_eq!(lacks("5.15-rc1"), Some(1));
        assert_eq!(lacks("linux"), None);
        assert_eq!(lacks(""), None);
    }

    #[test]
    fn a_kernel_that_ends_slow_mounts_is_bad() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        assert_eq!(limits(dir.path())[0].grade, Grade::Bad);
        write("sys/fs/fuse/connections/50/waiting", "0\n");
        write("proc/sys/fs/fuse/default_request_timeout", "0\n");
        write("proc/sys/fs/fuse/max_pages_limit", "256\n");
        let found = limits(dir.path());
        assert_eq!((found.len(), found[0].grade), (1, Grade::Good), "{found:?}");
        assert!(found[0].text.contains("1 FUSE connections"), "{found:?}");
        write("proc/sys/fs/fuse/max_request_timeout", "30\n");
        write("proc/sys/fs/fuse/max_pages_limit", "32\n");
        let found = limits(dir.path());
        let grades: Vec<_> = found.iter().map(|finding| finding.grade).collect();
        assert_eq!(grades, [Grade::Bad, Grade::Note]);
        assert!(found[0].cure.as_ref().unwrap().contains("fs.fuse.max_request_timeout=0"));
    }
}
