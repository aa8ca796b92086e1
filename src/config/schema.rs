//! The table of settings: what each is called, means, defaults to, and where it may be given.
//!
//! The table is the only list: parsing, the error that lists what exists, and the page
//! `docs/CONFIGURATION.md` come from it.

use serde::{Deserialize, Serialize};

use super::address::BucketUrl;
use super::object;
use super::values::{
    parse_bool, parse_choice, parse_content_type, parse_credentials, parse_duration, parse_limit,
    parse_mode, parse_number, parse_size, parse_text,
};
use super::volume::{OnRemove, SettleMode, VolumeOptions};

/// Where a volume setting may be given besides `-o` and the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Also in the plugin's environment as `S3VOL_<NAME>`: the default of all its volumes.
    Default,
    /// Only for one volume.
    One,
}

/// When a new value of an existing volume's option takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// At once, also while the volume is mounted on the host that is asked; on others at their next mount.
    Now,
    /// When the volume is mounted next.
    NextMount,
    /// It is part of what the volume is.
    Never,
}

/// One setting of a volume.
pub struct Setting {
    /// With underscores; hyphens are accepted too.
    pub name: &'static str,
    /// The type, as the reference page calls it.
    pub kind: &'static str,
    /// As text that could be given.
    pub default: &'static str,
    pub example: &'static str,
    pub scope: Scope,
    pub change: Change,
    pub meaning: &'static str,
    pub(super) apply: fn(&mut Draft, &str) -> Result<(), String>,
}

/// One setting of the plugin itself, given only in its environment.
pub struct PluginSetting {
    /// The environment variable.
    pub name: &'static str,
    pub kind: &'static str,
    pub default: &'static str,
    pub example: &'static str,
    pub meaning: &'static str,
}

/// Options being gathered, before URL and state are resolved.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    pub options: VolumeOptions,
    pub url: Option<BucketUrl>,
    pub bucket: Option<String>,
    pub prefix: Option<String>,
    pub state_url: Option<BucketUrl>,
}

impl Draft {
    pub fn new(options: VolumeOptions) -> Self {
        Draft { options, url: None, bucket: None, prefix: None, state_url: None }
    }
}

/// The setting of that name, in either spelling.
pub fn find(name: &str) -> Option<&'static Setting> {
    let name = normal(name);
    SETTINGS.iter().find(|s| s.name == name)
}

/// The one spelling that names are compared in.
pub(super) fn normal(name: &str) -> String {
    name.trim().to_ascii_lowercase().replace('-', "_")
}

