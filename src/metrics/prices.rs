//! What stores charge: the one table of prices, for estimates.
//!
//! List prices of each provider's first region for its standard class, in US dollars, without free tiers, discounts
//! and taxes. Whoever pays others sets `S3VOL_PRICES`. A store that is not in the table is taken to charge nothing.

use super::RequestKind;

/// Prices of one store.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Prices {
    /// For 1,000 requests, by [`RequestKind`].
    requests: [f64; RequestKind::ALL.len()],
    /// For a GiB that is read from it.
    down: f64,
    /// For a GiB kept for a month.
    storage: f64,
}

/// One line of the table.
struct Listed {
    /// A part of the endpoint's host name.
    host: &'static str,
    provider: &'static str,
    source: &'static str,
    /// For 1,000 requests of these kinds. The rest (deletions) is free everywhere.
    changes: f64,
    lists: f64,
    reads: f64,
    storage: f64,
}

/// When the table was last compared with its sources.
const AS_OF: &str = "2025-06";

/// What leaves the region costs more, and what stays in it nothing; where a host is nobody can tell, so that reading
/// counts as free unless `down` is set.
const LISTED: &[Listed] = &[
    Listed {
        host: "amazonaws.com",
        provider: "Amazon S3 Standard, us-east-1",
        source: "https://aws.amazon.com/s3/pricing/",
        changes: 0.005,
        lists: 0.005,
        reads: 0.0004,
        storage: 0.023,
    },
    Listed {
        host: "storage.googleapis.com",
        provider: "Google Cloud Storage Standard, us-central1",
        source: "https://cloud.google.com/storage/pricing",
        changes: 0.005,
        lists: 0.005,
        reads: 0.0004,
        storage: 0.020,
    },
    Listed {
        host: "blob.core.windows.net",
        provider: "Azure Blob Storage, hot, LRS, East US",
        source: "https://azure.microsoft.com/pricing/details/storage/blobs/",
        changes: 0.005,
        lists: 0.005,
        reads: 0.0004,
        storage: 0.018,
    },
    Listed {
        host: "r2.cloudflarestorage.com",
        provider: "Cloudflare R2 Standard",
        source: "https://developers.cloudflare.com/r2/pricing/",
        changes: 0.0045,
        lists: 0.0045,
        reads: 0.00036,
        storage: 0.015,
    },
];

/// What is wrong with given prices.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PricesError(String);

const GIB: f64 = (1u64 << 30) as f64;

impl Prices {
    /// Of the store at an endpoint, as listed; zero where nothing is.
    pub fn listed(endpoint: &str) -> Prices {
        match LISTED.iter().find(|listed| endpoint.contains(listed.host)) {
            Some(listed) => listed.prices(),
            None => Prices::default(),
        }
    }

    /// These prices with `given` in their place: `put=0.005,get=0.0004`, or the same as a JSON object.
    ///
    /// # Errors
    /// What is no such thing, with the names that there are.
    pub fn with(mut self, given: &str) -> Result<Prices, PricesError> {
        let given = given.trim();
        let pairs: Vec<(String, f64)> = match given.starts_with('{') {
            true => serde_json::from_str::<std::collections::BTreeMap<String, f64>>(given)
                .map_err(|e| PricesError(format!("no JSON object of numbers: {e}")))?
                .into_iter()
                .collect(),
            false => given
                .split(',')
                .map(str::trim)
                .filter(|pair| !pair.is_empty())
                .map(pair)
                .collect::<Result<_, _>>()?,
        };
        for (name, price) in pairs {
            if !price.is_finite() || price < 0.0 {
                return Err(PricesError(format!("{name} is no price: {price}")));
            }
            *self.named(&name)? = price;
        }
        Ok(self)
    }

    /// What `S3VOL_PRICES` says, for [`Prices::with`]: the text itself, or that of the file whose absolute path it is.
    ///
    /// # Errors
    /// A file that cannot be read, and prices that are none.
    pub fn given(text: &str) -> Result<String, PricesError> {
        let text = text.trim();
        if !text.starts_with('/') {
            return Prices::default().with(text).map(|_| text.to_owned());
        }
        let of_file = |problem: &dyn std::fmt::Display| PricesError(format!("{text}: {problem}"));
        let given = std::fs::read_to_string(text).map_err(|e| of_file(&e))?;
        match Prices::default().with(&given) {
            Ok(_) => Ok(given),
            Err(error) => Err(of_file(&error)),
        }
    }

