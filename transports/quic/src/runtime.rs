//! Runs what quinn wants to have run, and ends it when the node or client closes.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use quinn::{AsyncTimer, AsyncUdpSocket, Endpoint, TokioRuntime};
use tokio::task::JoinSet;

/// How long closing waits for the other ends to hear of it. Who does not finds out by the silence.
const FAREWELL: Duration = Duration::from_millis(200);

/// tokio, with quinn's tasks in one place: quinn starts them, tells nobody when they have ended, and keeps those of connections
/// that nobody answers on for seconds.
#[derive(Debug, Default)]
pub(crate) struct OwnedRuntime {
    tasks: Mutex<JoinSet<()>>,
}

impl OwnedRuntime {
    /// How many of quinn's tasks run now.
    pub(crate) fn running(&self) -> usize {
        let mut tasks = self.tasks();
        while tasks.try_join_next().is_some() {}
        tasks.len()
    }

    /// Ends endpoints that were closed: first the other ends hear of it, if they do so soon, and then all tasks end.
    pub(crate) async fn end(&self, endpoints: impl IntoIterator<Item = Endpoint>) {
        let deadline = tokio::time::Instant::now() + FAREWELL;
        for endpoint in endpoints {
            let _ = tokio::time::timeout_at(deadline, endpoint.wait_idle()).await;
        }
        let mut tasks = std::mem::take(&mut *self.tasks());
        tasks.shutdown().await;
    }

    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl quinn::Runtime for OwnedRuntime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        let mut tasks = self.tasks();
        // Tasks that have ended are let go here, so that they do not add up.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(future);
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        TokioRuntime.wrap_udp_socket(socket)
    }

    fn now(&self) -> Instant {
        TokioRuntime.now()
    }
}
