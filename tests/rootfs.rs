//! Names in the plugin's root file system: nothing there but one static program, so name service
//! must come with it. Proven with a program built the same way, because the plugin itself has no
//! command that only resolves a name.

use std::path::Path;
use std::process::Command;

const RESOLVE: &str = r#"
use std::net::ToSocketAddrs;
fn main() {
    let name = std::env::args().nth(1).unwrap();
    match (name.as_str(), 80).to_socket_addrs() {
        Ok(found) => for address in found { println!("{}", address.ip()) },
        Err(error) => println!("error: {error}"),
    }
}
"#;

/// Answers one name with one address and denies every other.
const SERVER: &str = r#"
import socket, struct, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("127.0.0.1", 53)); print("ready", flush=True)
while True:
    q, a = s.recvfrom(1500)
    i, labels = 12, []
    while q[i]: labels.append(q[i+1:i+1+q[i]].decode()); i += 1 + q[i]
    kind = struct.unpack(">H", q[i+1:i+3])[0]; question = q[12:i+5]
    if ".".join(labels) != "bucket.s3vol.test":
        s.sendto(q[:2] + b"\x81\x83" + struct.pack(">HHHH", 1, 0, 0, 0) + question, a); continue
    answer = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 1, 4) + socket.inet_aton("198.51.100.7") if kind == 1 else b""
    s.sendto(q[:2] + b"\x81\x80" + struct.pack(">HHHH", 1, 1 if answer else 0, 0, 0) + question + answer, a)
"#;

#[test]
fn a_static_program_resolves_a_name_that_only_a_dns_server_knows() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    std::fs::create_dir_all(root.join("etc")).unwrap();
    std::fs::write(dir.path().join("resolve.rs"), RESOLVE).unwrap();
    std::fs::write(dir.path().join("server.py"), SERVER).unwrap();
    std::fs::write(root.join("etc/resolv.conf"), "nameserver 127.0.0.1\n").unwrap();
    std::fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n").unwrap();
    let built = Command::new("rustc")
        .args(["--edition", "2024", "-C", "target-feature=+crt-static", "-o"])
        .arg(root.join("resolve"))
        .arg(dir.path().join("resolve.rs"))
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let resolve = |name: &str| in_own_network(dir.path(), name);
    assert_eq!(resolve("bucket.s3vol.test"), "198.51.100.7\n");
    assert_eq!(resolve("localhost"), "127.0.0.1\n");
    assert!(resolve("nowhere.s3vol.test").starts_with("error:"));
}

fn in_own_network(dir: &Path, name: &str) -> String {
    let script = r#"ip link set lo up
        exec 3< <(exec python3 server.py)
        server=$!
        read -r -t 10 ready <&3
        timeout 20 chroot root /resolve "$0"
        kill $server"#;
    let out = Command::new("unshare")
        .args(["--net", "--mount", "bash", "-c", script, name])
        .current_dir(dir)
        .output()
        .unwrap();
    String::from_utf8_lossy(&out.stdout).into_owned()
}
