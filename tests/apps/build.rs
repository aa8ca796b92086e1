//! cargo, with the target directory on the volume.

use crate::{Bucket, LIMIT, shell, shell_with};

const MODULES: usize = 20;

#[test]
#[ignore = "make test-apps"]
fn apps_cargo_finds_what_it_built_fresh_after_a_move() {
    let mut bucket = Bucket::new();
    let source = bucket.local("crate");
    shell(
        &source,
        &format!(
            "mkdir src
             printf '[package]\\nname = \"hello\"\\nversion = \"1.0.0\"\\nedition = \"2021\"\\n' >Cargo.toml
             for i in $(seq {MODULES}); do echo \"pub fn f() -> u64 {{ $i }}\" >src/m$i.rs; done
             {{ for i in $(seq {MODULES}); do echo \"pub mod m$i;\"; done; }} >src/lib.rs
             echo 'fn main() {{ println!(\"{{}}\", hello::m7::f() * 6); }}' >src/main.rs"
        ),
    );
    // How this project is built is no concern of that crate.
    let build = "unset CARGO_BUILD_TARGET RUSTFLAGS CARGO_INCREMENTAL
        CARGO_TARGET_DIR=\"$PWD/target\" cargo build --offline --verbose --manifest-path \"$1/Cargo.toml\" 2>&1";
    let mounted = bucket.mount(&[], LIMIT);
    let first = shell_with(&mounted.path, build, &[&source]);
    assert!(first.contains("Compiling hello"), "{first}");
    assert_eq!(shell(&mounted.path, "target/debug/hello"), "42\n");
    mounted.unmount();
    let mounted = bucket.mount(&[], LIMIT);
    assert_eq!(shell(&mounted.path, "target/debug/hello"), "42\n");
    let second = shell_with(&mounted.path, build, &[&source]);
    assert!(second.contains("Fresh hello") && !second.contains("Compiling"), "{second}");
    // What the compiler keeps for itself is usable, too.
    let third = shell_with(&mounted.path, &format!("echo >>\"$1/src/m7.rs\"\n{build}"), &[&source]);
    assert!(third.contains("Compiling hello"), "{third}");
    assert_eq!(shell(&mounted.path, "target/debug/hello"), "42\n");
    mounted.unmount();
}
