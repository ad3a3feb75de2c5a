//! Waiting for a condition, with a deadline: what tests use where others sleep.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep};

/// How long [`until`] waits. Generous, because a busy machine is slow; a condition that holds ends the wait at once.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How long to pause between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(10);

/// Looks again and again until `accept` takes what `look` returns, and returns that.
///
/// After [`PATIENCE`] it fails with `what` was waited for and the last thing seen.
pub async fn until<T, L, F>(what: &str, look: L, accept: impl Fn(&T) -> bool) -> Result<T>
where
    T: Debug,
    L: FnMut() -> F,
    F: Future<Output = Result<T>>,
{
    until_within(PATIENCE, what, look, accept).await
}

/// [`until`] with a patience of one's own.
pub async fn until_within<T, L, F>(
    patience: Duration,
    what: &str,
    mut look: L,
    accept: impl Fn(&T) -> bool,
) -> Result<T>
where
    T: Debug,
    L: FnMut() -> F,
    F: Future<Output = Result<T>>,
{
    let deadline = Instant::now() + patience;
    loop {
        let seen = look().await;
        if let Ok(value) = &seen
            && accept(value)
        {
            return seen;
        }
        if Instant::now() >= deadline {
            match seen {
                Ok(value) => bail!("waited {patience:?} for {what}; last seen: {value:?}"),
                Err(error) => bail!("waited {patience:?} for {what}; last error: {error:#}"),
            }
        }
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn waiting_ends_as_soon_as_the_condition_holds() -> Result<()> {
        let looks = Cell::new(0);
        let look = || async {
            looks.set(looks.get() + 1);
            Ok(looks.get())
        };
        let seen = until("the third look", look, |count| *count == 3).await?;
        assert_eq!((seen, looks.get()), (3, 3));
        Ok(())
    }

    #[tokio::test]
    async fn a_missed_deadline_tells_what_was_seen_last() {
        let patience = Duration::from_millis(30);
        let seen = until_within(patience, "a miracle", || async { Ok("nothing") }, |_| false).await;
        let text = seen.map_or_else(|error| error.to_string(), str::to_owned);
        assert!(text.contains("a miracle") && text.contains("nothing"), "{text}");
    }
}
