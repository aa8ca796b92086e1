//! The page `docs/METRICS.md`, from the table of metrics.

use super::{FAMILIES, Prices};

/// The whole page. A test compares it with the file.
pub fn reference_page() -> String {
    let mut page = String::from(INTRODUCTION);
    for (title, of_volume) in [("Of the plugin", false), ("Of each volume", true)] {
        page.push_str(&format!("\n## {title}\n\n"));
        page.push_str("| Metric | Type | Labels | Meaning |\n|---|---|---|---|\n");
        for family in FAMILIES.iter().filter(|family| family.of_volume == of_volume) {
            let volume = of_volume.then_some("volume");
            let labels: Vec<String> = volume
                .into_iter()
                .chain(family.labels.iter().copied())
                .map(|label| format!("`{label}`"))
                .collect();
            page.push_str(&format!(
                "| `{}` | {} | {} | {} |\n",
                family.name,
                family.kind.name(),
                labels.join(", "),
                family.meaning
            ));
        }
    }
    page.push_str(PRICES);
    page.push_str(&Prices::page());
    page.push_str(GIVEN);
    page
}

const INTRODUCTION: &str = "\
# Metrics

This page is generated from the table of metrics (`src/metrics/table.rs`); tests compare it with the table, and with
what is served.

The plugin gathers from the processes of its volumes and serves all of it at `/metrics`, in the text form of Prometheus:
- always on its own socket: `curl --unix-socket /run/docker/plugins/s3vol.sock http://localhost/metrics` (the managed
  plugin's lies in `/run/docker/plugins/<id>/`);
- with `S3VOL_METRICS=ADDR:PORT` also there, over TCP. It has no password: whoever reaches that address can read it,
  names of volumes included.

`s3vol mount` serves the same for its one volume, without the metrics that only a plugin has, on its control socket in the
state folder (`run/*.sock`).

A process that does not answer within 2 s delays the scrape by no more than that: its volume has `s3vol_up` 0, and the
others are complete. A scrape sends no request to the bucket while nothing changes in a volume. Counters start at zero
with the process that counts, which `rate()` takes into account.

[GUIDES.md](GUIDES.md#monitoring) says how to set it up; [examples/monitoring](../examples/monitoring/README.md) has a
configuration for Prometheus, alert rules, and a dashboard for Grafana. This is the row *Safety* of the dashboard, drawn
from the data of a real run (`tests/monitoring`, `picture_of_the_dashboard`): a site is edited, a database commits, a
backup is written, and the bucket cannot be reached for 20 seconds in the middle.

![What is not in the bucket yet, and what is no plain object yet](dashboard.svg)
";

const PRICES: &str = "
## Prices

Costs are estimates by list prices in US dollars: no free tiers, discounts or taxes, the standard class of the provider's
first region. Deletions are free. Reading counts as free, as it is within a region, unless `down` is set. A store whose
host name is not in this table counts as free.

";

const GIVEN: &str = "
`S3VOL_PRICES` replaces any of them: `put=0.0054,get=0.00043,down=0.09`, or the absolute path of a file with the same
as a JSON object. The names are `get`, `head`, `put`, `list`, `delete`, `copy` and `multipart` (for 1,000 requests each),
`down` (for a GiB that is read) and `storage` (for a GiB and month). Whatever currency they are in, the estimates are, too.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_metrics_is_generated() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/METRICS.md");
        let page = reference_page();
        if std::env::var_os("S3VOL_TEST_WRITE").is_some() {
            std::fs::write(path, &page).unwrap();
        }
        assert!(
            std::fs::read_to_string(path).unwrap_or_default() == page,
            "docs/METRICS.md is stale: run S3VOL_TEST_WRITE=1 cargo test the_page_of_metrics_is_generated"
        );
    }

    /// A dashboard or an alert about a metric that is not there would be silent for ever.
    #[test]
    fn the_examples_name_metrics_that_exist() {
        let examples = [
            include_str!("../../examples/monitoring/alerts.yml"),
            include_str!("../../examples/monitoring/grafana.json"),
        ];
        let parts = ["", "_bucket", "_sum", "_count"];
        let known = |name: &str| {
            FAMILIES.iter().any(|f| parts.iter().any(|part| format!("{}{part}", f.name) == name))
        };
        for example in examples {
            let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let words = example.split(|c| !is_part(c)).filter(|word| word.starts_with("s3vol_"));
            let mut named = 0;
            for word in words {
                assert!(known(word), "{word}");
                named += 1;
            }
            assert!(named > 10, "{named}");
        }
    }
}
