//! Questions that leave together and are judged in order.

use std::pin::pin;

use futures::future::{Either, select};

/// Both answers. Of two errors the first one counts, and it waits for nobody.
pub async fn both<A, B, E>(
    first: impl Future<Output = Result<A, E>>,
    second: impl Future<Output = Result<B, E>>,
) -> Result<(A, B), E> {
    match select(pin!(first), pin!(second)).await {
        Either::Left((first, second)) => {
            let first = first?;
            Ok((first, second.await?))
        }
        Either::Right((second, first)) => {
            let first = first.await?;
            Ok((first, second?))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn the_first_error_counts_and_waits_for_nobody() {
        let late = |answer: Result<u8, &'static str>| async move {
            tokio::task::yield_now().await;
            answer
        };
        assert_eq!(both(late(Ok(1)), ready(Ok(2))).await, Ok((1, 2)));
        assert_eq!(both(ready(Ok(1)), late(Ok(2))).await, Ok((1, 2)));
        assert_eq!(both(late(Err("first")), ready(Err::<u8, _>("second"))).await, Err("first"));
        assert_eq!(both(late(Ok(1)), ready(Err::<u8, _>("second"))).await, Err("second"));
        assert_eq!(both(late(Err("first")), pending::<Result<u8, _>>()).await, Err("first"));
    }
}
