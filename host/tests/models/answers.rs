//! Those who propose, and the thread that answers them: everyone gets one answer, and a true one.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::engine_thread::{Command, ForGroup};
use crate::inbox::{Inbox, Refused};
use crate::sync::{Mutex, explore, thread};

/// Why there is no decision, as a caller learns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    Refused(Refused),
    CameTooLate,
    Unknown,
}

/// As `HostNode::ask` does it.
fn propose(inbox: &Inbox<Command>, frame: u64) -> Result<u64, Lost> {
    let (who, answer) = oneshot::channel();
    inbox.request(Command::Group(0, ForGroup::Propose(frame, who))).map_err(Lost::Refused)?;
    shuttle::future::block_on(answer).unwrap_or(Err(Lost::Unknown))
}

/// As the engine thread does it, up to `Close`; one that `dies` ends after so many commands, answering nothing more.
fn serve(inbox: &Inbox<Command>, done: &Mutex<BTreeSet<u64>>, dies: Option<usize>) {
    let (mut commands, mut waiting, mut taken) = (Vec::new(), Vec::new(), 0);
    let mut closing = false;
    while !closing {
        inbox.take(&mut commands, None);
        for command in commands.drain(..) {
            taken += 1;
            match command {
                Command::Close => closing = true,
                Command::Group(_, ForGroup::Propose(frame, who)) => {
                    let is_new = done.lock().unwrap().insert(frame);
                    assert!(is_new, "frame {frame} is done twice");
                    waiting.push((frame, who));
                }
                Command::Group(_, other) => panic!("nobody sends {other:?}"),
            }
        }
        if dies.is_some_and(|dies| taken >= dies) {
            break;
        }
        for (frame, who) in waiting.drain(..) {
            who.send(Ok(frame)).expect("it waits");
        }
    }
    for command in inbox.close() {
        if let Command::Group(_, ForGroup::Propose(_, who)) = command {
            who.send(Err(Lost::CameTooLate)).expect("it waits");
        }
    }
}

fn everyone_is_told(dies: Option<usize>) {
    explore(move || {
        let inbox = Arc::new(Inbox::new(2));
        let done = Arc::new(Mutex::new(BTreeSet::new()));
        let engine = {
            let (inbox, done) = (Arc::clone(&inbox), Arc::clone(&done));
            thread::spawn(move || serve(&inbox, &done, dies))
        };
        let callers: Vec<_> = (0..3)
            .map(|caller| {
                let inbox = Arc::clone(&inbox);
                thread::spawn(move || {
                    [10 * caller, 10 * caller + 1].map(|frame| (frame, propose(&inbox, frame)))
                })
            })
            .collect();
        let closer = {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || inbox.report(Command::Close))
        };
        let told: Vec<_> = callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect();
        closer.join().unwrap();
        engine.join().unwrap();
        let done = done.lock().unwrap();
        for (frame, told) in told {
            match told {
                Ok(decided) => assert_eq!(decided, frame),
                Err(Lost::Refused(_) | Lost::CameTooLate) => {
                    assert!(!done.contains(&frame), "frame {frame} is done, and was refused");
                }
                Err(Lost::Unknown) => assert!(dies.is_some(), "frame {frame} was not answered"),
            }
        }
        assert!(matches!(propose(&inbox, 99), Err(Lost::Refused(Refused::Closed))));
    });
}

#[test]
fn everyone_is_told_what_became_of_it_while_the_node_closes() {
    everyone_is_told(None);
}

#[test]
fn nobody_is_told_a_lie_when_the_thread_dies() {
    for dies in 1..=3 {
        everyone_is_told(Some(dies));
    }
}