/// Settings of a volume.
pub const SETTINGS: &[Setting] = &[
    Setting {
        name: "url",
        kind: "URL",
        default: "`<S3VOL_URL>/<volume>/`",
        example: "s3://bucket/photos",
        scope: Scope::One,
        change: Change::Never,
        meaning: "Where the volume's objects lie: `s3://bucket/prefix`, `az://container/prefix`, \
                  `gs://bucket/prefix` or `file:///folder`.",
        apply: |d, v| BucketUrl::parse(v).map(|url| d.url = Some(url)),
    },
    Setting {
        name: "bucket",
        kind: "text",
        default: "the bucket of `S3VOL_URL`",
        example: "photos",
        scope: Scope::One,
        change: Change::Never,
        meaning: "The S3 bucket, instead of `url`.",
        apply: |d, v| parse_text(v).map(|bucket| d.bucket = Some(bucket)),
    },
    Setting {
        name: "prefix",
        kind: "text",
        default: "the volume's name",
        example: "team/web",
        scope: Scope::One,
        change: Change::Never,
        meaning: "The start of the volume's keys in `bucket`; empty takes the whole bucket.",
        apply: |d, v| {
            d.prefix = Some(v.to_owned());
            Ok(())
        },
    },
    Setting {
        name: "state_url",
        kind: "URL",
        default: "`S3VOL_URL` if the volume lies in its bucket, else the root of the volume's \
                  bucket (for `file://` the folder above the volume's)",
        example: "s3://bucket/state",
        scope: Scope::Default,
        change: Change::Never,
        meaning: "Where the state of the volume lies (`<state_url>/.s3vol/v/<uuid>/`). It must not \
                  lie inside the volume.",
        apply: |d, v| BucketUrl::parse(v).map(|url| d.state_url = Some(url)),
    },
    Setting {
        name: "endpoint",
        kind: "URL",
        default: "the provider's own",
        example: "https://minio.example:9000",
        scope: Scope::Default,
        change: Change::Never,
        meaning: "The server to ask, for S3-compatible stores and emulators. One volume is used \
                  through one endpoint.",
        apply: |d, v| endpoint(v).map(|endpoint| d.options.endpoint = Some(endpoint)),
    },
    Setting {
        name: "region",
        kind: "text",
        default: "`AWS_REGION`, else us-east-1",
        example: "eu-central-1",
        scope: Scope::Default,
        change: Change::Never,
        meaning: "The bucket's region, as it goes into signatures.",
        apply: |d, v| parse_text(v).map(|region| d.options.region = Some(region)),
    },
    Setting {
        name: "credentials",
        kind: "name or none",
        default: "none",
        example: "team-a",
        scope: Scope::Default,
        change: Change::NextMount,
        meaning: "The credentials with which the volume is used, objects and state. Each host \
                  finds the keys under that name, and uses no others; changed keys are used at \
                  once. `none`: the keys of the plugin. See CREDENTIALS.md.",
        apply: |d, v| parse_credentials(v).map(|name| d.options.credentials = name),
    },
    Setting {
        name: "path_style",
        kind: "true, false or auto",
        default: "auto",
        example: "true",
        scope: Scope::Default,
        change: Change::NextMount,
        meaning: "Whether the bucket is in the path of a request (`host/bucket/key`) or in \
                  its host name. `auto`: in the path for a custom endpoint.",
        apply: |d, v| {
            d.options.path_style =
                if v.eq_ignore_ascii_case("auto") { None } else { Some(parse_bool(v)?) };
            Ok(())
        },
    },
    Setting {
        name: "uid",
        kind: "number",
        default: "0",
        example: "1000",
        scope: Scope::Default,
        change: Change::NextMount,
        meaning: "Owner of objects that carry no owner.",
        apply: |d, v| parse_number(v).map(|uid| d.options.uid = uid),
    },
    Setting {
        name: "gid",
        kind: "number",
        default: "0",
        example: "1000",
        scope: Scope::Default,
        change: Change::NextMount,
        meaning: "Group of objects that carry no group.",
        apply: |d, v| parse_number(v).map(|gid| d.options.gid = gid),
    },
    Setting {
        name: "file_mode",
        kind: "octal mode",
        default: "0644",
        example: "0664",
        scope: Scope::Default,
        change: Change::NextMount,
        meaning: "Permissions of objects that carry none.",
        apply: |d, v| parse_mode(v).map(|mode| d.options.file_mode = mode),
    },
    Setting {
        name: "dir_mode",
        kind: "octal mode",
        default: "0755",
        example: "0775",
        scope: Scope::Default,
        change: Change::NextMount,
        meaning: "Permissions of directories that carry none.",
        apply: |d, v| parse_mode(v).map(|mode| d.options.dir_mode = mode),
    },
    Setting {
        name: "content_type",
        kind: "auto, none or a type",
        default: "auto",
        example: "application/octet-stream",
        scope: Scope::Default,
        change: Change::NextMount,
        meaning: "The `Content-Type` of files that have none. `auto`: by the extension of the \
                  file's name, `text/...` types with `charset=utf-8`; `none`: the store's own.",
        apply: |d, v| parse_content_type(v).map(|given| d.options.content_type = given),
    },
    Setting {
        name: "commit",
        kind: "duration, 100ms to 5m",
        default: "5s",
        example: "1s",
        scope: Scope::Default,
        change: Change::Now,
        meaning: "Longest time between a change and its commit when nobody calls fsync. Losing \
                  the host loses at most this much; shorter costs more requests.",
        apply: |d, v| between(v, 100, 300_000).map(|commit| d.options.commit = commit),
    },
    Setting {
        name: "settle",
        kind: "auto or never",
        default: "auto",
        example: "never",
        scope: Scope::Default,
        change: Change::NextMount,
        meaning: "Whether changed files become plain objects. `never` keeps a volume in motion, \
                  for databases.",
        apply: |d, v| {
            parse_choice(v, &[("auto", SettleMode::Auto), ("never", SettleMode::Never)])
                .map(|settle| d.options.settle = settle)
        },
    },
    Setting {
        name: "settle_after",
        kind: "duration, up to 1d",
        default: "2s",
        example: "30s",
        scope: Scope::Default,
        change: Change::Now,
        meaning: "How long a file without a writer stays untouched before it becomes a plain \
                  object.",
        apply: |d, v| between(v, 0, 86_400_000).map(|after| d.options.settle_after = after),
    },
    Setting {
        name: "refresh",
        kind: "duration, up to 1d",
        default: "60s",
        example: "5s",
        scope: Scope::Default,
        change: Change::Now,
        meaning: "How old the knowledge of the bucket may be when it is used: objects that other \
                  tools put appear within this time.",
        apply: |d, v| between(v, 0, 86_400_000).map(|refresh| d.options.refresh = refresh),
    },
    Setting {
        name: "cache_size",
        kind: "size, at least 1MiB",
        default: "10g",
        example: "50g",
        scope: Scope::Default,
        change: Change::Now,
        meaning: "Bytes of local disk for cached content, at most; on a small or full disk it is less.",
        apply: |d, v| match parse_size(v)? {
            size if size >= 1 << 20 => {
                d.options.cache_size = size;
                Ok(())
            }
            _ => Err("at least 1MiB is needed for the files being written".to_owned()),
        },
    },
    Setting {
        name: "on_remove",
        kind: "auto, retain or delete",
        default: "auto",
        example: "retain",
        scope: Scope::Default,
        change: Change::Now,
        meaning: "What `docker volume rm` does with the objects: `retain` only forgets the volume; \
                  `delete` removes what the volume recorded as its own; `auto` does that too, \
                  unless objects were there when the volume was created.",
        apply: |d, v| {
            let choices = [
                ("auto", OnRemove::Auto),
                ("retain", OnRemove::Retain),
                ("delete", OnRemove::Delete),
            ];
            parse_choice(v, &choices).map(|on_remove| d.options.on_remove = on_remove)
        },
    },
    Setting {
        name: "single_host",
        kind: "flag",
        default: "false",
        example: "true",
        scope: Scope::Default,
        change: Change::NextMount,
        meaning: "Accept a store that does not honour create-if-absent. You promise that one host \
                  alone ever mounts the volume.",
        apply: |d, v| parse_bool(v).map(|single| d.options.single_host = single),
    },
    Setting {
        name: "readonly",
        kind: "flag",
        default: "false",
        example: "true",
        scope: Scope::Default,
        change: Change::Never,
        meaning: "Only read, and follow the host that writes, within seconds. Any number of hosts \
                  may do so at once, with credentials that may only read. For a volume that exists \
                  it holds on this host only; the volume stays as it is.",
        apply: |d, v| parse_bool(v).map(|readonly| d.options.readonly = readonly),
    },
    Setting {
        name: "storage_class",
        kind: "class or none",
        default: "none",
        example: "STANDARD_IA",
        scope: Scope::Default,
        change: Change::NextMount,
        meaning: "Storage class of new files' objects, on Azure their access tier. Files that others \
                  put keep theirs. Never for the volume's state, which is read and replaced all the \
                  time: a cheap class would make it slow and expensive. Classes that must be \
                  restored before reading are refused.",
        apply: |d, v| object::parse_class(v).map(|class| d.options.storage_class = class),
    },
    Setting {
        name: "sse",
        kind: "AES256, aws:kms, aws:kms:dsse or none",
        default: "none",
        example: "aws:kms",
        scope: Scope::Default,
        change: Change::NextMount,
        meaning: "Encryption by the store, for new files' objects and for the whole state of the \
                  volume. `none` leaves it to the bucket. Only on `s3://`.",
        apply: |d, v| object::parse_sse(v).map(|sse| d.options.sse = sse),
    },
    Setting {
        name: "sse_kms_key_id",
        kind: "text or none",
        default: "none",
        example: "alias/team",
        scope: Scope::Default,
        change: Change::NextMount,
        meaning: "The key for `sse=aws:kms`; `none` takes the account's own.",
        apply: |d, v| object::parse_key_id(v).map(|key| d.options.sse_kms_key_id = key),
    },
    Setting {
        name: "acl",
        kind: "canned ACL or none",
        default: "none",
        example: "bucket-owner-full-control",
        scope: Scope::Default,
        change: Change::NextMount,
        meaning: "Access list of every object that the volume publishes: `private`, `public-read`, \
                  `public-read-write`, `authenticated-read`, `aws-exec-read`, `bucket-owner-read` or \
                  `bucket-owner-full-control`. Only on `s3://`, and only where the bucket takes \
                  access lists.",
        apply: |d, v| object::parse_acl(v).map(|acl| d.options.acl = acl),
    },
    Setting {
        name: "requester_pays",
        kind: "flag",
        default: "false",
        example: "true",
        scope: Scope::Default,
        change: Change::NextMount,
        meaning: "Say in every request that this account pays for it, as a bucket with *Requester \
                  Pays* demands. Only on `s3://`.",
        apply: |d, v| parse_bool(v).map(|pays| d.options.requester_pays = pays),
    },
    Setting {
        name: "size",
        kind: "size or none",
        default: "none",
        example: "100g",
        scope: Scope::Default,
        change: Change::Now,
        meaning: "Bytes that the volume may hold; more is refused with ENOSPC.",
        apply: |d, v| parse_limit(v, parse_size).map(|size| d.options.size = size),
    },
    Setting {
        name: "inodes",
        kind: "number or none",
        default: "none",
        example: "1000000",
        scope: Scope::Default,
        change: Change::Now,
        meaning: "Files and directories that the volume may hold.",
        apply: |d, v| parse_limit(v, parse_number::<u64>).map(|inodes| d.options.inodes = inodes),
    },
];

