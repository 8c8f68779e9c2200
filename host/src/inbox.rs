//! The engine thread's inbox: many tasks put commands in, one thread takes all of them at once.

use std::time::Duration;

use crate::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// A queue that one thread drains whole. Under load that thread finds everything that came in the meantime at once,
/// which is what makes batches large exactly when they should be.
#[derive(Debug)]
pub(crate) struct Inbox<T> {
    state: Mutex<State<T>>,
    /// Signalled only while the thread sleeps.
    arrived: Condvar,
    /// Most commands of clients that may wait.
    requests_max: usize,
}

#[derive(Debug)]
struct State<T> {
    waiting: Vec<T>,
    sleeps: bool,
    open: bool,
}

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// As many wait as may.
    Full,
    /// Nobody takes commands any more.
    Closed,
}

impl<T> Inbox<T> {
    pub(crate) const fn new(requests_max: usize) -> Self {
        let state = State { waiting: Vec::new(), sleeps: false, open: true };
        Self { state: Mutex::new(state), arrived: Condvar::new(), requests_max }
    }

    /// Puts a client's request in.
    pub(crate) fn request(&self, command: T) -> Result<(), Refused> {
        let state = self.lock();
        if !state.open {
            return Err(Refused::Closed);
        }
        if state.waiting.len() >= self.requests_max {
            return Err(Refused::Full);
        }
        self.put(state, command);
        Ok(())
    }

    /// Puts in what one of the node's own threads reports. There are only so many of these at a time.
    pub(crate) fn report(&self, command: T) {
        let state = self.lock();
        if state.open {
            self.put(state, command);
        }
    }

    fn put(&self, mut state: MutexGuard<'_, State<T>>, command: T) {
        state.waiting.push(command);
        let wake = std::mem::take(&mut state.sleeps);
        drop(state);
        if wake {
            self.arrived.notify_one();
        }
    }

    /// Moves everything that waits into `commands`, which must be empty; waits up to `at_most` if nothing does, for
    /// ever without one.
    pub(crate) fn take(&self, commands: &mut Vec<T>, at_most: Option<Duration>) {
        assert!(commands.is_empty(), "the commands before have been done");
        let mut state = self.lock();
        if state.waiting.is_empty() && at_most != Some(Duration::ZERO) {
            state.sleeps = true;
            state = match at_most {
                Some(at_most) => {
                    self.arrived
                        .wait_timeout_while(state, at_most, |state| state.sleeps)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
                None => self
                    .arrived
                    .wait_while(state, |state| state.sleeps)
                    .unwrap_or_else(PoisonError::into_inner),
            };
            state.sleeps = false;
        }
        std::mem::swap(&mut state.waiting, commands);
    }

    /// Takes no further command; gives back those that nobody will take.
    pub(crate) fn close(&self) -> Vec<T> {
        let mut state = self.lock();
        state.open = false;
        std::mem::take(&mut state.waiting)
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // A push or a swap leaves a whole state even if its caller panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::sync::{explore, once, thread};

    #[test]
    fn requests_are_bounded_and_reports_are_not() {
        once(|| {
            let inbox = Inbox::new(2);
            assert_eq!(inbox.request(1), Ok(()));
            assert_eq!(inbox.request(2), Ok(()));
            assert_eq!(inbox.request(3), Err(Refused::Full));
            inbox.report(4);
            let mut commands = Vec::new();
            inbox.take(&mut commands, None);
            assert_eq!(commands, [1, 2, 4]);
            inbox.report(5);
            assert_eq!(inbox.close(), [5]);
            assert_eq!(inbox.request(6), Err(Refused::Closed));
        });
    }

    #[test]
    fn a_sleeping_thread_is_woken_by_what_arrives() {
        const EACH: usize = 4;
        explore(|| {
            let inbox = Arc::new(Inbox::new(2));
            let tellers: Vec<_> = (0..2)
                .map(|teller| {
                    let inbox = Arc::clone(&inbox);
                    thread::spawn(move || (0..EACH).for_each(|place| inbox.report((teller, place))))
                })
                .collect();
            let (mut all, mut commands) = (Vec::new(), Vec::new());
            while all.len() < 2 * EACH {
                inbox.take(&mut commands, None);
                assert!(!commands.is_empty(), "woken for nothing");
                all.append(&mut commands);
            }
            for (teller, told) in tellers.into_iter().enumerate() {
                told.join().unwrap();
                let of_one = all.iter().filter(|(of, _)| *of == teller).map(|(_, place)| *place);
                assert!(of_one.eq(0..EACH), "each once, in order: {all:?}");
            }
        });
    }

    #[test]
    fn what_was_taken_is_given_out_once_and_what_comes_after_the_end_is_refused() {
        const EACH: usize = 3;
        explore(|| {
            let inbox = Arc::new(Inbox::new(2));
            let askers: Vec<_> = (0..2)
                .map(|asker| {
                    let inbox = Arc::clone(&inbox);
                    thread::spawn(move || {
                        let ask = |place: &usize| inbox.request((asker, *place)) == Ok(());
                        (0..EACH).filter(ask).map(|place| (asker, place)).collect::<Vec<_>>()
                    })
                })
                .collect();
            let (mut all, mut commands) = (Vec::new(), Vec::new());
            for _ in 0..2 {
                inbox.take(&mut commands, Some(Duration::ZERO));
                assert!(commands.len() <= 2, "more waited than may: {commands:?}");
                all.append(&mut commands);
            }
            all.extend(inbox.close());
            let asked: Vec<_> =
                askers.into_iter().flat_map(|asker| asker.join().unwrap()).collect();
            all.sort_unstable();
            assert_eq!(all, asked, "what was taken, and what was given out");
        });
    }
}
