//! Names in the plugin's root file system: nothing there but one static program, so name service
//! must come with it. The program itself probes a bucket whose host only a DNS server knows.

mod support;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use support::dockerd::output_within;
use support::s3server::TestS3;

const NAME: &str = "store.s3vol.test";
/// An address of the loopback network that no other name server uses.
const SERVER: &str = "127.83.51.53";
const LIMIT: Duration = Duration::from_secs(60);

/// Answers one name with one address and denies every other.
const DNS: &str = r#"
import socket, struct, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind((sys.argv[1], 53)); print("ready", flush=True)
while True:
    q, a = s.recvfrom(1500)
    i, labels = 12, []
    while q[i]: labels.append(q[i+1:i+1+q[i]].decode()); i += 1 + q[i]
    kind = struct.unpack(">H", q[i+1:i+3])[0]; question = q[12:i+5]
    if ".".join(labels) != sys.argv[2]:
        s.sendto(q[:2] + b"\x81\x83" + struct.pack(">HHHH", 1, 0, 0, 0) + question, a); continue
    answer = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 1, 4) + socket.inet_aton("127.0.0.1") if kind == 1 else b""
    s.sendto(q[:2] + b"\x81\x80" + struct.pack(">HHHH", 1, 1 if answer else 0, 0, 0) + question + answer, a)
"#;

/// The name server, ended when dropped.
struct Dns(Child);

impl Dns {
    fn start() -> Dns {
        let mut child = Command::new("python3")
            .args(["-c", DNS, SERVER, NAME])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        assert_eq!(ready, "ready\n");
        Dns(child)
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A copy of the plugin's root file system, with what dockerd adds: devices and name service.
fn rootfs(dir: &Path) -> PathBuf {
    let laid_out = std::env::var_os("S3VOL_TEST_ROOTFS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("build/plugin"), PathBuf::from)
        .join("rootfs");
    assert!(laid_out.exists(), "run `make test` or `make plugin-rootfs` first");
    let root = dir.join("root");
    let copied = Command::new("cp").arg("-a").args([&laid_out, &root]).status();
    assert!(copied.unwrap().success());
    let devices = ["/dev/null", "/dev/random", "/dev/urandom"];
    let copied = Command::new("cp").arg("-a").args(devices).arg(root.join("dev")).status();
    assert!(copied.unwrap().success());
    std::fs::write(root.join("etc/resolv.conf"), format!("nameserver {SERVER}\n")).unwrap();
    std::fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n").unwrap();
    root
}

#[test]
fn the_program_finds_a_store_whose_name_only_a_dns_server_knows() {
    let dir = tempfile::tempdir().unwrap();
    let root = rootfs(dir.path());
    let server = TestS3::start();
    let _dns = Dns::start();
    let probe = |host: &str| {
        let mut command = Command::new("chroot");
        command.arg(&root).args(["/bin/s3vol", "probe"]).arg(format!("s3://{}", server.bucket()));
        let endpoint = server.endpoint().replace("127.0.0.1", host);
        assert!(endpoint.contains(host), "{endpoint}");
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.envs(server.env()).env("AWS_ENDPOINT_URL", endpoint);
        let out = output_within(command, LIMIT).unwrap();
        let said = [out.stdout, out.stderr].concat();
        (out.status.success(), String::from_utf8_lossy(&said).into_owned())
    };
    let before = server.log().len();
    for known in [NAME, "localhost"] {
        let (done, said) = probe(known);
        assert!(done, "{known}: {said}");
    }
    assert!(server.log().len() > before);
    let (done, said) = probe("nowhere.s3vol.test");
    assert!(!done && said.contains("nowhere.s3vol.test"), "{said}");
}