    fn named(&mut self, name: &str) -> Result<&mut f64, PricesError> {
        match name {
            "down" => return Ok(&mut self.down),
            "storage" => return Ok(&mut self.storage),
            _ => {}
        }
        let kind = RequestKind::ALL.iter().position(|kind| kind.name() == name);
        kind.map(|at| &mut self.requests[at]).ok_or_else(|| {
            let kinds: Vec<&str> = RequestKind::ALL.iter().map(|kind| kind.name()).collect();
            PricesError(format!(
                "{name:?} is no price; there are {}, down and storage",
                kinds.join(", ")
            ))
        })
    }

    /// Dollars for so many requests of each kind.
    pub fn of_requests(&self, sent: impl Fn(RequestKind) -> u64) -> f64 {
        let of = |kind: &RequestKind| sent(*kind) as f64 * self.requests[*kind as usize] / 1000.0;
        RequestKind::ALL.iter().map(of).sum()
    }

    /// Dollars for so many bytes read.
    pub fn of_reading(&self, bytes: u64) -> f64 {
        bytes as f64 / GIB * self.down
    }

    /// Dollars a month for so many bytes kept.
    pub fn of_keeping(&self, bytes: u64) -> f64 {
        bytes as f64 / GIB * self.storage
    }

    /// The table, for people.
    pub(super) fn page() -> String {
        let mut page = format!(
            "| Store | Host name contains | 1,000 changes or listings | 1,000 reads | GiB and month | Source ({AS_OF}) |\n\
             |---|---|---|---|---|---|\n"
        );
        for listed in LISTED {
            page.push_str(&format!(
                "| {} | `{}` | {} | {} | {} | {} |\n",
                listed.provider,
                listed.host,
                listed.changes,
                listed.reads,
                listed.storage,
                listed.source
            ));
        }
        page
    }
}

impl Listed {
    fn prices(&self) -> Prices {
        let of = |kind: RequestKind| match kind {
            RequestKind::Get | RequestKind::Head => self.reads,
            RequestKind::Put | RequestKind::Copy | RequestKind::Multipart => self.changes,
            RequestKind::List => self.lists,
            RequestKind::Delete => 0.0,
        };
        Prices { requests: RequestKind::ALL.map(of), down: 0.0, storage: self.storage }
    }
}

fn pair(text: &str) -> Result<(String, f64), PricesError> {
    let wrong =
        || PricesError(format!("{text:?} is no price; write for example put=0.005,get=0.0004"));
    let (name, price) = text.split_once('=').ok_or_else(wrong)?;
    // What the number's own parser says helps nobody.
    Ok((name.trim().to_owned(), price.trim().parse().map_err(|_| wrong())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_tells_the_provider_and_others_cost_nothing() {
        let requests = |kind| match kind {
            RequestKind::Put => 1000,
            RequestKind::Get => 10_000,
            RequestKind::Delete => 1_000_000,
            _ => 0,
        };
        let s3 = Prices::listed("https://s3.eu-central-1.amazonaws.com");
        assert!((s3.of_requests(requests) - 0.009).abs() < 1e-9);
        assert!((s3.of_keeping(2 << 30) - 0.046).abs() < 1e-9);
        let own = Prices::listed("http://minio:9000");
        assert_eq!(own.of_requests(requests) + own.of_keeping(1 << 40), 0.0);
    }

    #[test]
    fn given_prices_replace_listed_ones() {
        let given = Prices::default().with(" get=1, down=0.5 ").unwrap();
        let same = Prices::default().with(r#"{"get": 1, "down": 0.5}"#).unwrap();
        assert_eq!(given, same);
        assert_eq!(given.of_reading(1 << 30), 0.5);
        for (wrong, says) in [
            ("get", "put=0.005"),
            ("get=x", "put=0.005"),
            ("buy=1", "multipart, down and storage"),
            ("get=-1", "no price"),
            ("{", "JSON"),
        ] {
            let error = Prices::default().with(wrong).unwrap_err().to_string();
            assert!(error.contains(says), "{wrong}: {error}");
        }
    }

    #[test]
    fn prices_come_from_the_text_or_from_a_file() {
        assert_eq!(Prices::given("put=1"), Ok("put=1".to_owned()));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), r#"{"get": 2}"#).unwrap();
        let path = file.path().to_str().unwrap();
        assert_eq!(Prices::given(path), Ok(r#"{"get": 2}"#.to_owned()));
        std::fs::write(file.path(), "{}{").unwrap();
        assert!(Prices::given(path).unwrap_err().to_string().starts_with(path));
        assert!(Prices::given("/no/such/file").unwrap_err().to_string().contains("No such file"));
    }
}
