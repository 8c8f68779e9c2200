//! Waiting for what must come, with a limit that names what did not.

use std::time::Duration;

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
pub(crate) async fn eventually(clause: &str, mut condition: impl FnMut() -> bool) {
    within(clause, async {
        while !condition() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    })
    .await;
}
