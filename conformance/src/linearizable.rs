//! Whether what clients were told of keys and values can have happened at one moment each, between call and answer.
//!
//! Each key is judged alone, which is enough where every operation has one key. Values are numbers, and within a key each is
//! written by one call: so a swap that compares revisions is told here as one that compares values.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use porcupine_rs::{CheckResult, Model, Operation, check_operations_timeout};

/// How long one key is looked at. "Don't know" is a failure, so this is only long.
const SEARCH_MAX: Duration = Duration::from_secs(120);

/// What one client asked of one key, and what it was told.
///
/// Calls that certainly did nothing, and reads without an answer, say nothing about the others: they are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvCall {
    /// Who.
    pub client: u32,
    /// Of which key.
    pub key: u32,
    /// What.
    pub what: What,
    /// When it was asked, in any unit that all clients share.
    pub called: i64,
    /// When it was answered; none if it never was, so that it may happen at any time after it was asked, or never.
    pub answered: Option<i64>,
}

/// What was asked, and what was told. What was not told is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Sets the key.
    Put {
        /// To this.
        value: u64,
    },
    /// Deletes the key.
    Delete {
        /// Whether it was there.
        existed: Option<bool>,
    },
    /// Sets the key if it holds what was expected.
    Swap {
        /// None expects that it is not there.
        expected: Option<u64>,
        /// To this.
        value: u64,
        /// Whether it did.
        done: Option<bool>,
    },
    /// Reads the key.
    Get {
        /// What it held.
        seen: Option<u64>,
    },
}

/// Judges a history, in any order.
///
/// # Errors
///
/// The calls of a key cannot be put in an order, or none was found in time; with these calls.
pub fn linearizable(calls: &[KvCall]) -> Result<(), NotLinearizable> {
    let mut keys: BTreeMap<u32, Vec<Operation<Register>>> = BTreeMap::new();
    for call in calls {
        keys.entry(call.key).or_default().push(Operation {
            client_id: Some(call.client),
            call_time: call.called,
            return_time: call.answered.unwrap_or(i64::MAX),
            op: call.what,
            metadata: None,
        });
    }
    for (key, history) in keys {
        let why = match check_operations_timeout::<Register>(&history, SEARCH_MAX) {
            CheckResult::Ok => continue,
            CheckResult::Illegal => "no order of these calls explains what was told",
            CheckResult::Unknown => "no order was found in time, which says nothing",
        };
        let mut calls: Vec<_> = calls.iter().filter(|call| call.key == key).cloned().collect();
        calls.sort_by_key(|call| call.called);
        return Err(NotLinearizable { key, why, calls });
    }
    Ok(())
}

/// A key whose calls have no order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotLinearizable {
    /// Which key.
    pub key: u32,
    /// What is wrong.
    pub why: &'static str,
    /// Its calls, in the order in which they were asked.
    pub calls: Vec<KvCall>,
}

impl fmt::Display for NotLinearizable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "key {}: {}", self.key, self.why)?;
        for KvCall { client, what, called, answered, .. } in &self.calls {
            match answered {
                Some(answered) => writeln!(f, "{called}..{answered} client {client}: {what:?}")?,
                None => writeln!(f, "{called}.. client {client}: {what:?}")?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for NotLinearizable {}

/// One key.
#[derive(Clone, Copy, Debug)]
struct Register;

impl Model for Register {
    type State = Option<u64>;
    type Op = What;
    type Metadata = ();

    fn init() -> Self::State {
        None
    }

    fn step(state: &Self::State, what: &What) -> (bool, Self::State) {
        match *what {
            What::Put { value } => (true, Some(value)),
            What::Delete { existed } => {
                (existed.is_none_or(|existed| existed == state.is_some()), None)
            }
            What::Swap { expected, value, done } => {
                let holds = *state == expected;
                let after = if holds { Some(value) } else { *state };
                (done.is_none_or(|done| done == holds), after)
            }
            What::Get { seen } => (seen == *state, *state),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(client: u32, what: What, called: i64, answered: i64) -> KvCall {
        KvCall { client, key: 0, what, called, answered: Some(answered) }
    }

    fn put(value: u64) -> What {
        What::Put { value }
    }

    fn get(seen: u64) -> What {
        What::Get { seen: Some(seen) }
    }

    fn judge(calls: &[KvCall]) -> bool {
        linearizable(calls).is_ok()
    }

    #[test]
    fn a_read_sees_the_newest_or_what_is_written_at_the_same_time() {
        let writes = [call(1, put(1), 0, 10), call(1, put(2), 20, 30)];
        let with = |read: KvCall| judge(&[writes.as_slice(), &[read]].concat());
        assert!(with(call(2, get(1), 12, 18)));
        assert!(with(call(2, get(1), 25, 40)));
        assert!(with(call(2, get(2), 25, 40)));
        assert!(!with(call(2, get(1), 31, 40)), "a stale read");
        assert!(!with(call(2, get(2), 12, 18)), "a read of what comes later");
        assert!(!with(call(2, get(3), 31, 40)), "a read of what nobody wrote");
        assert!(!with(call(2, What::Get { seen: None }, 31, 40)), "a write that is lost");
        assert!(!judge(&[
            writes[0].clone(),
            call(1, put(2), 20, 90),
            call(2, get(2), 30, 40),
            call(3, get(1), 50, 60),
        ]));
    }

    #[test]
    fn what_is_unknown_happens_late_or_never_but_once() {
        let unknown = KvCall { answered: None, ..call(1, put(1), 0, 0) };
        let nothing = call(2, What::Get { seen: None }, 10, 11);
        assert!(judge(std::slice::from_ref(&unknown)));
        assert!(judge(&[unknown.clone(), nothing.clone(), call(2, get(1), 12, 13)]));
        assert!(!judge(&[
            unknown.clone(),
            call(2, get(1), 12, 13),
            call(2, What::Get { seen: None }, 14, 15)
        ]));
        let delete = call(2, What::Delete { existed: Some(true) }, 12, 13);
        assert!(judge(&[unknown.clone(), nothing, delete.clone()]));
        // It cannot be there a second time.
        assert!(!judge(&[unknown, delete, call(2, get(1), 14, 15)]));
    }

    #[test]
    fn a_swap_says_what_was_there() {
        let swap = |expected, value, done| What::Swap { expected, value, done };
        let first = call(1, swap(None, 1, Some(true)), 0, 1);
        let with = |what| judge(&[first.clone(), call(2, what, 2, 3)]);
        assert!(with(swap(Some(1), 2, Some(true))));
        assert!(with(swap(Some(7), 2, Some(false))));
        assert!(!with(swap(None, 2, Some(true))), "two made the same key");
        assert!(!with(swap(Some(1), 2, Some(false))), "refused although it holds");
        assert!(with(swap(Some(1), 2, None)));
        assert!(!with(What::Delete { existed: Some(false) }));
    }

    #[test]
    fn the_key_that_is_wrong_is_named() {
        let good = KvCall { key: 4, ..call(1, put(1), 0, 1) };
        let bad = KvCall { key: 5, ..call(1, get(1), 0, 1) };
        let error = linearizable(&[good, bad.clone()]).unwrap_err();
        assert_eq!((error.key, error.calls.as_slice()), (5, &[bad][..]));
        assert!(error.to_string().contains("0..1 client 1: Get { seen: Some(1) }"), "{error}");
    }
}
