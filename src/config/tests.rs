use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::schema::{Draft, PLUGIN_SETTINGS, SETTINGS, Scope};
use super::*;
use crate::types::VolumeName;

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn plugin(pairs: &[(&str, &str)]) -> Result<PluginConfig, ConfigErrors> {
    PluginConfig::parse(&map(pairs))
}

fn volume(
    env: &[(&str, &str)],
    name: &str,
    given: &[(&str, &str)],
) -> Result<VolumeOptions, ConfigErrors> {
    let config = plugin(env).unwrap();
    let name = VolumeName::new(name).unwrap();
    VolumeOptions::parse(&map(given), &config.defaults, &config.home, &name)
}

#[test]
fn what_is_said_to_take_effect_at_once_is_what_a_mounted_volume_follows() {
    let stored = volume(&[], "web", &[]).unwrap();
    for setting in SETTINGS {
        let mut draft = Draft::new(stored.clone());
        (setting.apply)(&mut draft, setting.example).unwrap();
        let follows = Tuned::of(&draft.options) != Tuned::of(&stored);
        // Nobody but `docker volume rm` looks at it, and that looks at the definition.
        let at_once = setting.change == Change::Now && setting.name != "on_remove";
        assert_eq!(follows, at_once, "{}", setting.name);
    }
}

#[test]
fn defaults_in_the_table_are_the_defaults_in_the_type() {
    for setting in SETTINGS {
        if ["url", "bucket", "prefix", "state_url", "endpoint", "region"].contains(&setting.name) {
            continue;
        }
        let mut draft = Draft::new(VolumeOptions { uid: 7, gid: 7, ..VolumeOptions::default() });
        (setting.apply)(&mut draft, setting.default).unwrap();
        draft.options.uid = if setting.name == "uid" { draft.options.uid } else { 0 };
        draft.options.gid = if setting.name == "gid" { draft.options.gid } else { 0 };
        assert_eq!(draft.options, VolumeOptions::default(), "{}", setting.name);
    }
}

#[test]
fn examples_in_the_table_are_accepted() {
    for setting in SETTINGS {
        let mut draft = Draft::new(VolumeOptions::default());
        assert_eq!((setting.apply)(&mut draft, setting.example), Ok(()), "{}", setting.name);
    }
    let env: Vec<_> = PLUGIN_SETTINGS.iter().map(|s| (s.name, s.example)).collect();
    plugin(&env).unwrap();
}

#[test]
fn the_page_is_generated() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/CONFIGURATION.md");
    let page = reference_page();
    if std::env::var_os("S3VOL_TEST_WRITE").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    assert!(
        std::fs::read_to_string(path).unwrap() == page,
        "docs/CONFIGURATION.md is stale: run S3VOL_TEST_WRITE=1 cargo test the_page_is_generated"
    );
}

/// dockerd refuses to set a variable that the manifest does not list.
#[test]
fn the_manifest_lists_the_settings() {
    // The managed plugin keeps them where dockerd looks for volumes.
    let by_hand_only = ["S3VOL_STATE", "S3VOL_MOUNTS", "S3VOL_FILES"];
    let manifest: serde_json::Value =
        serde_json::from_str(include_str!("../../config.json")).unwrap();
    let mut listed = BTreeSet::new();
    for entry in manifest["env"].as_array().unwrap() {
        let name = entry["name"].as_str().unwrap().to_owned();
        assert_eq!(entry["settable"], serde_json::json!(["value"]), "{name}");
        // Empty is the same as not given, so that every default is in this program.
        assert_eq!(entry["value"], "", "{name}");
        assert!(listed.insert(name.clone()), "{name} is listed twice");
    }
    listed.retain(|name| name.starts_with("S3VOL_"));
    let plugin = PLUGIN_SETTINGS.iter().map(|s| s.name.to_owned());
    let volume = SETTINGS
        .iter()
        .filter(|s| s.scope == Scope::Default)
        .map(|s| format!("S3VOL_{}", s.name.to_ascii_uppercase()));
    let settable: BTreeSet<String> =
        plugin.filter(|name| !by_hand_only.contains(&name.as_str())).chain(volume).collect();
    assert_eq!(listed, settable);
}

#[test]
fn every_listed_setting_may_be_empty() {
    let manifest: serde_json::Value =
        serde_json::from_str(include_str!("../../config.json")).unwrap();
    let names = manifest["env"].as_array().unwrap().iter().map(|e| e["name"].as_str().unwrap());
    let env: Vec<_> = names.map(|name| (name, "")).collect();
    assert_eq!(plugin(&env), plugin(&[]));
}

#[test]
fn nothing_at_all_is_the_embedded_store() {
    let config = plugin(&[]).unwrap();
    assert!(config.home.embedded);
    assert_eq!(config.home.url.to_string(), "file:///s3vol/state/store/");
    let options = volume(&[], "web", &[]).unwrap();
    assert_eq!(options.url, "file:///s3vol/state/store/web/");
    assert_eq!(options.state_url, "file:///s3vol/state/store/");
}

