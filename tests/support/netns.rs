//! A host of its own on this machine: network and UTS namespace, joined to this one by a pair of virtual
//! interfaces.

use std::process::{Command, Output};
use std::sync::atomic::{AtomicU8, Ordering};

/// Where servers of the tests are reached from every host.
pub const SERVER_ADDRESS: [u8; 4] = [10, 213, 7, 1];

/// One such host. Gone when dropped.
pub struct Netns {
    name: String,
    namespace: String,
    link: String,
    address: String,
}

static HOSTS: AtomicU8 = AtomicU8::new(0);

impl Netns {
    pub fn create(name: &str) -> Self {
        let number = HOSTS.fetch_add(1, Ordering::SeqCst);
        let unique = std::process::id();
        let host = Netns {
            name: name.to_owned(),
            namespace: format!("s3vol-{unique}-{number}"),
            link: format!("sv{}n{number}", unique % 1_000_000),
            address: {
                let [a, b, ..] = SERVER_ADDRESS;
                format!("{a}.{b}.{}.{}", 8 + unique % 240, 4 * number + 2)
            },
        };
        // One small network a host, apart from those of other processes; the servers' address is an extra one on
        // loopback.
        let base = 4 * number;
        let [a, b, c, d] = SERVER_ADDRESS;
        let server = format!("{a}.{b}.{c}.{d}");
        let net = 8 + unique % 240;
        let ours = format!("{a}.{b}.{net}.{}", base + 1);
        let theirs = format!("{}/30", host.address);
        let (ns, link) = (host.namespace.as_str(), host.link.as_str());
        let peer = format!("{link}p");
        // Another test may have added it already.
        let _ = ip(&["addr", "add", &format!("{server}/32"), "dev", "lo"]);
        for step in [
            vec!["netns", "add", ns],
            vec!["link", "add", link, "type", "veth", "peer", "name", &peer],
            vec!["link", "set", &peer, "netns", ns],
            vec!["addr", "add", &format!("{ours}/30"), "dev", link],
            vec!["link", "set", link, "up"],
            vec!["-n", ns, "link", "set", "lo", "up"],
            vec!["-n", ns, "addr", "add", &theirs, "dev", &peer],
            vec!["-n", ns, "link", "set", &peer, "up"],
            vec!["-n", ns, "route", "add", "default", "via", &ours],
        ] {
            let out = ip(&step);
            assert!(out.status.success(), "ip {step:?}: {}", String::from_utf8_lossy(&out.stderr));
        }
        host
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is reached from here and from other hosts.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// From now on it is told at once that there is nothing but hosts and servers of the tests: no name of a registry
    /// is looked up until a timeout.
    pub fn leads_nowhere_else(&self) {
        let (net, last) = self.address.rsplit_once('.').expect("an address");
        let gateway = format!("{net}.{}", last.parse::<u8>().expect("a number") - 1);
        let [a, b, ..] = SERVER_ADDRESS;
        let near = format!("{a}.{b}.0.0/16");
        let ns = self.namespace.as_str();
        for step in [
            ["-n", ns, "route", "add", &near, "via", &gateway].as_slice(),
            &["-n", ns, "route", "del", "default"],
        ] {
            let out = ip(step);
            assert!(out.status.success(), "ip {step:?}: {}", String::from_utf8_lossy(&out.stderr));
        }
    }

    /// From now on nothing gets through to this host or from it, and nobody is told.
    pub fn cut(&self) {
        self.link_is("down");
    }

    pub fn heal(&self) {
        self.link_is("up");
    }

    fn link_is(&self, how: &str) {
        // The end on this side: the host keeps its address and its route.
        let out = ip(&["link", "set", &self.link, how]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }

    /// A program on this host. All wrappers exec, so the child's id is the program's.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.namespace));
        command.args(["unshare", "--uts", "/bin/sh", "-c"]);
        command.arg(format!("hostname {}; exec {program} \"$@\"", self.name)).arg(program);
        command
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = ip(&["link", "del", &self.link]);
        let _ = ip(&["netns", "del", &self.namespace]);
        if HOSTS.load(Ordering::SeqCst) > 0
            && std::fs::read_dir("/run/netns").is_ok_and(|mut left| {
                !left
                    .any(|e| e.is_ok_and(|e| e.file_name().to_string_lossy().starts_with("s3vol-")))
            })
        {
            let [a, b, c, d] = SERVER_ADDRESS;
            let _ = ip(&["addr", "del", &format!("{a}.{b}.{c}.{d}/32"), "dev", "lo"]);
        }
    }
}

fn ip(args: &[&str]) -> Output {
    Command::new("ip").args(args).output().expect("iproute2 is installed")
}
