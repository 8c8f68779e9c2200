//! The files in which threads meet, in the orders in which threads can take turns.
//!
//! The files of the crate are compiled again over the locks of shuttle, whose scheduler decides who goes on at each of them. Their
//! own tests are in them, and run in each of the orders too; what needs several of them is here. A wake-up or a check that is missing is
//! a deadlock, or a wrong answer, in one of the orders.

#[path = "../../src/inbox.rs"]
mod inbox;
#[path = "../../src/listeners.rs"]
mod listeners;
#[path = "../../src/subscriber.rs"]
mod subscriber;

mod answers;
mod handover;

/// Stands for `src/sync.rs`.
mod sync {
    pub(crate) use shuttle::sync::{Condvar, Mutex, MutexGuard, PoisonError};
    pub(crate) use shuttle::thread;

    /// Orders that are tried of each test: half at random, half with few and well-placed changes of who goes on.
    const ORDERS: usize = 600;

    /// Runs a test of one thread, which has one order.
    pub(crate) fn once(test: impl Fn() + Send + Sync + 'static) {
        shuttle::check_random(test, 1);
    }

    /// Runs a test in many orders; in the same ones each time.
    pub(crate) fn explore(test: impl Fn() + Send + Sync + 'static) {
        let orders = match std::env::var("QUORATE_TEST_BUDGET").as_deref() {
            Ok("long") => ORDERS * 100,
            _ => ORDERS,
        };
        let test = std::sync::Arc::new(test);
        let again = std::sync::Arc::clone(&test);
        let config = shuttle::Config::new();
        let random = shuttle::scheduler::RandomScheduler::new_from_seed(1, orders / 2);
        shuttle::Runner::new(random, config.clone()).run(move || test());
        let few = shuttle::scheduler::PctScheduler::new_from_seed(1, 3, orders / 2);
        shuttle::Runner::new(few, config).run(move || again());
    }
}

/// Stands for `src/engine_thread.rs`: what these files put into the inbox.
mod engine_thread {
    use quorate_engine::SubscriptionId;
    use tokio::sync::oneshot;

    #[derive(Debug)]
    pub(crate) enum Command {
        Group(usize, ForGroup),
        Close,
    }

    #[derive(Debug)]
    pub(crate) enum ForGroup {
        Propose(u64, oneshot::Sender<Result<u64, super::answers::Lost>>),
        Handled(SubscriptionId),
        Unsubscribe(SubscriptionId),
    }
}

/// Stands for `src/waiters.rs`: what a subscription's task is told.
mod waiters {
    use quorate_engine::{Chunk, SubscriptionOver};

    #[derive(Debug)]
    pub(crate) enum News {
        Chunk(Chunk),
        Over(SubscriptionOver),
    }
}
