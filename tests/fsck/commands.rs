//! The commands as a person or a script uses them: what they print, and their exit codes.

use std::process::{Command, Output, Stdio};

use crate::world::World;

fn run(world: &World, args: &[&str]) -> (i32, String, String) {
    let options = &world.at.options;
    let option = |name: &str, value: &str| format!("{name}={value}");
    let output: Output = Command::new(env!("CARGO_BIN_EXE_s3vol"))
        .arg(args[0])
        .arg("--state")
        .arg(world.at.stores.with_file_name("by-command"))
        .args(["-o", &option("endpoint", options.endpoint.as_deref().unwrap())])
        .args(["-o", &option("region", options.region.as_deref().unwrap())])
        .args(["-o", "path_style=true", "-o", &option("state_url", &options.state_url)])
        .args(&args[1..])
        .arg(&options.url)
        .envs(world.server.env())
        .stdin(Stdio::null())
        .output()
        .expect("the program");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_say_what_they_found_and_exit_with_it() {
    let mut world = World::new().await;
    world.every_kind().await;
    world.settle().await;
    let (code, _, error) = run(&world, &["fsck", "--repair"]);
    assert_eq!(code, 8, "{error}");
    assert!(error.contains("holds this volume"), "{error}");
    let (code, out, error) = run(&world, &["fsck"]);
    assert_eq!(code, 0, "{out}{error}");
    assert!(out.contains("not judged:") && out.ends_with("clean\n"), "{out}");
    world.close().await;

    let (code, out, error) = run(&world, &["fsck", "--data", "--json"]);
    assert_eq!(code, 0, "{out}{error}");
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&report["exit_code"], &report["in_use"]), (&0.into(), &false.into()), "{out}");
    assert_eq!(run(&world, &["fsck", "--yes"]).0, 64);

    let hash = "ad7f8d21b4a9b6d5d5f5b6b0f9ec5a4f9c0b0b0f6a6f6cfb1ff8d0a3a0a4c9a1";
    let list = world.at.stores.with_file_name("list");
    std::fs::write(&list, format!("{hash}  dir/file\n{hash}  dir/no\n")).unwrap();
    let (code, out, error) = run(&world, &["verify", "--manifest", list.to_str().unwrap()]);
    assert_eq!((code, out.as_str()), (4, "dir/file: differs\ndir/no: missing\n"), "{error}");
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    std::fs::write(&list, format!("{empty} *./dir/deep/nothing\n")).unwrap();
    let (code, out, error) =
        run(&world, &["verify", "--json", "--manifest", list.to_str().unwrap()]);
    assert_eq!(code, 0, "{error}");
    assert!(out.contains(r#""verdict":"ok""#), "{out}");
    std::fs::write(&list, "nonsense\n").unwrap();
    let (code, _, error) = run(&world, &["verify", "--manifest", list.to_str().unwrap()]);
    assert_eq!(code, 8, "{error}");
    assert!(error.contains("line 1 of"), "{error}");

    assert!(world.server.delete_foreign("home/vol/dir/deep/large"));
    let (code, out, error) = run(&world, &["fsck", "--repair"]);
    assert_eq!(code, 4, "nobody was there to agree: {out}{error}");
    assert!(out.contains("object: home/vol/dir/deep/large: somebody else removed"), "{out}");
    let (code, out, error) = run(&world, &["fsck", "--repair", "--yes"]);
    assert_eq!(code, 1, "{out}{error}");

    let (code, _, error) = run(&world, &["rebuild"]);
    assert_eq!(code, 8, "{error}");
    assert!(error.contains("nothing was changed"), "{error}");
    let (code, out, error) = run(&world, &["rebuild", "--yes"]);
    assert_eq!(code, 0, "{out}{error}");
    assert!(out.contains("1 more names of files"), "{out}");
    let (code, out, error) = run(&world, &["fsck"]);
    assert_eq!(code, 0, "{out}{error}");
}
