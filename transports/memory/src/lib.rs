//! The memory transport: a seeded hub with delay, loss, duplication, reordering and partitions.