#[test]
fn the_state_lies_at_home_or_at_the_buckets_root() {
    let env = &[("S3VOL_URL", "s3://b/team"), ("S3VOL_COMMIT", "2s")];
    let plain = volume(env, "web", &[]).unwrap();
    assert_eq!(
        (plain.url.as_str(), plain.state_url.as_str()),
        ("s3://b/team/web/", "s3://b/team/")
    );
    assert_eq!(plain.commit, Duration::from_secs(2));
    let other = volume(env, "web", &[("url", "s3://photos/2026")]).unwrap();
    assert_eq!(other.state_url, "s3://photos/");
    let endpoint = volume(env, "web", &[("url", "s3://b/x"), ("endpoint", "http://h:1")]).unwrap();
    assert_eq!(endpoint.state_url, "s3://b/");
    let bucket = volume(env, "web", &[("bucket", "photos")]).unwrap();
    assert_eq!(bucket.url, "s3://photos/web/");
    let prefix = volume(env, "web", &[("bucket", "photos"), ("prefix", "a/b")]).unwrap();
    assert_eq!(prefix.url, "s3://photos/a/b/");
}

#[test]
fn the_state_never_lies_inside_the_volume() {
    let env = &[("S3VOL_URL", "s3://b/team")];
    for given in [
        &[("url", "s3://b/team")][..],
        &[("url", "s3://photos")],
        &[("bucket", "photos"), ("prefix", "")],
        &[("url", "s3://b/x"), ("state_url", "s3://b/x/y")],
    ] {
        let errors = volume(env, "web", given).unwrap_err();
        assert!(errors.to_string().contains("inside the volume"), "{errors}");
    }
    volume(env, "web", &[("url", "s3://photos"), ("state_url", "s3://b/team")]).unwrap();
}

#[test]
fn both_spellings_and_flags_without_value() {
    let options = volume(&[], "v", &[("settle-after", "500ms"), ("READONLY", "")]).unwrap();
    assert_eq!(options.settle_after, Duration::from_millis(500));
    assert!(options.readonly);
    let errors = volume(&[], "v", &[("settle-after", "1"), ("settle_after", "2")]).unwrap_err();
    assert!(errors.to_string().contains("given twice"), "{errors}");
}

#[test]
fn all_errors_come_at_once() {
    let errors = volume(
        &[],
        "v",
        &[("comit", "5s"), ("file_mode", "999"), ("size", "big"), ("aws_secret_access_key", "x")],
    )
    .unwrap_err();
    assert_eq!(errors.0.len(), 4, "{errors}");
    let text = errors.to_string();
    assert!(text.contains("did you mean commit?") && text.contains("single_host"), "{text}");
    assert!(text.contains("credentials are never options"), "{text}");
    let errors = plugin(&[
        ("S3VOL_URL", "ftp://x"),
        ("S3VOL_GRACE", "soon"),
        ("S3VOL_COMMITT", "5s"),
        ("S3VOL_BUCKET", "b"),
        ("S3VOL_UID", "-1"),
        ("S3VOL_REGION", ""),
        ("PATH", "/bin"),
    ])
    .unwrap_err();
    assert_eq!(errors.0.len(), 5, "{errors}");
    assert!(errors.to_string().contains("did you mean S3VOL_COMMIT?"), "{errors}");
}

#[test]
fn secrets_do_not_come_back_in_errors() {
    for name in ["access_key", "secret-key", "password", "AWS_SESSION_TOKEN", "account_key"] {
        let errors = volume(&[], "v", &[(name, "hunter2")]).unwrap_err().to_string();
        assert!(errors.contains("credentials are never options"), "{name}: {errors}");
        assert!(!errors.contains("hunter2"), "{errors}");
    }
    let errors = volume(&[], "v", &[("url", "s3://id:hunter2@bucket/x")]).unwrap_err().to_string();
    assert!(!errors.contains("hunter2"), "{errors}");
}

#[test]
fn values() {
    for (text, ms) in [("5s", 5000), ("2m", 120_000), ("500ms", 500), ("7", 7000), ("0.5s", 500)] {
        assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
    }
    for text in ["", "s", "-1", "1e9", "inf", "1w", "5 s x", "99999999999999999999d"] {
        assert!(parse_duration(text).is_err(), "{text}");
    }
    for (text, bytes) in
        [("10g", 10 << 30), ("512MiB", 512 << 20), ("1kb", 1024), ("77", 77), ("1.5K", 1536)]
    {
        assert_eq!(parse_size(text), Ok(bytes), "{text}");
    }
    for text in ["", "g", "-1", "1x", "99999999999999999999", "99999999999p"] {
        assert!(parse_size(text).is_err(), "{text}");
    }
}

