//! Where metrics are served besides the plugin's socket, and what requests cost.

use std::net::SocketAddr;

use crate::metrics::Prices;

/// `ADDR:PORT`. A name is not looked up: whether it has an address may change while the plugin runs.
pub(super) fn parse_metrics(text: &str) -> Result<SocketAddr, String> {
    // The text and what would be right say more than the cause.
    let address: SocketAddr = text.parse().map_err(|_| {
        format!(
            "{text:?} is no address and port; write for example 127.0.0.1:9469, or 0.0.0.0:9469 for all addresses \
             of this host"
        )
    })?;
    match address.port() {
        0 => Err(format!(
            "{text:?} names no port that Prometheus could find; write for example 127.0.0.1:9469"
        )),
        _ => Ok(address),
    }
}

/// Prices, or the absolute path of a file with some, which is not read here.
pub(super) fn check_prices(text: &str) -> Result<(), String> {
    if text.starts_with('/') {
        return Ok(());
    }
    let prices = Prices::default().with(text);
    prices.map(drop).map_err(|error| format!("{error}, or the absolute path of a file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_with_a_port() {
        assert_eq!(parse_metrics("127.0.0.1:9469"), Ok(([127, 0, 0, 1], 9469).into()));
        assert!(parse_metrics("[::1]:9469").is_ok());
        for wrong in ["9469", "localhost:9469", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:99999", "x"]
        {
            let error = parse_metrics(wrong).unwrap_err();
            assert!(error.contains("127.0.0.1:9469"), "{wrong}: {error}");
        }
    }

    #[test]
    fn prices_are_given_as_such_or_as_a_path() {
        assert_eq!(check_prices("put=1"), Ok(()));
        assert_eq!(check_prices("/s3vol/prices.json"), Ok(()));
        assert!(check_prices("prices.json").unwrap_err().contains("absolute path"));
    }
}
