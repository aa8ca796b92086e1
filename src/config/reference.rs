//! The page `docs/CONFIGURATION.md`, from the table of settings.

use super::schema::{Change, PLUGIN_SETTINGS, SETTINGS, Scope};

/// The whole page. A test compares it with the file.
pub fn reference_page() -> String {
    let mut page = String::from(INTRODUCTION);
    page.push_str(
        "\n## The plugin\n\nGiven in its environment: `docker plugin set s3vol \
                   NAME=value` while it is disabled. An empty value is the same as none.\n\n",
    );
    page.push_str("| Variable | Type | Default | Example | Meaning |\n|---|---|---|---|---|\n");
    for s in PLUGIN_SETTINGS {
        row(&mut page, s.name, s.kind, s.default, s.example, s.meaning);
    }
    page.push_str(VOLUMES);
    page.push_str("| Option | Type | Default | Example | Meaning |\n|---|---|---|---|---|\n");
    for s in SETTINGS {
        let mut meaning = s.meaning.to_owned();
        if s.scope == Scope::One {
            meaning.push_str(" Only for one volume.");
        }
        row(&mut page, s.name, s.kind, s.default, s.example, &meaning);
    }
    page.push_str(CHANGES);
    for (when, text) in [
        (Change::Now, "At once"),
        (Change::NextMount, "When the volume is mounted next"),
        (Change::Never, "Never"),
    ] {
        let names = SETTINGS.iter().filter(|s| s.change == when);
        let names: Vec<_> = names.map(|s| format!("`{}`", s.name)).collect();
        page.push_str(&format!("- {text}: {}.\n", names.join(", ")));
    }
    page.push_str(VALUES);
    page
}

fn row(page: &mut String, name: &str, kind: &str, default: &str, example: &str, meaning: &str) {
    let default = if default.contains(' ') || default.contains('`') {
        default.to_owned()
    } else {
        format!("`{default}`")
    };
    page.push_str(&format!("| `{name}` | {kind} | {default} | `{example}` | {meaning} |\n"));
}

const INTRODUCTION: &str = "\
# Configuration

This page is generated from the option schema (`src/config/schema.rs`); `cargo test` compares both.

Nothing has to be configured: without any setting volumes lie in an embedded `file://` store under
the plugin's own state, which `docker plugin rm` deletes.
";

const VOLUMES: &str = "
## Volumes

Given as `docker volume create -d s3vol -o name=value`, as `driver_opts` in a Compose file, or as
`s3vol mount -o name=value`. Unless a line says otherwise, `S3VOL_<NAME>` in the environment of the
plugin, or of `s3vol mount`, sets the default of all volumes. Underscores and hyphens mean the same.
The options of a volume are stored in the bucket when it is created, so other hosts need not repeat
them.

";

const CHANGES: &str = "
### Changing them

`s3vol set NAME -o name=value` changes options of a volume of Docker's, and says when each takes effect; so does
`docker volume create` on a host whose Docker does not know the volume yet (a Docker that knows it does not ask the
plugin again, and `docker volume ls` is enough to make it known). Options that are not given stay. `readonly=true` for a
volume that others write is each host's own: only `docker volume create` sets it, and only before that; a second name,
created with the same `url` and `readonly=true`, only reads on every host. What takes effect at once does so on the host
that is asked, except for the share of the cache that metadata takes; another host that has the volume mounted follows at
its next mount. Owners and permissions are those of objects that are seen for the first time. New values:

";

const VALUES: &str = "
## Values

- Durations: `500ms`, `5s`, `2m`, `24h`, `1d`, or plain seconds.
- Sizes: `512MiB`, `10g`, or plain bytes; units are powers of 1,024.
- Flags: `true`, `1`, `yes`, `on` or nothing; `false`, `0`, `no`, `off`.
- Modes: permission bits in octal.

## What is not an option

To settle at once, and to take a volume from another host, there are commands, `s3vol settle` and `s3vol takeover`:
Docker hands options to the plugin only with a name that it does not know yet.
[OPERATION.md](OPERATION.md#bring-a-volume-to-rest-now) says how they are used for Docker's volumes.

## Credentials

Credentials are never options, because options are stored and shown. They come from the standard
environment variables of AWS, Azure and Google, from web identity, or from the instance's metadata
service; or a volume names credentials that each host has in a file ([CREDENTIALS.md](CREDENTIALS.md)).
[STORES.md](STORES.md) says which of them were tried, which names the managed plugin takes, and what a bucket needs.
";
