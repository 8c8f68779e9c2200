//! The host core under the local engine and under scripted ones, without threads.

mod desk;
mod exactly_once;
