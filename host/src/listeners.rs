//! Event streams: each listener has a bounded queue that keeps the newest.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use futures_core::Stream;
use quorate_replicator::{Event, EventStream};

use crate::sync::{Mutex, MutexGuard, PoisonError};

/// Most events that wait for a listener.
const WAITING_MAX: usize = 256;

/// Those who listen to a node's events.
#[derive(Debug, Default)]
pub(crate) struct Listeners(Mutex<Listening>);

#[derive(Debug, Default)]
struct Listening {
    queues: Vec<Weak<Queue>>,
    over: bool,
}

#[derive(Debug, Default)]
struct Queue(Mutex<QueueState>);

#[derive(Debug, Default)]
struct QueueState {
    events: VecDeque<Event>,
    missed: u64,
    over: bool,
    reader: Option<Waker>,
}

impl Listeners {
    /// A stream of what is told from now on.
    pub(crate) fn listen(&self) -> EventStream {
        let mut listening = lock(&self.0);
        let queue = Arc::new(Queue::default());
        lock(&queue.0).over = listening.over;
        listening.queues.push(Arc::downgrade(&queue));
        Box::pin(Listener(queue))
    }

    /// Tells everyone; the oldest events of a slow listener make room.
    pub(crate) fn tell(&self, event: &Event) {
        self.each(|queue| {
            if queue.events.len() == WAITING_MAX {
                queue.events.pop_front();
                queue.missed += 1;
            }
            queue.events.push_back(event.clone());
        });
    }

    /// Ends all streams after what is in them.
    pub(crate) fn end(&self) {
        lock(&self.0).over = true;
        self.each(|queue| queue.over = true);
    }

    fn each(&self, mut change: impl FnMut(&mut QueueState)) {
        lock(&self.0).queues.retain(|queue| {
            let Some(queue) = queue.upgrade() else { return false };
            let mut queue = lock(&queue.0);
            change(&mut queue);
            if let Some(reader) = queue.reader.take() {
                reader.wake();
            }
            true
        });
    }
}

#[derive(Debug)]
struct Listener(Arc<Queue>);

impl Stream for Listener {
    type Item = Event;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        let mut queue = lock(&self.0.0);
        if queue.missed > 0 {
            let events = std::mem::take(&mut queue.missed);
            return Poll::Ready(Some(Event::Missed { events }));
        }
        match queue.events.pop_front() {
            Some(event) => Poll::Ready(Some(event)),
            None if queue.over => Poll::Ready(None),
            None => {
                queue.reader = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change under these locks is one step, so there is no half of it to be seen.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::task::Wake;

    use super::*;
    use crate::sync::{Condvar, explore, once, thread};

    fn next(stream: &mut EventStream) -> Poll<Option<Event>> {
        stream.as_mut().poll_next(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_slow_listener_keeps_the_newest_and_learns_how_many_it_missed() {
        once(|| {
            let listeners = Listeners::default();
            let mut stream = listeners.listen();
            for full in [true, false].into_iter().cycle().take(WAITING_MAX + 3) {
                listeners.tell(&Event::Storage { full });
            }
            assert_eq!(next(&mut stream), Poll::Ready(Some(Event::Missed { events: 3 })));
            for place in 0..WAITING_MAX {
                let full = (place + 3) % 2 == 0;
                assert_eq!(next(&mut stream), Poll::Ready(Some(Event::Storage { full })));
            }
            assert_eq!(next(&mut stream), Poll::Pending);
            listeners.end();
            assert_eq!(next(&mut stream), Poll::Ready(None));
            assert_eq!(next(&mut listeners.listen()), Poll::Ready(None));
        });
    }

    /// A thread that sleeps until its task is to be looked at again.
    #[derive(Default)]
    struct Sleeper(Mutex<bool>, Condvar);

    impl Wake for Sleeper {
        fn wake(self: Arc<Self>) {
            *lock(&self.0) = true;
            self.1.notify_one();
        }
    }

    #[test]
    fn a_listener_that_sleeps_is_woken_by_each_event_and_by_the_end() {
        explore(|| {
            let listeners = Arc::new(Listeners::default());
            let mut stream = listeners.listen();
            let teller = {
                let listeners = Arc::clone(&listeners);
                thread::spawn(move || {
                    listeners.tell(&Event::Storage { full: true });
                    listeners.tell(&Event::Storage { full: false });
                    listeners.end();
                })
            };
            // One who comes late hears the end at least.
            let late = {
                let listeners = Arc::clone(&listeners);
                thread::spawn(move || hear(&mut listeners.listen()))
            };
            let full = |event: &Event| matches!(event, Event::Storage { full: true });
            let heard: Vec<_> = hear(&mut stream).iter().map(full).collect();
            assert_eq!(heard, [true, false]);
            assert!(late.join().unwrap().len() <= 2);
            teller.join().unwrap();
        });
    }

    /// Everything up to the end of a stream.
    fn hear(stream: &mut EventStream) -> Vec<Event> {
        let sleeper = Arc::new(Sleeper::default());
        let waker = Waker::from(Arc::clone(&sleeper));
        let mut heard = Vec::new();
        loop {
            match stream.as_mut().poll_next(&mut Context::from_waker(&waker)) {
                Poll::Ready(Some(event)) => heard.push(event),
                Poll::Ready(None) => return heard,
                Poll::Pending => {
                    let woken = sleeper.1.wait_while(lock(&sleeper.0), |woken| !*woken);
                    *woken.unwrap_or_else(PoisonError::into_inner) = false;
                }
            }
        }
    }
}