/// Settings of the plugin.
pub const PLUGIN_SETTINGS: &[PluginSetting] = &[
    PluginSetting {
        name: "S3VOL_URL",
        kind: "URL",
        default: "a `file://` store under `S3VOL_STATE`, which `docker plugin rm` deletes",
        example: "s3://bucket/team",
        meaning: "The home: where the catalog of volumes lies, and the volumes that have no `url` of their own.",
    },
    PluginSetting {
        name: "S3VOL_STATE",
        kind: "absolute path",
        default: "/s3vol/state",
        example: "/var/lib/s3vol",
        meaning: "Local state: accounting, the catalog's mirror, logs and caches of volumes. The \
                  managed plugin has a fixed one, below its propagated mount.",
    },
    PluginSetting {
        name: "S3VOL_MOUNTS",
        kind: "absolute path",
        default: "/s3vol/vol",
        example: "/run/s3vol",
        meaning: "The folder in which the volumes are mounted. The managed plugin has a fixed one.",
    },
    PluginSetting {
        name: "S3VOL_FILES",
        kind: "absolute path",
        default: "`/etc/s3vol`, for users `~/.config/s3vol`; in the managed plugin `/s3vol/files`",
        example: "/etc/s3vol",
        meaning: "The folder with files for the plugin: credentials lie in `credentials/` below \
                  it, one file for each name. See CREDENTIALS.md.",
    },
    PluginSetting {
        name: "S3VOL_LOG",
        kind: "filter",
        default: "info",
        example: "s3vol=debug,info",
        meaning: "What is logged: a level, or levels by module.",
    },
    PluginSetting {
        name: "S3VOL_CAPTURE",
        kind: "flag",
        default: "true",
        example: "false",
        meaning: "Whether volumes that other hosts created are found by name. With `false` only \
                  volumes created through this host's Docker are shown, and `docker run -v name:` \
                  never picks up somebody else's volume.",
    },
    PluginSetting {
        name: "S3VOL_GRACE",
        kind: "duration",
        default: "24h",
        example: "7d",
        meaning: "How long `docker volume rm` waits before it deletes objects. Creating the same \
                  name within that time brings the volume back.",
    },
    PluginSetting {
        name: "S3VOL_METRICS",
        kind: "ADDR:PORT",
        default: "none",
        example: "127.0.0.1:9469",
        meaning: "Serve metrics for Prometheus at this address, over HTTP at `/metrics`. The \
                  plugin's own socket always has them. See METRICS.md.",
    },
    PluginSetting {
        name: "S3VOL_PRICES",
        kind: "prices, or path of a file",
        default: "list prices of known stores",
        example: "put=0.0054,get=0.00043",
        meaning: "What the store charges, for the estimates among the metrics. METRICS.md has the \
                  list prices and the names.",
    },
];

fn between(text: &str, least_ms: u64, most_ms: u64) -> Result<std::time::Duration, String> {
    let value = parse_duration(text)?;
    let allowed =
        std::time::Duration::from_millis(least_ms)..=std::time::Duration::from_millis(most_ms);
    if allowed.contains(&value) {
        Ok(value)
    } else {
        Err(format!("{text:?} is not between {:?} and {:?}", allowed.start(), allowed.end()))
    }
}

fn endpoint(text: &str) -> Result<String, String> {
    let url = url::Url::parse(text).map_err(|e| {
        format!("{text:?} is not an endpoint ({e}); write for example https://host:9000")
    })?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(format!("{text:?} is not an endpoint; write for example https://host:9000"));
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        return Err("credentials and parameters do not belong in an endpoint".to_owned());
    }
    Ok(text.trim_end_matches('/').to_owned())
}
