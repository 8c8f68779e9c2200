//! Waiting for what must come, with a limit that names what did not.

use std::fmt::Debug;
use std::panic::Location;
use std::time::Duration;

use tokio::time::Instant;

/// How long anything that must happen may take before the suite calls it missing. Generous, since it is only waited out
/// when a clause is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// How often a condition without a signal is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Awaits `future`, or panics with the clause that says it must end.
pub(crate) async fn within<T>(clause: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{clause} (waited {PATIENCE:?})"),
    }
}

/// Waits until `condition` holds, or panics with the clause that says it must.
pub(crate) async fn eventually(clause: &str, condition: impl FnMut() -> bool) {
    until(clause, PATIENCE, condition, |holds| *holds).await;
}

/// Looks again and again, until what is seen is as it should be, and gives that.
///
/// # Panics
///
/// If it is not within this time, with what was seen last.
///
/// # Cancel safety
///
/// It only looks.
#[track_caller]
pub fn until<T: Debug>(
    what: &str,
    patience: Duration,
    mut look: impl FnMut() -> T,
    is: impl Fn(&T) -> bool,
) -> impl Future<Output = T> {
    let (caller, begun) = (Location::caller(), Instant::now());
    async move {
        loop {
            let seen = look();
            if is(&seen) {
                return seen;
            }
            assert!(
                begun.elapsed() < patience,
                "{caller}: {what} (waited {patience:?}): {seen:#?}"
            );
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}
