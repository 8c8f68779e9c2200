//! The tokio shell around a host core: threads, channels and files.
