//! The host core under the local engine and under scripted ones, without threads.

mod desk;
mod elsewhere;
mod ends;
mod epochs;
mod exactly_once;
mod order;
mod reads;
mod scripted;
mod subscriptions;