#[test]
fn urls_that_are_refused() {
    for text in [
        "bucket/x",
        "http://b/x",
        "s3:///x",
        "s3://b/../x",
        "s3://b/a//b",
        "s3://b/x?y=1",
        "file://relative",
        "file:///",
        "s3://b/.s3vol/v",
        "s3://b/a\nb",
    ] {
        assert!(BucketUrl::parse(text).is_err(), "{text}");
    }
    for (text, normal) in
        [("s3://b", "s3://b/"), ("gs://b/x/", "gs://b/x/"), ("file:///a", "file:///a/")]
    {
        assert_eq!(BucketUrl::parse(text).unwrap().to_string(), normal);
    }
}

#[test]
fn a_repeated_create_is_compared_by_what_it_asks_for() {
    let config = plugin(&[("S3VOL_URL", "s3://b/team")]).unwrap();
    let name = VolumeName::new("web").unwrap();
    let stored =
        volume(&[("S3VOL_URL", "s3://b/team"), ("S3VOL_COMMIT", "1s")], "web", &[]).unwrap();
    let same = stored.amend(&map(&[("uid", "0")]), &config.home, &name).unwrap();
    assert!(stored.differences(&same).is_empty());
    let other = stored
        .amend(&map(&[("commit", "9s"), ("url", "s3://b/else")]), &config.home, &name)
        .unwrap();
    let differences: Vec<_> = stored.differences(&other).iter().map(|d| d.to_string()).collect();
    let differences = differences.join("; ");
    assert!(differences.contains("commit is 1s, not 9s"), "{differences}");
    assert!(differences.contains("url is s3://b/team/web/, not s3://b/else/"), "{differences}");
}

#[test]
fn a_mount_by_url_needs_no_home() {
    let defaults = VolumeOptions::default();
    let options = VolumeOptions::parse_for_url("s3://b/x/y", &map(&[]), &defaults).unwrap();
    assert_eq!((options.url.as_str(), options.state_url.as_str()), ("s3://b/x/y/", "s3://b/"));
    let errors = VolumeOptions::parse_for_url("s3://b/x", &map(&[("url", "s3://c")]), &defaults);
    assert!(errors.is_err());
}

#[test]
fn what_new_objects_get_fits_the_store() {
    let at = |url: &str, given: &[(&str, &str)]| {
        volume(&[], "v", &[&[("url", url)], given].concat()).map_err(|errors| errors.to_string())
    };
    let all = [
        ("storage_class", "standard_ia"),
        ("sse", "AWS:KMS"),
        ("sse_kms_key_id", "alias/team"),
        ("acl", "public-read"),
        ("requester_pays", ""),
    ];
    let options = at("s3://b/v", &all).unwrap();
    assert_eq!(options.storage_class.as_deref(), Some("STANDARD_IA"));
    assert_eq!(options.sse.as_deref(), Some("aws:kms"));
    assert!(options.requester_pays);
    // A default of the plugin is taken back by one volume.
    let env = [("S3VOL_SSE", "AES256")];
    assert!(volume(&env, "v", &[("url", "file:///a/b")]).is_err());
    assert_eq!(volume(&env, "v", &[("url", "file:///a/b"), ("sse", "none")]).unwrap().sse, None);

    let tier = |url: &str, class: &str| at(url, &[("storage_class", class)]);
    assert_eq!(tier("az://c/v", "cool").unwrap().storage_class.as_deref(), Some("Cool"));
    assert_eq!(tier("gs://b/v", "archive").unwrap().storage_class.as_deref(), Some("ARCHIVE"));
    for (url, class, why) in [
        ("s3://b/v", "DEEP_ARCHIVE", "GLACIER_IR"),
        ("s3://b/v", "two words", "STANDARD_IA"),
        ("az://c/v", "Archive", "Hot, Cool, Cold"),
        ("gs://b/v", "STANDARD_IA", "NEARLINE"),
        ("file:///a/b", "X", "storage_class=none"),
    ] {
        let error = tier(url, class).unwrap_err();
        assert!(error.contains(why), "{url} {class}: {error}");
    }
    for url in ["az://c/v", "gs://b/v", "file:///a/b"] {
        let error = at(url, &all[1..]).unwrap_err();
        for name in ["sse: ", "acl: ", "requester_pays: "] {
            assert!(error.contains(name), "{url}: {error}");
        }
    }
    for (name, value) in [("sse", "DES"), ("acl", "everybody"), ("sse_kms_key_id", "a b")] {
        assert!(at("s3://b/v", &[(name, value)]).is_err(), "{name}={value}");
    }
    let error = at("s3://b/v", &[("sse", "AES256"), ("sse_kms_key_id", "k")]).unwrap_err();
    assert!(error.contains("sse=aws:kms"), "{error}");
}
